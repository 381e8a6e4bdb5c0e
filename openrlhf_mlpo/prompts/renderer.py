"""Prompts of the leader and the agents: the texts, making untrusted text harmless, and fitting a token budget.

Agents' responses are untrusted text inside the leader's prompt. Two rules keep them in their place:
`defuse` leaves no string in them that a tokenizer or our own parser would read as control, and `PromptRenderer` cuts
the responses (never the question) until the rendered prompt fits, keeping each response's end, where the answer is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from openrlhf_mlpo.errors import UserError

SHOW_CHOICES = ("full", "answer")
# A shown response always keeps at least this many tokens of its end: an answer block fits in it.
MIN_RESPONSE_TOKENS = 16

# Tags with a meaning to our own parsing or to OpenRLHF's (`<image>`): shown in square brackets when quoted.
_BLOCK_TAG = re.compile(r"<\s*(/?)\s*(think|answer|image|video)\b([^<>]{0,64})>", re.IGNORECASE)
# Control tokens of chat templates in general (<|im_end|>, <|eot_id|>, <start_of_turn>, [INST], <s>, …): a pool may be
# shown to a leader of any family, so the forms are broken whether or not this leader's tokenizer knows them.
_CONTROL = re.compile(
    r"<(?=\|[^<>\s]{1,64}\|>)|<(?=/?(?:s|bos|eos|pad|unk|mask|start_of_turn|end_of_turn|start_of_image|end_of_image)>)"
    r"|\[(?=/?(?:INST|SYS|TOOL_CALLS|AVAILABLE_TOOLS|IMG)\])|<(?=<SYS>>|</SYS>>)",
    re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# What `defuse` makes of our own tags; a small tokenizer may well have them as words.
_QUOTED_TAGS = frozenset(f"[{slash}{tag}]" for slash in ("", "/") for tag in ("think", "answer"))
_MARKUP = re.compile(r"^(<[^<>]+>|\[[^\[\]]+\])$")


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
        question="{question}",
        team="Your team answered this question. Any of them may be wrong.\n\n{responses}",
        response="[response {number}]\n{text} \n[end of response {number}]",
        history="Your own answer in the last round:\n\n[last output]\n{output} \n[end of last output]",
        instruction_team="Compare the responses, check what they claim, and decide for yourself. " + _FORM,
        instruction_solo=_FORM,
        agent_instruction=("Reason step by step. End with the final answer alone inside <answer> and </answer>."),
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
    "question": {"question"},
    "team": {"responses"},
    "response": {"number", "text"},
    "history": {"output"},
    "revision": {"own", "leader"},
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
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable YAML file: {' '.join(str(error).split())}") from None
    known = {field.name for field in fields(PromptTemplate)} - {"name"}
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise UserError(f"{path}: a template maps names to texts; the names are {', '.join(sorted(known))}")
    if unknown := sorted(set(given) - known):
        raise UserError(f"{path}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(known))}")
    for key, wanted in _PLACEHOLDERS.items():
        for placeholder in sorted(wanted):
            if key in given and "{" + placeholder + "}" not in given[key]:
                raise UserError(f"{path}: {key} must contain {{{placeholder}}}")
    base = BUILTIN_TEMPLATES["chat"]
    return PromptTemplate(**{**base.__dict__, **given, "name": str(path)})


def _fill(pattern: str, /, **values: str) -> str:
    """Fill `{name}` in one pass, so that a value containing `{…}` is never filled in turn."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), pattern)


def defuse(text: str, control_tokens: Iterable[str] = ()) -> str:
    """Untrusted text, changed so that nothing in it can act as control; ordinary text comes back as it was.

    `<think>`, `<answer>`, `<image>` and our other tags become `[think]`, …; a control token of this tokenizer
    (`control_tokens`) or of a common chat template gets a blank after its first character; NUL and lone surrogates,
    which tokenizers refuse, become U+FFFD.
    """
    tokens = tuple(control_tokens)
    text = text.replace("\x00", "\ufffd")
    if text.isascii():
        return _defuse(text, tokens)
    text = _defuse(_SURROGATE.sub("\ufffd", text), tokens)
    # A tokenizer that normalises (NFKC) would turn look-alikes such as a full-width `＜` into the real thing.
    folded = unicodedata.normalize("NFKC", text)
    return _defuse(folded, tokens) if _is_live(folded, tokens) else text


def _defuse(text: str, tokens: tuple[str, ...]) -> str:
    text = _BLOCK_TAG.sub(lambda m: f"[{m[1]}{m[2]}{m[3]}]", text)
    pattern = _control_pattern(tokens)
    if not _CONTROL.search(text) and not (pattern and pattern.search(text)):
        return text
    for _ in range(4):  # breaking one token can, in contrived text, put another together
        broken = _CONTROL.sub(lambda m: m[0] + " ", text)
        if pattern:
            broken = pattern.sub(lambda m: m[0][:1] + " " + m[0][1:], broken)
        if broken == text:
            break
        text = broken
    return text


def _is_live(text: str, tokens: tuple[str, ...]) -> bool:
    pattern = _control_pattern(tokens)
    return bool(_BLOCK_TAG.search(text) or _CONTROL.search(text) or (pattern and pattern.search(text)))


@lru_cache(maxsize=16)
def _control_pattern(tokens: tuple[str, ...]) -> re.Pattern | None:
    long_first = sorted((token for token in set(tokens) if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, long_first))) if long_first else None


def control_tokens(tokenizer) -> tuple[str, ...]:
    """The strings this Hugging Face tokenizer reads as one control token wherever they stand in a text.

    All special tokens, and added tokens in the form of markup (Qwen's `<tool_call>` is added but not special). Added
    plain words and runs of white space (Gemma has many) are ordinary text and stay.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {str(token) for token in added if token.special or _MARKUP.match(str(token))}
    names -= _QUOTED_TAGS
    return tuple(sorted(names | {str(token) for token in tokenizer.all_special_tokens if len(str(token)) > 1}))


def agent_messages(
    template: PromptTemplate, question: str, *, own: str | None = None, leader: str | None = None
) -> list[dict]:
    """Chat messages for an agent: the question, and in rounds t > 0 its last response and the leader's last output."""
    parts = [_fill(template.question, question=defuse(question).strip())]
    if own is not None or leader is not None:
        parts.append(_fill(template.revision, own=defuse(own or "").strip(), leader=defuse(leader or "").strip()))
    parts.append(template.agent_instruction)
    return _messages(template, template.agent_system, parts)


def leader_messages(
    template: PromptTemplate, question: str, responses: Sequence[str], *, last_output: str | None = None
) -> list[dict]:
    """Chat messages for the leader: question, the draw's responses (none: solo), its own last output in rounds t > 0.

    Rounds travel in the user message, because chat templates such as Qwen3's drop earlier `<think>` blocks.
    """
    last = None if last_output is None else defuse(last_output).strip()
    parts = _leader_parts(template, defuse(question).strip(), [defuse(text).strip() for text in responses], last)
    return _messages(template, template.system, parts)


def _leader_parts(template: PromptTemplate, question: str, texts: Sequence[str], last: str | None) -> list[str]:
    """The parts of a leader prompt out of texts that `defuse` has made harmless already."""
    parts = [_fill(template.question, question=question)]
    if last is not None:  # before the responses, as it was: the agents wrote theirs with it in sight
        parts.append(_fill(template.history, output=last))
    if texts:
        blocks = [_fill(template.response, number=str(number), text=text) for number, text in enumerate(texts, 1)]
        parts.append(_fill(template.team, responses=template.separator.join(blocks)))
    parts.append(template.instruction_team if texts else template.instruction_solo)
    return parts


def _messages(template: PromptTemplate, system: str, parts: Sequence[str]) -> list[dict]:
    messages = [{"role": "user", "content": template.separator.join(part for part in parts if part)}]
    return [{"role": "system", "content": system}, *messages] if system else messages


class PromptRenderer:
    """Renders leader prompts with the leader's chat template inside a budget of tokens.

    OpenRLHF cuts a prompt that is too long from the left, which loses chat header and question with only a warning;
    so a prompt has to fit before it gets there.
    """

    def __init__(self, tokenizer, template: PromptTemplate, max_prompt_tokens: int, show: str = "full"):
        """`max_prompt_tokens`: what a rendered prompt may have, by `tokenizer` (`max_len - max_new_tokens`).

        `show`: "full" shows whole responses, "answer" only their final answers (the paper's ablation).
        Raises UserError when the tokenizer has no chat template or `show` is unknown.
        """
        if show not in SHOW_CHOICES:
            raise UserError(f"show must be one of {', '.join(SHOW_CHOICES)}, not {show!r}")
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; use an instruct model")
        self.tokenizer = tokenizer
        self.template = template
        self.max_prompt_tokens = max_prompt_tokens
        self.show = show
        self.control_tokens = control_tokens(tokenizer)
        self._frame = self._split_frame()

    def render(self, question: str, responses: Sequence[str], last_output: str | None = None) -> str:
        """The leader prompt as text, at most `max_prompt_tokens` tokens long.

        Longest responses are cut first, from their beginning. Raises UserError when frame, question and
        `MIN_RESPONSE_TOKENS` of each response do not fit.
        """
        question, *texts = (defuse(text, self.control_tokens).strip() for text in (question, *responses))
        last = None if last_output is None else defuse(last_output, self.control_tokens).strip()
        prompt = self._text(question, texts, last)
        if self._surely_fits(prompt) or self._excess(prompt) <= 0:
            return prompt
        cuttable = texts if last is None else [*texts, last]
        tokens = _encode(self.tokenizer, cuttable)
        lengths = [len(each) for each in tokens]
        room = self._room(question, self._text(question, [""] * len(texts), None if last is None else ""), lengths)
        while True:
            cut = [_end_of(self.tokenizer, *each) for each in zip(cuttable, tokens, share_budget(lengths, room))]
            prompt = self._text(question, cut[: len(texts)], None if last is None else cut[-1])
            excess = self._excess(prompt)
            if excess <= 0:
                return prompt
            room -= excess  # pieces can tokenize to a few more tokens together than apart

    def check_fits(self, question: str, team_size: int) -> None:
        """Raise UserError when this question cannot be rendered with `team_size` responses of any length."""
        frame = self._text(defuse(question, self.control_tokens).strip(), [""] * team_size, None)
        if not self._surely_fits(frame, team_size * MIN_RESPONSE_TOKENS):
            self._room(question, frame, [MIN_RESPONSE_TOKENS] * team_size)

    def _room(self, question: str, frame: str, lengths: Sequence[int]) -> int:
        """Tokens left beside `frame` for texts of these lengths; UserError when too few for their endings."""
        room = -self._excess(frame)
        if room < sum(min(length, MIN_RESPONSE_TOKENS) for length in lengths):
            raise UserError(
                f"a leader prompt cannot fit {self.max_prompt_tokens} tokens: the question {question[:60]!r} and the "
                f"frame leave {max(room, 0)} for {len(lengths)} texts; raise --data.max_len or lower "
                "--rollout.max_new_tokens"
            )
        return room

    def _surely_fits(self, text: str, more: int = 0) -> bool:
        """Whether `text` and `more` tokens fit whatever the tokenizer makes of the text: so it need not be asked.

        A token covers at least one character of the normalised text, or one byte of it, and normalisation makes ASCII
        no longer, but for one blank that some put in front. Other text can grow (NFC: 3 times, NFKC: 11 times).
        """
        return text.isascii() and len(text) + 1 + more <= self.max_prompt_tokens

    def _excess(self, text: str) -> int:
        """Tokens of `text` over the budget; negative: room."""
        return count_tokens(self.tokenizer, text) - self.max_prompt_tokens

    def _text(self, question: str, texts: Sequence[str], last: str | None) -> str:
        messages = _messages(self.template, self.template.system, _leader_parts(self.template, question, texts, last))
        if self._frame is None:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._frame[0] + messages[-1]["content"].strip() + self._frame[1]

    def _split_frame(self) -> tuple[str, str] | None:
        """Text before and after the user content, or None where the template does more than insert it.

        Rendering Jinja costs more than everything else about a short prompt; the frame is the same for all.
        """
        mark = "Q7f3 mark"

        def rendered(content: str) -> str:
            messages = _messages(self.template, self.template.system, [content])
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

        before, found, after = rendered(mark).partition(mark)
        probe = "a {b} <c>\n\n'd' & {{ e }} \\boxed{f}"
        return (before, after) if found and before + probe + after == rendered(probe) else None


def share_budget(lengths: Sequence[int], room: int) -> list[int]:
    """Split `room` tokens among texts of these lengths: short ones whole, the rest in equal parts (water filling)."""
    budgets = [0] * len(lengths)
    left, room = len(lengths), max(room, 0)
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        budgets[index] = min(lengths[index], room // left)
        room -= budgets[index]
        left -= 1
    return budgets


def keep_end(tokenizer, text: str, max_tokens: int) -> str:
    """An end of `text`, as long as `max_tokens` tokens allow, begun with `…` where something was cut."""
    return _end_of(tokenizer, text, _encode(tokenizer, [text])[0], max_tokens)


def _end_of(tokenizer, text: str, tokens: Encoding, max_tokens: int) -> str:
    if len(tokens) <= max_tokens:
        return text
    mark = "… "
    keep = max_tokens - count_tokens(tokenizer, mark)
    while keep > 0:
        cut = mark + text[tokens.token_to_chars(len(tokens) - keep)[0] :].lstrip()
        excess = count_tokens(tokenizer, cut) - max_tokens
        if excess <= 0:
            return cut
        keep -= excess
    return ""


def count_tokens(tokenizer, text: str) -> int:
    """How many tokens `tokenizer` makes of `text` as it stands, none added."""
    core = _core(tokenizer)
    if core is None:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return len(core.encode_batch_fast([text], add_special_tokens=False)[0])


def _encode(tokenizer, texts: list[str]) -> list[Encoding]:
    """The tokens of each text with their places in it. Raises UserError for a tokenizer that cannot tell them."""
    core = _core(tokenizer)
    if core is not None:
        return core.encode_batch(texts, add_special_tokens=False)
    encodings = tokenizer(texts, add_special_tokens=False).encodings
    if encodings is None:
        raise UserError(f"the tokenizer of {tokenizer.name_or_path!r} has no fast form: texts cannot be cut to fit")
    return encodings


def _core(tokenizer) -> Tokenizer | None:
    """The Rust tokenizer inside one of Hugging Face's, which costs a quarter; None where it gives other tokens."""
    core = _same_core(tokenizer)
    if core is not None:
        # Another's call of the Python wrapper may have left these set; it sets them anew in each call.
        if core.truncation is not None:
            core.no_truncation()
        if core.padding is not None:
            core.no_padding()
        core.encode_special_tokens = tokenizer.split_special_tokens
    return core


@lru_cache(maxsize=8)
def _same_core(tokenizer) -> Tokenizer | None:
    core = getattr(tokenizer, "backend_tokenizer", None)
    probe = "".join(map(str, tokenizer.all_special_tokens)) + " A b\n\n 12 ½ <c> [d] \u2014 "
    expected = tokenizer(probe, add_special_tokens=False)["input_ids"]  # also resets what `_core` resets
    same = isinstance(core, Tokenizer) and core.encode(probe, add_special_tokens=False).ids == expected
    return core if same else None
