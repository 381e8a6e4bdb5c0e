"""Composing the leader's warm-start traces from its own right and wrong outputs (paper, first phase).

A trace starts on a wrong line (the leader's own, or a wrong agent's), doubts it for a reason that can be seen without
the gold answer, goes back, and ends with a right output of the leader to the same prompt. Every piece is the leader's
or an agent's text; only the joints are ours, and no joint is ever given the gold answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openrlhf_mlpo.pool.draw import Draw
from openrlhf_mlpo.prompts.untrusted import defuse
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.sft.phrases import Phrases
from openrlhf_mlpo.verify import extract_answer, is_formatted

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
class Trace:
    """A composed leader output. `before` is the part that must not quote the gold answer: the wrong line and doubt."""

    kind: str
    text: str
    before: str = ""


def compose(
    question: Question, draw: Draw, outputs: Sequence[Mapping], rng: random.Random, phrases: Phrases
) -> list[Trace]:
    """At most one trace of each kind from a leader's outputs to one prompt; the same `rng` gives the same traces.

    `draw`: the responses in the prompt (none: solo); `outputs`: the responses of a pool's row (text, answer, correct,
    finish_reason). Outputs that were cut or hold no reasoning are not used. Whether a trace is right, short enough and
    free of leaks is `build.problem`'s to say.
    """
    usable = [o for o in outputs if o["answer"] is not None and o["finish_reason"] != "length" and reasoning(o["text"])]
    right = [output for output in usable if output["correct"]]
    wrong = [output for output in usable if not output["correct"]]
    if not right:
        return []
    end = rng.choice(right)
    traces = [Trace("plain" if draw.texts else "solo", with_reasoning(end, reasoning(end["text"])))]

    def turn(kind: str, line: str, answer: str | None, others: Sequence[str]) -> None:
        doubt = rng.choice(getattr(phrases, agreement(question, answer, others)))
        before = phrases.joint.join((line, doubt))
        thinking = phrases.joint.join((before, reasoning(end["text"])))
        traces.append(Trace(kind, with_reasoning(end, thinking), "" if kind == "checked" else before))

    if wrong:
        start = rng.choice(wrong)
        turn("own_line", reasoning(start["text"]), start["answer"], draw.texts)
    misled = [number for number, good in enumerate(draw.correct) if not good and extract_answer(draw.texts[number])]
    if misled:
        number = rng.choice(misled)
        others = [text for index, text in enumerate(draw.texts) if index != number]
        turn("agent_line", agent_line(rng.choice(phrases.agent), number + 1, draw.texts[number]),
             extract_answer(draw.texts[number]), others)  # fmt: skip
    first = [output for output in right if reasoning(output["text"]) != reasoning(end["text"])]
    if first:
        start = rng.choice(first)
        turn("checked", reasoning(start["text"]), start["answer"], draw.texts)
    return traces


def agent_line(phrase: str, number: int, response: str) -> str:
    """A phrase of `Phrases.agent`, filled in with an agent's response (its number as the leader sees it)."""
    why = excerpt(response)
    values = {"number": str(number), "reasoning": why, "answer": defuse(extract_answer(response) or "")}
    if not why:
        phrase = phrase.replace("{reasoning} ", "")
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), phrase)


def agreement(question: Question, answer: str | None, others: Sequence[str]) -> str:
    """How many of the responses `others` give `answer`: "alone", "some" or "all"; "solo" when there are none."""
    if not others:
        return "solo"
    votes = [question.key(extract_answer(text)) for text in others]
    same = votes.count(question.key(answer))
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
        return f"{head}<think>{old.replace(old.strip(), thinking, 1)}</think>{tail}"  # its white space stays
    return f"<think>\n{thinking}\n</think>\n<answer>{output['answer']}</answer>"


def excerpt(response: str) -> str:
    """The end of what an agent says beside its answer, at most `EXCERPT` characters from the start of a sentence,
    harmless to quote."""
    text = re.sub(r"<answer>.*?</answer>", " ", response, flags=re.DOTALL).strip()
    if len(text) > EXCERPT:
        end = text[-EXCERPT:]
        start = re.search(r"[.!?]\s+|\n+", end)
        text = "… " + (end[start.end() :] if start and start.end() < EXCERPT - 20 else end)
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


def leaks(question: Question, trace: Trace) -> bool:
    """Whether a trace quotes the gold answer before its own derivation reaches it.

    A gold that stands in the question itself (an option's letter, one of two names) is said on every line of work and
    gives nothing away; there it counts only where a line ends in it, which makes the line right.
    """
    if quotes(question.text, question.answer):
        return False
    return quotes(trace.before, question.answer)
