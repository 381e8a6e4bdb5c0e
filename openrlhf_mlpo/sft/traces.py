"""Composing the leader's warm-start traces from its own right and wrong outputs (paper, first phase).

A trace starts on a wrong line (the leader's own, or a wrong agent's), doubts it for a reason that can be seen without
the gold answer, goes back, and ends with a right output of the leader to the same prompt. Every piece is the leader's
or an agent's text; only the joints are ours, and no joint is ever given the gold answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.untrusted import defuse
from openrlhf_mlpo.verify import canonical, extract_answer, is_formatted

# What a trace is made of; the shares that `build_sft` aims at when none are given.
KINDS = {
    "plain": 0.55,  # a right output over a team's responses, as the leader wrote it
    "own_line": 0.10,  # its own wrong line, doubt, then a right one; with a team or without
    "agent_line": 0.10,  # a wrong agent's line, doubt, then a right one of its own
    "checked": 0.05,  # a right line, the same doubt, and a second right line: a doubt need not end in a change
    "solo": 0.20,  # a right output without a team, as the leader wrote it
}
EXCERPT = 300  # characters of an agent's reasoning that a trace takes up, from its end


@dataclass(frozen=True)
class Phrases:
    """The joints. One of each tuple is chosen at random, so that no fixed phrase marks every correction.

    `agent` takes up a response: {number}, {reasoning} (all but the answer; may be empty), {answer}. The doubts follow a
    line that ended in some answer, by what the (other) responses say: `alone` none of them gives it, `some` only some
    do, `all` all do, `solo` there is no team. A doubt is chosen before it is known whether the line was wrong.
    """

    agent: tuple[str, ...] = (
        "Let me start from response {number}. {reasoning} That gives {answer}.",
        "Response {number} argues as follows. {reasoning} So its answer is {answer}.",
        "First I follow response {number}. {reasoning} It arrives at {answer}.",
        "Take response {number}: {reasoning} By that, the answer would be {answer}.",
    )
    alone: tuple[str, ...] = (
        "But none of the responses arrives at this. I should go back and see where the difference comes from.",
        "Wait, nobody else gets this result. Let me look again from the start.",
        "This stands alone among the answers, so one of the steps may be off. Going back to the question:",
    )
    some: tuple[str, ...] = (
        "But the responses do not agree here, so this needs a check before I settle on it.",
        "Wait. There is disagreement on this, and I have not worked it through myself. Let me do that.",
        "Some get a different result. Let me reconsider, step by step.",
    )
    all: tuple[str, ...] = (
        "All the responses say the same, but agreement proves nothing. Let me look again.",
        "Everyone agrees, which may be a mistake that all of them share. I check it once more:",
        "Before I accept what all of them say, let me go back and derive it myself.",
    )
    solo: tuple[str, ...] = (
        "Wait, I have not verified this. Let me go through it again.",
        "Hold on, one of these steps may not be right. Going back over it:",
        "Let me look again before I answer, more carefully this time.",
    )
    joint: str = "\n\n"  # between a line, a doubt and the next line


@lru_cache(maxsize=4)
def load_phrases(path: str) -> Phrases:
    """The phrases of a YAML file; what it leaves out stays as built in ("" : all). Raises UserError."""
    if not path:
        return Phrases()
    import yaml

    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--phrases {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--phrases {path}: not valid YAML: {' '.join(str(error).split())}") from None
    known = [field.name for field in fields(Phrases)]
    if not isinstance(given, dict) or not set(given) <= set(known):
        raise UserError(f"--phrases {path}: must map some of {', '.join(known)} to lists of texts")
    for name, texts in given.items():
        wanted = str if name == "joint" else list
        if not isinstance(texts, wanted) or not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"--phrases {path}: {name} must be a {'text' if name == 'joint' else 'list of texts'}")
    for text in given.get("agent", ()):
        if "{answer}" not in text or not ("{number}" in text or "{reasoning}" in text):
            raise UserError(f"--phrases {path}: agent: {text!r} needs {{answer}}, and {{number}} or {{reasoning}}")
    return Phrases(**{name: texts if name == "joint" else tuple(texts) for name, texts in given.items()})


@dataclass(frozen=True)
class LeaderPrompt:
    """A question as the leader met it: `texts` are the draw's responses in the order shown (empty: solo)."""

    question: str
    gold: str
    task: str
    subtask: str = ""
    choices: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    correct: tuple[bool, ...] = ()

    def canonical(self, answer: str | None) -> str | None:
        """`answer` in the form in which equal answers are equal strings."""
        if answer is None:
            return None
        return canonical(answer, self.task, subtask=self.subtask or None, choices=self.choices, gold=self.gold)


@dataclass(frozen=True)
class Trace:
    """A composed leader output. `before` is the part that must not quote the gold answer: the wrong line and doubt."""

    kind: str
    text: str
    before: str = ""


def compose(prompt: LeaderPrompt, outputs: Sequence[Mapping], rng: random.Random, phrases: Phrases) -> list[Trace]:
    """At most one trace of each kind from a leader's outputs to one prompt; the same `rng` gives the same traces.

    `outputs`: the responses of a pool's row: text, answer, correct, finish_reason. Outputs that were cut or hold no
    reasoning are not used. Whether a trace is right, short enough and free of leaks is `problem`'s to say.
    """
    usable = [o for o in outputs if o["answer"] is not None and o["finish_reason"] != "length" and reasoning(o["text"])]
    right = [output for output in usable if output["correct"]]
    wrong = [output for output in usable if not output["correct"]]
    if not right:
        return []
    end = rng.choice(right)
    team = bool(prompt.texts)
    traces = [Trace("plain" if team else "solo", with_reasoning(end, reasoning(end["text"])))]

    def turn(kind: str, line: str, answer: str | None, others: Sequence[str]) -> None:
        doubt = rng.choice(getattr(phrases, agreement(prompt, answer, others)))
        before = phrases.joint.join((line, doubt))
        thinking = phrases.joint.join((before, reasoning(end["text"])))
        traces.append(Trace(kind, with_reasoning(end, thinking), "" if kind == "checked" else before))

    if wrong:
        start = rng.choice(wrong)
        turn("own_line", reasoning(start["text"]), start["answer"], prompt.texts)
    misled = [number for number, good in enumerate(prompt.correct) if not good and extract_answer(prompt.texts[number])]
    if misled:
        number = rng.choice(misled)
        others = [text for index, text in enumerate(prompt.texts) if index != number]
        turn("agent_line", agent_line(rng.choice(phrases.agent), number + 1, prompt.texts[number]),
             extract_answer(prompt.texts[number]), others)  # fmt: skip
    first = [output for output in right if reasoning(output["text"]) != reasoning(end["text"])]
    if first:
        start = rng.choice(first)
        turn("checked", reasoning(start["text"]), start["answer"], prompt.texts)
    return traces


def agent_line(phrase: str, number: int, response: str) -> str:
    """A phrase of `Phrases.agent`, filled in with an agent's response (its number as the leader sees it)."""
    why = excerpt(response)
    values = {"number": str(number), "reasoning": why, "answer": defuse(extract_answer(response) or "")}
    if not why:
        phrase = phrase.replace("{reasoning} ", "")
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), phrase)


def agreement(prompt: LeaderPrompt, answer: str | None, others: Sequence[str]) -> str:
    """How many of the responses `others` give `answer`: "alone", "some" or "all"; "solo" when there are none."""
    if not others:
        return "solo"
    votes = [prompt.canonical(extract_answer(text)) for text in others]
    same = votes.count(prompt.canonical(answer))
    return "alone" if not same else "all" if same == len(votes) else "some"


def reasoning(output: str) -> str:
    """What stands before the answer: the content of `<think>`, or in an output without it everything before the last
    `<answer>`, without our tags. "" when there is none."""
    if is_formatted(output):
        return output.partition("<think>")[2].partition("</think>")[0].strip()
    head, block, _ = output.rpartition("<answer>")
    return re.sub(r"</?(?:think|answer)>", " ", head if block else output).strip()


def with_reasoning(output: Mapping, thinking: str) -> str:
    """The output with other reasoning, in the form that the reward asks for and, where it has that form, as written."""
    text = output["text"].strip()
    if is_formatted(text):
        head, _, rest = text.partition("<think>")
        old, _, tail = rest.partition("</think>")
        content = old.strip()
        before, after = old[: old.find(content)] if content else "", old[old.find(content) + len(content) :]
        return f"{head}<think>{before}{thinking}{after}</think>{tail}"
    return f"<think>\n{thinking}\n</think>\n<answer>{output['answer']}</answer>"


def excerpt(response: str) -> str:
    """The end of what an agent says beside its answer, at most `EXCERPT` characters from the start of a sentence,
    harmless to quote."""
    text = re.sub(r"<answer>.*?</answer>", " ", response, flags=re.DOTALL).strip()
    if len(text) > EXCERPT:
        end = text[-EXCERPT:]
        starts = [match.end() for match in re.finditer(r"[.!?]\s+|\n+", end)]
        text = "… " + end[starts[0] if starts and starts[0] < EXCERPT - 20 else 0 :]
    return defuse(text.strip())


def quotes(text: str, gold: str) -> bool:
    """Whether `gold` stands in `text` as a word or expression of its own, case and white space aside.

    "12" is not quoted by "112" or "1.12", and "B" not by "AB".
    """
    wanted = " ".join(gold.split())
    if not wanted:
        return False
    left = r"(?<![\w])(?<![\d][.,])" if re.match(r"\w", wanted) else ""
    right = r"(?![\w])(?![.,]\d)" if re.match(r"\w", wanted[-1]) else ""
    pattern = left + re.escape(wanted).replace(r"\ ", r"\s+") + right
    return bool(re.search(pattern, text, re.IGNORECASE))


def leaks(prompt: LeaderPrompt, trace: Trace) -> bool:
    """Whether a trace quotes the gold answer before its own derivation reaches it.

    A gold that stands in the question itself (an option's letter, one of two names) is said on every line of work and
    gives nothing away; there it counts only where a line ends in it, which makes the line right.
    """
    if quotes(prompt.question, prompt.gold):
        return False
    return quotes(trace.before, prompt.gold)
