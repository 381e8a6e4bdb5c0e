"""Which outputs turn back, and which only use the same words."""

from __future__ import annotations

import re

import pytest

from eval.play.backtracking import TURN_BACK, revises
from openrlhf_mlpo.sft.phrases import load_phrases
from tests.conftest import ROOT


def output(think: str, answer: str = "7") -> str:
    return f"<think> {think} </think> <answer> {answer} </answer>"


@pytest.mark.parametrize(
    "think",
    [
        "follow I think 2 } , but others disagree , look again : , follow we get 1 ]",  # the quickstart's
        "Wait, 3 * 4 is 12.",
        "So it is 5. But wait — the second bracket is open.",
        "On second thought, response 2 is right.",
        "Let me check that again.",
        "Let me double-check the sum.",
        "That is not right: 7 is prime.",
        "Hmm, that's wrong.",
        "That isn't correct.",
        "I made a mistake in step 2.",
        "I made an arithmetic error.",
        "I misread the question.",
        "Actually, the first agent is right.",
        "It is 4. Actually it is 5.",
        "Going back to the first step, x = 2.",
        "I need to go back.",
        "I should reconsider.",
        "Scratch that.",
        "Hold on.",
        "Let me start over.",
        "Correction: 12.",
        "The answer is 5. No, the second row counts too. The answer is 7.",
        "First I get \\boxed{5}. With the other branch I get \\boxed{7}.",
        "My answer is 3.5, then with the tax the final answer is 4.5",
    ],
)
def test_turns_back(think):
    assert revises(output(think))
    assert revises(f"<think> {think}")  # cut off by the token limit
    assert revises(f"{think} <answer> 7 </answer>")  # no think block


@pytest.mark.parametrize(
    "think",
    [
        "follow we get 1 }",
        "I do it myself : chain truth lies",
        "",
        "The wait was long, so they wait for the bus until 5.",
        "The waiter brings 3 plates.",
        "Tom goes back-to-school shopping and buys 4 pens.",
        "What was actually paid is 5.",
        "Response 1 says the answer is 5. Response 2 says the answer is 7. I compute 7.",
        "Agent 1's answer is 5. The answer is 7.",
        "The answer is 7. So the final answer is 7.",
        "The answer is 7. The answer is \\boxed{ 7 }.",
        "The answer is not 5. The answer is 7.",
        "Check the sum: 3 + 4 = 7, which is right.",
    ],
)
def test_does_not_turn_back(think):
    assert not revises(output(think))


def test_the_answer_block_is_not_searched():
    assert not revises("<think> one step </think> <answer> wait, the answer is 5. The answer is 6 </answer>")


@pytest.mark.parametrize("path", ["", str(ROOT / "recipes/claims/phrases.yaml")], ids=["chat", "toy"])
def test_the_doubts_that_the_warm_start_teaches_are_seen(path):
    phrases = load_phrases(path)
    doubts = [doubt for kind in ("alone", "some", "all", "solo") for doubt in getattr(phrases, kind)]
    assert doubts and [doubt for doubt in doubts if not revises(output(doubt))] == []
    assert [text for text in phrases.agent if revises(output(text))] == []


def test_every_wording_stands_alone():
    for phrase in TURN_BACK:
        re.compile(phrase)


@pytest.mark.timeout(120)  # a pattern that backtracks would take hours
@pytest.mark.parametrize("words", ["wait ", "the answer is ", "i made ", " "])
def test_long_and_odd_texts_end(words):
    text = words * (100_000 // len(words))
    assert revises(f"<think>{text}") in (True, False) and revises(text) in (True, False)
