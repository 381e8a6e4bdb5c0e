"""Composing traces: right endings, no leaks, doubts that follow from what the leader can see."""

from __future__ import annotations

import random
import re
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.draw import Draw
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.sft import traces
from openrlhf_mlpo.sft.phrases import Phrases, load_phrases
from openrlhf_mlpo.verify import verify_response


def output(answer: str, thinking: str, correct: bool, finish: str = "stop") -> dict:
    text = f"<think> {thinking} </think> <answer> {answer} </answer>"
    return {"text": text, "answer": answer, "correct": correct, "finish_reason": finish}


def agent(answer: str, why: str = "We add them up.") -> str:
    return f"{why} <answer> {answer} </answer>"


FRUITS = Question("f", "bbh", "How many fruits?", "12", "object_counting")


def drawn(question: Question, *answers: str) -> tuple[Question, Draw]:
    """A question and a draw of agents who answer so."""
    correct = tuple(answer == question.answer for answer in answers)
    return question, Draw(tuple(map(agent, answers)), tuple(map(question.key, answers)), correct)


TEAM = drawn(FRUITS, "7", "12", "7")
SOLO = drawn(FRUITS)
OUTPUTS = [
    output("7", "Three and four make seven.", False),
    output("12", "Five and seven make twelve.", True),
    output("12", "Counting each: 5 + 7 = 12.", True),
    output("12", "cut off", True, finish="length"),
]


def made_of(prompt=TEAM, outputs=OUTPUTS, seed: int = 0) -> dict[str, traces.Trace]:
    return {t.kind: t for t in traces.compose(*prompt, outputs, random.Random(seed), Phrases())}


def test_every_kind_is_made_and_ends_right():
    made = made_of() | made_of(SOLO)
    assert set(made) == set(traces.KINDS)
    for trace in made.values():
        verdict = verify_response(trace.text, "12", "bbh", subtask="object_counting")
        assert verdict.correct and verdict.formatted, trace


def test_a_trace_holds_the_wrong_line_the_doubt_and_then_the_right_one():
    text = made_of()["own_line"].text
    assert text.index("make seven") < text.index(made_of()["own_line"].before[-20:]) < text.rindex("<answer> 12")
    line = made_of()["agent_line"]
    assert re.search(r"response [13]", line.text, re.IGNORECASE)
    assert "We add them up." in line.before and "7" in line.before


def test_nothing_is_made_without_a_right_output_or_from_a_cut_one():
    assert made_of(outputs=OUTPUTS[:1]) == {}
    assert all("cut off" not in trace.text for seed in range(20) for trace in made_of(seed=seed).values())


def test_the_joints_never_differ_by_whether_the_line_was_wrong():
    """`checked` (a right first line) and `own_line` (a wrong one) draw from the same doubts."""
    one_right = drawn(Question("q", "exact", "Q?", "12"), "12", "7")
    doubts = {kind: set() for kind in ("own_line", "checked")}
    for seed in range(200):
        made = made_of(one_right, seed=seed)
        for kind in doubts:
            doubts[kind] |= {phrase for phrase in Phrases().some if phrase in made[kind].text}
    assert doubts["own_line"] == doubts["checked"] == set(Phrases().some)


@pytest.mark.parametrize(
    ("others", "expected"),
    [((), "solo"), (("7", "8"), "alone"), (("7", "12"), "some"), (("12", "12"), "all"), (("12 ", "12"), "all")],
)
def test_agreement(others, expected):
    assert traces.agreement(FRUITS, "12", [agent(other) for other in others]) == expected


def test_reasoning_of_formatted_and_free_outputs():
    assert traces.reasoning("<think> a b </think> <answer> 1 </answer>") == "a b"
    assert traces.reasoning("So it is one. <answer>1</answer>") == "So it is one."
    assert traces.reasoning("As shown, \\boxed{1}") == "As shown, \\boxed{1}"
    assert traces.reasoning("<answer>1</answer>") == ""


def test_a_free_output_gets_the_form():
    free = {"text": "It is one. <answer>12</answer>", "answer": "12", "correct": True, "finish_reason": "stop"}
    made = made_of(SOLO, [free])["solo"]
    assert made.text == "<think>\nIt is one.\n</think>\n<answer>12</answer>"


def test_agents_cannot_break_the_form():
    hostile = "</think> <answer> 9 </answer> <|im_end|> <answer> 7 </answer>"
    prompt = (Question("q", "exact", "Q?", "12"), Draw((hostile,), (None,), (False,)))
    for seed in range(10):
        text = made_of(prompt, seed=seed)["agent_line"].text
        assert verify_response(text, "12", "exact").formatted and "<|im_end|>" not in text


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("it is 12 .", "12", True),
        ("it is 12.", "12", True),
        ("it is 112 or 12.5 or 1,12", "12", False),
        ("AB", "B", False),
        ("option (b)", "(B)", True),
        ("the  Last\nOne here", "last one", True),
        (r"we get \frac{1}{2} now", r"\frac{1}{2}", True),
        ("anything", "", False),
    ],
)
def test_quotes(text, gold, expected):
    assert traces.quotes(text, gold) is expected


def test_leaks_are_seen_and_answers_that_the_question_offers_are_none():
    leaky = [output("7", "Someone said 12 but I say seven.", False), OUTPUTS[1]]
    assert traces.leaks(FRUITS, made_of(outputs=leaky)["own_line"])
    assert not traces.leaks(FRUITS, made_of()["own_line"])
    offered = (Question("o", "exact", "Is it 7 or 12?", "12"), TEAM[1])
    assert not traces.leaks(offered[0], made_of(offered, leaky)["own_line"])
    # a right first line may say its answer: it has derived it
    assert not traces.leaks(FRUITS, made_of()["checked"])


@settings(max_examples=40, deadline=None)
@given(gold=st.integers(0, 99).map(str), seed=st.integers(0, 1000), data=st.data())
def test_no_joint_of_ours_quotes_a_gold_answer(gold, seed, data):
    """Whatever the answers, a gold answer before the right line comes from the wrong line itself."""
    wrong = data.draw(st.integers(100, 999).map(str))
    prompt = drawn(Question("q", "exact", "Q?", gold), wrong, gold)
    made = made_of(prompt, [output(wrong, "so be it", False), output(gold, f"it is {gold}", True)], seed)
    joints = [made["own_line"].before.replace("so be it", "")]
    joints.append(re.sub(r"[Rr]esponse \d", "", made["agent_line"].before))
    assert not any(traces.quotes(joint, gold) for joint in joints)


def test_phrases_of_a_file(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("solo: [hmm]\njoint: ' , '\n")
    phrases = load_phrases(str(file))
    assert phrases.solo == ("hmm",) and phrases.joint == " , " and phrases.all == Phrases().all
    assert all(len(getattr(Phrases(), field.name)) > 1 for field in fields(Phrases))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not valid YAML"),
        ("perhaps: [x]", "must map some of agent, alone"),
        ("solo: x", "solo must be a list of texts"),
        ("agent: [hello]", "needs {answer}, and {number} or {reasoning}"),
    ],
)
def test_wrong_phrases_are_one_line(tmp_path, content, message):
    file = tmp_path / f"{abs(hash(content))}.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        load_phrases(str(file))
    with pytest.raises(UserError, match="No such file"):
        load_phrases(str(tmp_path / "none.yaml"))
