"""Draws: one stored response per agent for one prompt."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openrlhf_mlpo.questions import Question, majority

MAX_CORRECT = 0.75  # the paper: a question that 75 % or more of the responses get right teaches the leader little


@dataclass(frozen=True)
class Draw:
    """One response per agent in the shuffled order that the leader sees; empty for solo.

    `keys` are the answers in the form in which they are compared (`Question.key`), None where an agent gave none.
    """

    texts: tuple[str, ...] = ()
    keys: tuple[str | None, ...] = ()
    correct: tuple[bool, ...] = ()
    agents: tuple[str, ...] = ()  # who wrote them; never shown

    @property
    def majority(self) -> bool | None:
        """Whether the answer of more than half of the agents is right; None: there is no such answer."""
        return majority(self.keys, self.correct)


def make_draw(
    question: Question,
    responses: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    episode: int | str,
    team_size: int = 0,
    solo_fraction: float = 0.0,
) -> Draw:
    """Draw one response per agent; depends on nothing but the arguments, so a resumed run sees the same prompts.

    `team_size` agents are chosen at random when it is neither 0 nor the whole team. The order is shuffled: position
    must not tell the leader who speaks. One draw serves all G samples of a prompt, as the group baseline requires.
    """
    rng = random.Random(f"{seed}:{episode}:{question.id}")
    if rng.random() < solo_fraction:
        return Draw()
    by_agent: dict[str, list[Mapping[str, Any]]] = {}
    for response in responses:
        by_agent.setdefault(response["agent"], []).append(response)
    agents = sorted(by_agent)
    chosen = [rng.choice(by_agent[agent]) for agent in rng.sample(agents, team_size or len(agents))]
    return Draw(
        texts=tuple(response["text"] for response in chosen),
        keys=tuple(question.key(response["answer"]) for response in chosen),
        correct=tuple(bool(response["correct"]) for response in chosen),
        agents=tuple(response["agent"] for response in chosen),
    )


def keep_question(responses: Sequence[Mapping[str, Any]], max_correct: float = MAX_CORRECT) -> bool:
    """Whether a question stays: fewer than `max_correct` of its K·M responses are correct. 1.01 keeps all."""
    return not responses or sum(bool(response["correct"]) for response in responses) < max_correct * len(responses)


def keep_questions(dataset, max_correct: float):
    """Which rows of a pool stay, as `keep_question` says, read off the columns: a boolean array of shape (rows,).

    Only the verdicts are read, so millions of rows take seconds.
    """
    import numpy as np
    import pyarrow.compute as pc

    kept = [np.zeros(0, bool)]
    for batch in dataset.select_columns(["responses"]).with_format("arrow").iter(batch_size=20_000):
        lists = batch["responses"].combine_chunks()
        counts = np.diff(lists.offsets.to_numpy())
        right = np.append(0, np.cumsum(pc.struct_field(lists.flatten(), "correct").to_numpy(zero_copy_only=False)))
        ends = np.cumsum(counts)
        kept.append(right[ends] - right[ends - counts] < max_correct * counts)
    return np.concatenate(kept)
