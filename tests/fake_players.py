"""Players that are plain Python functions: agents with a known skill, a leader that follows whom it trusts.

They read the prompts that the real templates make and answer by arithmetic and a hash, so what is right is known.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time

from openrlhf_mlpo.engines import Completion
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player

QUESTION = re.compile(r"What is (\d+) \+ (\d+)\?")
SHOWN = re.compile(r"\[answer\] ?(-?\d+) ?\[/answer\]")
SKILL = {"ann": 0.6, "bob": 0.5, "cat": 0.4, "dan": 0.55, "eve": 0.45, "fay": 0.35, "gil": 0.5, "hal": 0.6}


def chance(*key: object) -> float:
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:4], "big") / 2**32


def answer(name: str, content: str, seed: int) -> str:
    """Right with the agent's skill; where the prompt shows answers, the agent takes up the last with chance 0.7."""
    a, b = map(int, QUESTION.search(content).groups())
    shown = SHOWN.findall(content)
    if shown and chance("copies", name, content) < 0.7:
        value = shown[-1]
    else:
        value = a + b if chance(name, a, b, seed) < SKILL[name] else a + b + 1 + int(3 * chance("by", name, a, b, seed))
    return f"I add {a} and {b} . <answer> {value} </answer>"


def lead(trust: float, solo: float, content: str, seed: int) -> str:
    """Takes a right answer that is shown with chance `trust`, else the first shown; alone right with `solo`."""
    a, b = map(int, QUESTION.search(content).groups())
    shown = SHOWN.findall(content)
    if shown:
        value = a + b if str(a + b) in shown and chance("trust", a, b, shown) < trust else shown[0]
    else:
        value = a + b if chance("solo", a, b, seed, solo) < solo else a + b + 1
    return f"<think> {a} plus {b} </think> <answer> {value} </answer>"


def completion(text: str, prompt: str) -> Completion:
    return Completion(text, len(prompt.split()), len(text.split()), "stop")


def player(name: str, reply, calls: list | None = None) -> Player:
    """`reply(content, seed)` as a player; `calls` collects (name, number of prompts) of each batch."""

    def generate(prompts, n, seed):
        if calls is not None:
            calls.append((name, len(prompts)))
        results = []
        for prompt in prompts:
            content = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            results.append([completion(reply(content, seed + 7919 * s), content) for s in range(n)])
        return results, 0.001 * len(prompts) * n

    return Player(name, generate, about={"model": f"fake/{name}", "engine": "callable", "sampling": {}})


def team(*names: str, calls: list | None = None) -> list[Player]:
    return [player(name, lambda content, seed, name=name: answer(name, content, seed), calls) for name in names]


def leader(name: str = "mlpo", trust: float = 0.9, solo: float = 0.6, calls: list | None = None) -> Player:
    return player(name, lambda content, seed: lead(trust, solo, content, seed), calls)


def questions(n: int, subjects: int = 2) -> list[Question]:
    return [
        Question(f"q{i:05d}", "exact", f"What is {i} + {(i * 7) % 13}?", str(i + (i * 7) % 13), f"sums{i % subjects}")
        for i in range(n)
    ]


# The same as functions of the `callable` engine, `tests/fake_players.py:ann`. FAKE_SLEEP: seconds that an answer takes.
def _function(reply):
    def function(messages, *, seed, sampling):
        time.sleep(float(os.environ.get("FAKE_SLEEP", 0)))
        content = messages[-1]["content"]
        return completion(reply(content, seed), content)

    return function


ann = _function(lambda content, seed: answer("ann", content, seed))
bob = _function(lambda content, seed: answer("bob", content, seed))
cat = _function(lambda content, seed: answer("cat", content, seed))
boss = _function(lambda content, seed: lead(0.9, 0.6, content, seed))
rookie = _function(lambda content, seed: lead(0.4, 0.5, content, seed))
