"""Agents that are wrong at first and right once they have seen an output of the leader: Python functions, no models.

    agents:
      - {name: ann, engine: callable, model: recipes/claims/revising_agents.py:answer}
      - {name: bob, engine: callable, model: recipes/claims/revising_agents.py:answer}
      - {name: cyd, engine: callable, model: recipes/claims/revising_agents.py:answer}

With this team only the revision carries the answer. A leader trained on round 0 alone can but learn to ignore the
team; one trained with `--mlpo.rounds 2` meets the revisions and can learn to follow them. See docs/results.md.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import word_questions as q  # noqa: E402
from agent_rows import respond  # noqa: E402
from beliefs import Problem, another, truth  # noqa: E402


def answer(messages: list[dict], *, seed: int, sampling: dict) -> str:
    """A response to a prompt of the `compact` template; claims by the seed where they are wrong."""
    question, *shown = messages[-1]["content"].split("\n")
    kind = next(kind for kind, (before, *_) in q.FRAMES.items() if question.startswith(before))
    problem, rng = Problem.of(kind, question), random.Random(seed)
    revises = any(line.startswith("leader : ") for line in shown)
    return respond(problem, [truth(fact) if revises else another(rng, fact) for fact in problem.facts])
