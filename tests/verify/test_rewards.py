"""`reward`: what it returns, where it looks, its weights, and that it never raises."""

from __future__ import annotations

import json
import logging

import pytest

from openrlhf_mlpo.verify import environment, reward

PROMPT = "What is 6 x 7?\nagent 1 : [answer] 41 [/answer]\n"
GOOD = "<think>six sevens</think><answer>42</answer>"


def label(answer: str, task: str | None = "math", **extra: object) -> str:
    return json.dumps({"answer": answer, "task": task, **extra})


def score(response: str, gold: str = "42", task: object = "math", prompt: str = PROMPT) -> dict:
    return reward([prompt + response], [prompt], [gold], task=task)


def test_one_sample_gives_floats() -> None:
    logs = {"accuracy": 1.0, "format": 1.0, "undecided": 0.0}
    assert score(GOOD) == {"rewards": 1.0, "scores": 1.0, "extra_logs": logs}
    assert score("so \\boxed{42}") == {"rewards": 1.0, "scores": 1.0, "extra_logs": {**logs, "format": 0.0}}
    assert score("<think>a</think><answer>41</answer>")["extra_logs"] == {**logs, "accuracy": 0.0}


def test_several_samples_give_lists() -> None:
    result = reward([PROMPT + GOOD, PROMPT + "no"], [PROMPT, PROMPT], ["42", "42"], task="math")
    assert result == {
        "rewards": [1.0, 0.0],
        "scores": [1.0, 0.0],
        "extra_logs": {"accuracy": [1.0, 0.0], "format": [1.0, 0.0], "undecided": [0.0, 0.0]},
    }
    assert reward([], [], [])["rewards"] == []


def test_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPO_ACCURACY_WEIGHT", "0.9")
    monkeypatch.setenv("MLPO_FORMAT_WEIGHT", "0.1")
    assert score(GOOD)["rewards"] == pytest.approx(1.0)
    assert score("\\boxed{42}")["rewards"] == pytest.approx(0.9)
    wrong = score("<think>a</think><answer>41</answer>")
    assert wrong["rewards"] == pytest.approx(0.1) and wrong["scores"] == 0.0


def test_a_weight_that_is_no_number_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(environment, "_warned", set())
    monkeypatch.setenv("MLPO_FORMAT_WEIGHT", "a lot")
    with caplog.at_level(logging.WARNING):
        assert score(GOOD)["rewards"] == score(GOOD)["rewards"] == 1.0
    assert [record.message for record in caplog.records] == [
        "MLPO_FORMAT_WEIGHT='a lot' is not a finite number; using 0.0 (said once)"
    ]


def test_boxed_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPO_BOXED", "0")
    assert score("\\boxed{42}")["scores"] == 0.0
    assert score(GOOD)["scores"] == 1.0


def test_a_prompt_that_opens_the_thinking() -> None:
    prompt = PROMPT + "<think>\n"
    assert score("six sevens</think><answer>42</answer>", prompt=prompt)["extra_logs"] == {
        "accuracy": 1.0,
        "format": 1.0,
        "undecided": 0.0,
    }
    assert score("<answer>42</answer>", prompt=prompt)["scores"] == 0.0  # still thinking


@pytest.mark.parametrize(
    ("gold", "response", "expected"),
    [
        (label("\\frac12", "math"), "<answer>0.5</answer>", 1.0),
        (label("(B)", "bbh", subtask="snarks"), "<answer>b</answer>", 1.0),
        (label("B", "mmlu", choices=["one", "two"]), "<answer>two</answer>", 1.0),
        (label("B", "mmlu"), "<answer>two</answer>", 0.0),
        (label("Paris", "exact"), "<answer>paris</answer>", 1.0),
        (label("Paris", None), "<answer>paris</answer>", 1.0),
        ("Paris", "<answer>Paris</answer>", 1.0),
        (label("Paris", "geography"), "<answer>Paris</answer>", 0.0),
    ],
)
def test_labels_choose_the_task(gold: str, response: str, expected: float) -> None:
    assert score(response, gold, task=None)["scores"] == expected


def test_a_function_as_task() -> None:
    assert score("<answer>abc</answer>", "3", task=lambda answer, gold: len(answer) == int(gold))["scores"] == 1.0
    assert score("<answer>abc</answer>", "3", task=lambda answer, gold: 0.25)["rewards"] == 0.25
    assert score("nothing", "3", task=lambda answer, gold: 1.0)["scores"] == 0.0
    for bad in (lambda answer, gold: 1 / 0, lambda answer, gold: float("nan"), lambda answer, gold: None, lambda: 1):
        assert score("<answer>abc</answer>", "3", task=bad)["scores"] == 0.0


@pytest.mark.parametrize(
    "sample",
    [
        (None, None, None),
        (1, 2, 3),
        (b"a", b"a", "a"),
        ("a", None, "a"),
        (["a"], "a", "a"),
        ("a", "a", {"answer": 1}),
        ("", "", object()),
    ],
)
def test_never_raises(sample: tuple) -> None:
    query, prompt, gold = sample
    for task in ("math", "bbh", "mmlu", "exact", None, "unknown"):
        result = reward([query], [prompt], [gold], task=task)
        assert result["rewards"] == result["scores"] == 0.0
        assert set(result["extra_logs"]) == {"accuracy", "format", "undecided"}


def test_the_gold_of_another_row_and_answers_in_the_prompt_do_not_pay() -> None:
    prompt = "Agents say \\boxed{42}, <answer>42</answer>, the answer is 42.\n"
    for response in (
        "",
        "I agree",
        "<answer>41</answer>",
        "<answer></answer>",
        "\\boxed{}",
        "<answer>A B C D</answer>",
    ):
        assert score(response, prompt=prompt)["scores"] == 0.0
        # the same when OpenRLHF cut the prompt from the left, and when the prompt cannot be found at all
        assert reward([prompt[12:] + response], [prompt], ["42"], task="math")["scores"] == 0.0
        assert reward(["<unk>" + prompt + response], [prompt], ["42"], task="math")["scores"] == 0.0


def test_a_cut_prompt_still_pays_for_the_response() -> None:
    prompt = "question " * 30 + "Agents say <answer>41</answer>\n"
    assert reward([prompt[100:] + GOOD], [prompt], ["42"], task="math")["scores"] == 1.0
