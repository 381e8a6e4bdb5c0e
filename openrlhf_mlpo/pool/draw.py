"""Draws: one stored response per agent for one prompt."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openrlhf_mlpo.questions import Question, majority

MAX_CORRECT = 0.75  # the paper: a question that 75 % or more of the responses get right teaches the leader little
CANDIDATES = 32  # draws among which a balanced one is chosen


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
    team_size: tuple[int, int] = (0, 0),
    solo_fraction: float = 0.0,
    balance: bool = False,
) -> Draw:
    """Draw one response per agent; depends on nothing but the arguments, so a resumed run sees the same prompts.

    `team_size` (lowest, highest): so many responses, as likely each; (0, 0): one of each agent. Fewer than there are
    agents: agents chosen at random; more: further responses of the same agents, none twice. The order is shuffled:
    position must not tell the leader who speaks. `balance`: of `CANDIDATES` such draws one is taken, as likely for each
    number of right responses that occurs among them. One draw serves all G samples of a prompt, as the group baseline
    requires.
    """
    rng = random.Random(f"{seed}:{episode}:{question.id}")
    if rng.random() < solo_fraction:
        return Draw()
    by_agent: dict[str, list[Mapping[str, Any]]] = {}
    for response in responses:
        by_agent.setdefault(response["agent"], []).append(response)
    chosen = _choose(by_agent, team_size, rng)
    if balance:
        candidates = [chosen, *(_choose(by_agent, team_size, rng) for _ in range(CANDIDATES - 1))]
        by_right: dict[int, list[list[Mapping[str, Any]]]] = {}
        for candidate in candidates:
            by_right.setdefault(sum(bool(response["correct"]) for response in candidate), []).append(candidate)
        chosen = by_right[rng.choice(sorted(by_right))][0]
    return draw_of(question, chosen)


def draw_of(question: Question, chosen: Sequence[Mapping[str, Any]]) -> Draw:
    """The draw that holds these responses of a pool, in their order."""
    return Draw(
        texts=tuple(response["text"] for response in chosen),
        keys=tuple(question.key(response["answer"]) for response in chosen),
        correct=tuple(bool(response["correct"]) for response in chosen),
        agents=tuple(response["agent"] for response in chosen),
    )


def _choose(
    by_agent: Mapping[str, list[Mapping[str, Any]]], team_size: tuple[int, int], rng: random.Random
) -> list[Mapping[str, Any]]:
    agents = sorted(by_agent)
    low, high = team_size
    size = (low if low == high else rng.randint(low, high)) or len(agents)
    chosen = [rng.choice(by_agent[agent]) for agent in rng.sample(agents, min(size, len(agents)))]
    if size > len(agents):
        taken = set(map(id, chosen))
        rest = [response for agent in agents for response in by_agent[agent] if id(response) not in taken]
        chosen += rng.sample(rest, min(size - len(agents), len(rest)))
        rng.shuffle(chosen)
    return chosen


def parse_team_size(text: str) -> tuple[int, int]:
    """`K` or `LOW-HIGH` as (lowest, highest); 0 is the whole team. Raises ValueError."""
    low, dash, high = text.partition("-")
    sizes = int(low), int(high if dash else low)
    if min(sizes) < 0 or sizes[0] > sizes[1] or (sizes[0] == 0 and sizes[1] > 0):
        raise ValueError(f"{text}: write K or LOW-HIGH, such as 3 or 1-5; 0 is the whole team")
    return sizes


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
