"""The texts around a question, and the chat messages made of them for leader and agents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.files import read_yaml
from openrlhf_mlpo.prompts.untrusted import defuse
from openrlhf_mlpo.verify import extract_answer

SHOW_CHOICES = ("full", "answer")
NO_ANSWER = "(no answer)"


@dataclass(frozen=True)
class PromptTemplate:
    """The texts around a question; `{…}` marks what is filled in. A YAML file may replace any of them.

    `separator` joins the parts; `response` is repeated once per agent of the draw, `history` shows the leader its own
    last output in rounds t > 0, and `revision` shows an agent its last response and the leader's last output.
    """

    name: str
    separator: str = "\n"
    system: str = ""
    question: str = "{question}"
    team: str = "{responses}"
    response: str = "{number}: {text}"
    history: str = "{output}"
    instruction_team: str = ""
    instruction_solo: str = ""
    agent_system: str = ""
    agent_instruction: str = ""
    revision: str = "{own}\n{leader}"


_FORM = (
    "Reason step by step inside <think> and </think>; when you notice a mistake, say so, go back and correct it. Then "
    "give only the final answer inside <answer> and </answer>."
)


BUILTIN_TEMPLATES = {
    "chat": PromptTemplate(
        name="chat",
        separator="\n\n",
        team="Your team answered this question. Any of them may be wrong.\n\n{responses}",
        response="[response {number}]\n{text} \n[end of response {number}]",
        history="Your own answer in the last round:\n\n[last output]\n{output} \n[end of last output]",
        instruction_team="Compare the responses, check what they claim, and decide for yourself. " + _FORM,
        instruction_solo=_FORM,
        agent_instruction="Reason step by step. End with the final answer alone inside <answer> and </answer>.",
        revision=(
            "You answered before:\n\n[your last response]\n{own} \n[end of your last response]\n\nThe leader of your "
            "team, who saw all responses, then wrote:\n\n[leader]\n{leader} \n[end of leader]\n\nEither may be wrong: "
            "check both, then answer again."
        ),
    ),
    # For models of a few hundred thousand parameters, as in the CPU quickstart: no instructions, few tokens.
    "compact": PromptTemplate(
        name="compact",
        # The number right behind the text: so a tiny model learns soonest to find the number that belongs to an agent's
        # words, and the answer that belongs to a number.
        response="{text} {number}",
        history="leader : {output}",
        revision="agent : {own}\nleader : {leader}",
    ),
}


_PLACEHOLDERS = {
    "question": ("question",),
    "team": ("responses",),
    "response": ("number", "text"),
    "history": ("output",),
    "revision": ("leader", "own"),
}


@lru_cache(maxsize=16)
def load_template(name_or_path: str) -> PromptTemplate:
    """A built-in template by name (`chat`, `compact`) or a YAML file whose keys replace those of `chat`.

    Raises UserError for an unknown name, an unreadable file, an unknown key or a missing placeholder.
    """
    if name_or_path in BUILTIN_TEMPLATES:
        return BUILTIN_TEMPLATES[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise UserError(
            f"template {name_or_path!r} is neither built in ({', '.join(BUILTIN_TEMPLATES)}) nor a YAML file"
        )
    given = read_yaml(path, str(path), "not a readable YAML file")
    known = {field.name for field in fields(PromptTemplate)} - {"name"}
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise UserError(f"{path}: a template maps names to texts; the names are {', '.join(sorted(known))}")
    if unknown := sorted(set(given) - known):
        raise UserError(f"{path}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(known))}")
    for key, wanted in _PLACEHOLDERS.items():
        for placeholder in wanted:
            if key in given and "{" + placeholder + "}" not in given[key]:
                raise UserError(f"{path}: {key} must contain {{{placeholder}}}")
    return replace(BUILTIN_TEMPLATES["chat"], **given, name=str(path))


def _fill(pattern: str, /, **values: str) -> str:
    """Fill `{name}` in one pass, so that a value containing `{…}` is never filled in turn."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), pattern)


def agent_messages(
    template: PromptTemplate, question: str, *, own: str | None = None, leader: str | None = None
) -> list[dict]:
    """Chat messages for an agent: the question, and in rounds t > 0 its last response and the leader's last output."""
    parts = [_fill(template.question, question=defuse(question).strip())]
    if own is not None or leader is not None:
        parts.append(_fill(template.revision, own=defuse(own or "").strip(), leader=defuse(leader or "").strip()))
    parts.append(template.agent_instruction)
    return chat_messages(template, template.agent_system, parts)


def with_system(system: str, messages: list[dict]) -> list[dict]:
    """The messages with an agent's own system message ("": none) in place of the template's."""
    if not system:
        return messages
    rest = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": system}, *rest]


def shown(responses: Sequence[str], show: str) -> Sequence[str]:
    """What the leader sees of each response: all of it ("full"), or its final answer alone ("answer")."""
    if show == "full":
        return responses
    return [extract_answer(text) or NO_ANSWER for text in responses]


def leader_messages(
    template: PromptTemplate,
    question: str,
    responses: Sequence[str],
    *,
    last_output: str | None = None,
    show: str = "full",
) -> list[dict]:
    """Chat messages for the leader: question, the draw's responses (none: solo), its own last output in rounds t > 0.

    Rounds travel in the user message, because chat templates such as Qwen3's drop earlier `<think>` blocks.
    `show`: see `shown`.
    """
    texts = [defuse(text).strip() for text in shown(responses, show)]
    last = None if last_output is None else defuse(last_output).strip()
    return defused_messages(template, defuse(question).strip(), texts, last)


def defused_messages(template: PromptTemplate, question: str, texts: Sequence[str], last: str | None) -> list[dict]:
    """`leader_messages` of texts that `defuse` has made harmless already."""
    parts = [_fill(template.question, question=question)]
    if last is not None:  # before the responses, as it was: the agents wrote theirs with it in sight
        parts.append(_fill(template.history, output=last))
    if texts:
        blocks = [_fill(template.response, number=str(number), text=text) for number, text in enumerate(texts, 1)]
        parts.append(_fill(template.team, responses=template.separator.join(blocks)))
    parts.append(template.instruction_team if texts else template.instruction_solo)
    return chat_messages(template, template.system, parts)


def chat_messages(template: PromptTemplate, system: str, parts: Sequence[str]) -> list[dict]:
    messages = [{"role": "user", "content": template.separator.join(part for part in parts if part)}]
    return [{"role": "system", "content": system}, *messages] if system else messages
