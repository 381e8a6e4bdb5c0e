"""The hostile corpus through the reward function: no hang, no crash, little memory, the right verdict each time."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openrlhf_mlpo.verify import reward
from tests import hostile

LIMIT = 0.5  # seconds of processor time


def _memory() -> int:
    """Bytes of all worker processes, what they share counted once."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_full_info().uss
        except psutil.Error:
            pass
    return total


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hostile_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPO_VERIFY_TIMEOUT", str(LIMIT))
    hostile.forget()
    reward(["\\boxed{x+2-1}"], [""], ['{"answer": "x+1", "task": "math"}'])
    before = psutil.Process().memory_info().rss
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            most[0] = max(most[0], _memory())

    watcher = threading.Thread(target=watch)
    watcher.start()

    def run(case: hostile.Case) -> tuple[hostile.Case, dict]:
        return case, reward([case.prompt + case.response], [case.prompt], [case.label])

    cases = hostile.cases()
    assert len(cases) >= 200
    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(run, [case for case in cases if not case.correct]))
    monkeypatch.delenv("MLPO_VERIFY_TIMEOUT")
    results += [run(case) for case in cases if case.correct]
    done.set()
    watcher.join()
    assert not [(case.name, result["scores"]) for case, result in results if result["scores"] != case.correct]
    undecided = [case for case, result in results if result["extra_logs"]["undecided"]]
    assert len(undecided) < 80 and not any(case.correct for case in undecided)
    assert most[0] + psutil.Process().memory_info().rss - before < 2**30


@pytest.mark.parametrize("case", [*hostile.listings(), *hostile.injections()], ids=lambda case: case.name)
def test_reward_hacking_pays_nothing(case: hostile.Case) -> None:
    assert reward([case.prompt + case.response], [case.prompt], [case.label])["scores"] == 0.0


_ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)  # all of Unicode, lone surrogates too
_LATEX = st.lists(
    st.sampled_from(["\\frac", "{", "}", "\\boxed{", "1", "2", "x", "^", "<answer>", "</answer>", "<think>",
    "</think>", "$", ",",
                     " ", "\\text{", "-", "(", ")", "\\sqrt", "A", "\u2212", "\ud800", "\x00", "=", "\\"]), max_size=30
).map("".join)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    response=_ANYTHING | _LATEX,
    gold=_ANYTHING | st.just("42"),
    prompt=_ANYTHING,
    task=st.sampled_from(["math", "bbh", "mmlu", "exact", None]),
)
def test_any_text_gives_finite_numbers(response: str, gold: str, prompt: str, task: str | None) -> None:
    for text in (response, f"<think></think><answer>{response}</answer>"):
        for query in (prompt + text, text):
            result = reward([query], [prompt], [gold], task=task)
            numbers = [result["rewards"], result["scores"], *result["extra_logs"].values()]
            assert all(type(number) is float and math.isfinite(number) for number in numbers)
            assert set(result["extra_logs"]) == {"accuracy", "format", "undecided"}


@settings(max_examples=100, deadline=None)
@given(response=_ANYTHING | _LATEX, gold=st.sampled_from(["42", "x+1", "\\text{even}"]))
def test_nothing_in_front_of_an_answer_changes_the_verdict_on_it(response: str, gold: str) -> None:
    assume_free = "</think>" not in response and "<think>" not in response
    text = f"<think>{response if assume_free else ''}</think><answer>{gold}</answer>"
    assert reward(["q" + text], ["q"], [gold], task="math")["scores"] == 1.0
