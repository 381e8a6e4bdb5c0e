"""The reward files, loaded and called the way stock OpenRLHF does, and the README's "write your own"."""

from __future__ import annotations

import asyncio
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT

FILES = sorted((ROOT / "reward_fns").glob("*.py"))
PROMPT = "What is x + 1 for x = {}?\nagent 1 : <answer>17</answer> \\boxed{{17}}\nAnswer: "


class Characters:
    """A tokenizer with one token per character."""

    def __call__(self, text: str, **_: object) -> dict:
        import torch

        return {"input_ids": torch.tensor([[ord(char) for char in text]])}

    def decode(self, tokens: list[int], **_: object) -> str:
        return "".join(map(chr, tokens))


class Engine:
    """Answers with the text it was made with."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def generate(self, *_: object, **__: object) -> SimpleNamespace:
        output = SimpleNamespace(
            token_ids=[ord(char) for char in self.text], text=self.text, finish_reason="stop", logprobs=None
        )
        return SimpleNamespace(outputs=[output])


def execute(path: Path, samples: list[tuple[str, str, str]]) -> list[dict]:
    """(prompt, label, response) through OpenRLHF's own executor, all at once, in 64 threads."""
    agent = pytest.importorskip("openrlhf.utils.agent", reason="OpenRLHF is not installed")
    executor = agent.SingleTurnAgentExecutor(str(path))

    async def run() -> list[dict]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))
        params = SimpleNamespace(max_tokens=100, logprobs=None)
        return await asyncio.gather(
            *(
                executor.execute(prompt, label, params, 100_000, Characters(), Engine(text))
                for prompt, label, text in samples
            )
        )

    return asyncio.run(run())


def test_there_is_a_file_for_every_benchmark_and_none_shadows_a_module() -> None:
    names = {path.stem for path in FILES}
    assert {"math_reward", "bbh_reward", "mmlu_reward", "auto_reward"} <= names
    assert not names & {"math", "math_verify", "reward"}
    assert all(len(path.read_text().splitlines()) < 25 for path in FILES)


SAMPLES = {
    "math_reward": (json.dumps({"answer": "\\frac{x}{2}", "task": "math"}), "0.5x", "x/3"),
    "bbh_reward": ("(B)", "b.", "(C)"),
    "mmlu_reward": (json.dumps({"answer": "B", "task": "mmlu", "choices": ["one", "two"]}), "two", "one"),
    "auto_reward": (json.dumps({"answer": "Yes", "task": "bbh", "subtask": "navigate"}), "yes", "no"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_64_calls_at_once_through_openrlhf(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPO_VERIFY_TIMEOUT", "1")
    label, right, wrong = SAMPLES[name]
    hostile = ["9^{9^{9^{9}}}", "\\int_0^1 \\sin(x^x)/x^x dx", "{" * 5000, "\ud800", ""]
    answers = [right, wrong, *hostile] * 9 + [right]
    samples = [
        (PROMPT.format(i), label, f"<think>{i}</think><answer>{answer}</answer>") for i, answer in enumerate(answers)
    ]
    assert len(samples) == 64
    results = execute(ROOT / "reward_fns" / f"{name}.py", samples)
    for answer, result in zip(answers, results, strict=True):
        assert result["reward"] == result["scores"] == float(answer == right)
        assert list(result["extra_logs"]) == ["accuracy", "format", "undecided"]
        assert all(math.isfinite(value) for value in result["extra_logs"].values())
        assert result["extra_logs"]["format"] == float(bool(answer))


@pytest.mark.slow
def test_stock_openrlhf_makes_an_experience_of_the_result() -> None:
    generator = pytest.importorskip(
        "openrlhf.trainer.ppo_utils.samples_generator", reason="OpenRLHF with vLLM and Ray is not installed"
    )
    label, right, _ = SAMPLES["bbh_reward"]
    [result] = execute(ROOT / "reward_fns" / "bbh_reward.py", [(PROMPT, label, f"<answer>{right}</answer>")])
    experience = generator.SamplesGenerator._process_response_into_experience(None, result, max_len=100_000)
    assert experience.rewards.tolist() == experience.scores.tolist() == [1.0]
    assert {key: value.tolist() for key, value in experience.info.items() if key in ("accuracy", "format", "score",
    "reward")} == {
        "accuracy": [1.0], "format": [0.0], "score": [1.0], "reward": [1.0]}  # fmt: skip


def test_the_readmes_own_reward_function_works(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    [example] = [block for block in blocks if "def reward_func" in block]
    path = tmp_path / "my_reward.py"
    path.write_text(example)
    results = execute(path, [(PROMPT, "5", f"<answer>{word}</answer>") for word in ("apple", "pear")])
    assert [result["reward"] for result in results] == [1.0, 0.0]
    assert all(set(result["extra_logs"]) == {"accuracy", "format", "undecided"} for result in results)
