"""One evaluation while it runs: what is asked of it, who plays, and what several methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from eval.play.pools import PoolRates
from eval.play.recorder import Judge, Recorder, tokens
from openrlhf_mlpo import rounds
from openrlhf_mlpo.prompts.templates import BUILTIN_TEMPLATES, PromptTemplate
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player, Round, Turn

LEADER_METHODS = ("leader_team", "leader_solo", "leader_vote")
# What a method may use on a question when it gets the budget of leader_team, and how turns count towards it.
BUDGETS: dict[str, Callable[[Sequence[Turn]], int]] = {"generations": len, "tokens": tokens}


@dataclass(frozen=True)
class Config:
    """What the methods need to know; the command line's flags, checked."""

    methods: tuple[str, ...]
    rounds: int = 1
    template: PromptTemplate = BUILTIN_TEMPLATES["chat"]
    seed: int = 0
    early_stop: bool = False
    vote_samples: int = 0  # 0: as many as leader_team's generations
    debate_rounds: int = 2
    moa_layers: int = 2
    budgets: tuple[str, ...] = ()
    leader_methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # leader: only these of LEADER_METHODS

    def plays(self, leader: str, method: str) -> bool:
        """Whether this leader takes part in this leader method."""
        return method in self.methods and method in self.leader_methods.get(leader, LEADER_METHODS)


@dataclass
class Play:
    """Players, questions, what is generated once for several methods, and where rows are recorded.

    `samplers`: leaders by name at a temperature of their own, for leader_vote; `aggregator`: the leader of
    mixture_of_agents; `pool`: what a training pool says of the agents; `notes`: for the manifest.
    """

    config: Config
    team: Sequence[Player]
    leaders: Sequence[Player]
    questions: Sequence[Question]
    samplers: Mapping[str, Player] = field(default_factory=dict)
    aggregator: Player | None = None
    pool: PoolRates | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def first(self) -> list[list[Turn]]:
        """The team's first responses, `[question][agent]`; empty lists without a team."""
        if not self.team:
            return [[] for _ in self.questions]
        return [[samples[0] for samples in agents] for agents in self.team_samples(1)]

    @cached_property
    def record(self) -> Recorder:
        """Where rows and transcripts go."""
        return Recorder(self.questions, Judge(), self.first, self.config.seed)

    @cached_property
    def rounds(self) -> dict[str, list[list[Round]]]:
        """Every leader's rounds of leader_team, `{leader: [question][round]}`."""
        leaders, stop = self.playing("leader_team"), self.record.judge.settled if self.config.early_stop else None
        how = {"rounds": self.config.rounds, "seed": self.config.seed, "settled": stop}
        return rounds.leader_team(self.team, leaders, self.questions, self.config.template, **how) if leaders else {}

    @cached_property
    def limits(self) -> dict[str, list[int]]:
        """Each budget, by question: what the first leader used in leader_team, all rounds together."""
        if not self.rounds:  # then the generations alone can be a budget, see `eval.options.check`
            return {"generations": [self.generations] * len(self.questions)}
        episodes = next(iter(self.rounds.values()))
        used = [[turn for each in episode for turn in (*each.responses, each.output)] for episode in episodes]
        return {name: [size(turns) for turns in used] for name, size in BUDGETS.items()}

    @property
    def generations(self) -> int:
        """Generations of leader_team per question when no round is saved: T (K + 1)."""
        return self.config.rounds * (len(self.team) + 1)

    def playing(self, method: str) -> list[Player]:
        """The leaders that play a leader method."""
        return [leader for leader in self.leaders if self.config.plays(leader.name, method)]

    def team_samples(self, n: int) -> list[list[list[Turn]]]:
        """`n` first responses of every agent, `[question][agent][sample]`."""
        return rounds.team_answers(self.team, self.questions, self.config.template, n=n, seed=self.config.seed)

    def solo(self, leader: Player, n: int = 1) -> list[list[Turn]]:
        """`n` outputs of a leader without its team, `[question][sample]`."""
        return rounds.leader_solo(leader, self.questions, self.config.template, n=n, seed=self.config.seed)

    def affordable(self, i: int, costs: Sequence[Sequence[Turn]]) -> Iterator[tuple[str, int]]:
        """For each budget, the deepest of the steps whose turns (`costs`, all that led there) stay within it."""
        for budget in self.config.budgets:
            yield budget, deepest(map(BUDGETS[budget], costs), self.limits[budget][i])


def deepest(sizes: Iterable[int], limit: int) -> int:
    """The place of the last size within the limit; 0, the first step, may always be taken."""
    return max((place for place, size in enumerate(sizes) if size <= limit), default=0)
