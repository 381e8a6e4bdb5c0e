"""The methods an evaluation compares, each as rows `{question, method, answer, correct, cost}` plus transcripts.

`run_methods` is the whole list. Costs are what the method would use on its own, also where generations were shared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.play.baselines import debate, mixture_of_agents, within_tokens
from eval.play.recorder import Judge, Recorder, settled
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.templates import BUILTIN_TEMPLATES, PromptTemplate
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player, Turn, leader_solo, leader_team, team_answers

METHODS = (
    "leader_team",
    "leader_solo",
    "leader_vote",
    "agent",
    "majority_vote",
    "best_agent",
    "debate",
    "mixture_of_agents",
    "oracle",
)
LEADER_METHODS = ("leader_team", "leader_solo", "leader_vote")
BUDGETS = ("generations", "tokens")
MOST_SAMPLES = 8


@dataclass(frozen=True)
class Config:
    """What `run_methods` needs to know; the command line's flags, checked."""

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
        return method in self.methods and method in self.leader_methods.get(leader, LEADER_METHODS)


def run_methods(
    config: Config,
    team: Sequence[Player],
    leaders: Sequence[Player],
    questions: Sequence[Question],
    *,
    samplers: Mapping[str, Player] | None = None,
    aggregator: Player | None = None,
    pool: Path | None = None,
) -> tuple[list[dict], list[dict], dict]:
    """Rows, transcripts, and notes for the manifest. `samplers`: leaders by name at a temperature, for leader_vote."""
    judge, notes, seed, template = Judge(), {}, config.seed, config.template
    singles = team_answers(team, questions, template, seed=seed) if team else [[] for _ in questions]
    first = [[samples[0] for samples in agents] for agents in singles]
    rec = Recorder(questions, judge, first, seed)
    wants, everyone = config.methods, range(len(questions))
    generations = config.rounds * (len(team) + 1)
    spent: dict[int, int] = {}  # tokens of the first leader's leader_team, per question: the budget "tokens"

    for i in everyone if team else ():
        rec.transcript(i, "agent", first[i])
    if "agent" in wants:
        for k, agent in enumerate(team):
            for i in everyone:
                rec.output(i, "agent", [first[i][k]], first[i][k], agent=agent.name)
    if "best_agent" in wants:
        best, notes["best_agent"] = choose_best(team, questions, first, judge, pool)
        for i in everyone:
            rec.output(i, "best_agent", [first[i][best]], first[i][best], agent=team[best].name)
    if "majority_vote" in wants:
        for i in everyone:
            rec.elected(i, "majority_vote", first[i])
    if "oracle" in wants:
        for i in everyone:
            right = [turn for turn in first[i] if judge(questions[i], turn.text).correct]
            rec.row(i, "oracle", first[i], judge(questions[i], right[0].text).answer if right else None, bool(right))

    playing = [leader for leader in leaders if config.plays(leader.name, "leader_team")]
    played = {}
    if playing:
        stop = settled if config.early_stop else None
        played = leader_team(team, playing, questions, template, rounds=config.rounds, seed=seed, settled=stop)
    for leader in playing:
        for i, rounds in enumerate(played[leader.name]):
            turns: list[Turn] = []
            for t in range(config.rounds):
                if t < len(rounds):
                    turns += [*rounds[t].responses, rounds[t].output]
                now = rounds[min(t, len(rounds) - 1)]  # a question settled early keeps its answer
                state = rec.team_state(questions[i], now.responses)
                rec.output(
                    i, "leader_team", turns, now.output, leader=leader.name, leading=leader.name, round=t,
                    played=len(rounds), n_correct_now=state["n_correct_agents"], majority_now=state["majority_correct"],
                )  # fmt: skip
            if leader is playing[0]:
                spent[i] = sum(turn.prompt_tokens + turn.completion_tokens for turn in turns)
            rec.transcript(i, "leader_team", turns, leader.name)

    for leader in leaders:
        if config.plays(leader.name, "leader_solo"):
            for i, samples in enumerate(leader_solo(leader, questions, template, seed=seed)):
                rec.output(i, "leader_solo", samples, samples[0], leader=leader.name)
                rec.transcript(i, "leader_solo", samples, leader.name)
    for leader in leaders:
        if config.plays(leader.name, "leader_vote"):
            n = config.vote_samples or generations
            sampler = (samplers or {}).get(leader.name, leader)

            def draw(n: int, sampler: Player = sampler) -> list[list[Turn]]:
                return leader_solo(sampler, questions, template, n=n, seed=seed)

            for i, samples in enumerate(draw(n)):
                rec.elected(i, "leader_vote", samples, leader=leader.name)
                rec.transcript(i, "leader_vote", samples, leader.name)
            equal_votes(rec, "leader_vote", draw, config.budgets, generations, spent, leader=leader.name)
    if "majority_vote" in wants and config.budgets:

        def draw(n: int) -> list[list[Turn]]:
            each = -(-n // len(team))
            drawn = team_answers(team, questions, template, n=each, seed=seed)
            # Sample by sample around the team, so that any cut leaves each agent its fair share.
            return [[agents[k][s] for s in range(each) for k in range(len(team))] for agents in drawn]

        equal_votes(rec, "majority_vote", draw, config.budgets, generations, spent)

    if "debate" in wants:
        longest = max(config.debate_rounds, generations // len(team) if config.budgets else 0)
        episodes = debate(team, questions, first, template, rounds=longest, seed=seed)
        costs = [[[turn for turns in ep[: t + 1] for turn in turns] for t in range(longest)] for ep in episodes]
        for i, ep in enumerate(episodes):
            for t in range(config.debate_rounds):
                rec.elected(i, "debate", ep[t], costs[i][t], round=t)
            for budget, t in fits(config.budgets, costs[i], generations, spent.get(i)):
                rec.elected(i, "debate", ep[t], costs[i][t], budget=budget, round=t)
            rec.transcript(i, "debate", costs[i][-1])
    if "mixture_of_agents" in wants:
        longest = max(config.moa_layers, (generations - 1) // len(team) if config.budgets else 0)
        episodes = mixture_of_agents(team, aggregator, questions, first, template, layers=longest, seed=seed)
        for i, ep in enumerate(episodes):
            # At depth t the earlier layers' proposals are used, but not what the aggregator would have made of them.
            costs = [[turn for turns in ep[:t] for turn in turns[:-1]] + ep[t] for t in range(longest)]
            more = {"leader": aggregator.name, "leading": aggregator.name}
            t = config.moa_layers - 1
            rec.output(i, "mixture_of_agents", costs[t], ep[t][-1], round=t, **more)
            for budget, t in fits(config.budgets, costs, generations, spent.get(i)):
                rec.output(i, "mixture_of_agents", costs[t], ep[t][-1], round=t, budget=budget, **more)
            rec.transcript(i, "mixture_of_agents", costs[-1], aggregator.name)
    return rec.rows, rec.transcripts, notes


def equal_votes(
    rec: Recorder,
    method: str,
    draw: Callable[[int], list[list[Turn]]],
    budgets: Sequence[str],
    generations: int,
    spent: Mapping[int, int],
    **more: Any,
) -> None:
    """Votes of as many samples as leader_team makes generations, or as fit in the tokens it took on that question.

    `draw(n)` gives at least n samples per question. How many a budget of tokens needs is estimated from what those of
    the other budget cost, with a quarter to spare, up to `MOST_SAMPLES` times the generations.
    """
    if not budgets:
        return
    drawn = draw(generations)
    if "generations" in budgets:
        for i, samples in enumerate(drawn):
            rec.elected(i, method, samples[:generations], budget="generations", **more)
    if "tokens" in budgets:
        made = [turn.prompt_tokens + turn.completion_tokens for samples in drawn for turn in samples]
        wanted = 1.25 * (sum(spent.values()) / len(spent)) / max(1.0, sum(made) / len(made))
        n = min(math.ceil(wanted), MOST_SAMPLES * generations)
        for i, samples in enumerate(draw(n) if n > len(drawn[0]) else drawn):
            rec.elected(i, method, within_tokens(samples, spent[i]), budget="tokens", **more)


def fits(budgets: Sequence[str], costs: Sequence[Sequence[Turn]], generations: int, tokens: int | None) -> list:
    """For each budget, the deepest step whose cumulated turns stay within it; the first step always may."""
    found = []
    for budget in budgets:
        sizes = [
            len(turns) if budget == "generations" else sum(t.prompt_tokens + t.completion_tokens for t in turns)
            for turns in costs
        ]
        limit = generations if budget == "generations" else tokens
        found.append((budget, max((t for t, size in enumerate(sizes) if size <= limit), default=0)))
    return found


def choose_best(team, questions, first, judge: Judge, pool: Path | None) -> tuple[int, dict]:
    """The index of the agent that is most often right: in the pool if one is given, else on these very questions, which
    makes it the harder baseline (no one could have known). Ties go to the first in the team file."""
    if pool is None:
        rates = [
            sum(judge(q, turns[k].text).correct for q, turns in zip(questions, first, strict=True))
            / max(1, len(questions))
            for k in range(len(team))
        ]
        chosen_on = "the evaluated questions"
    else:
        right, seen = pool_rates(pool)
        if missing := [agent.name for agent in team if not seen[agent.name]]:
            raise UserError(
                f"--pool {pool} holds no responses of agent {missing[0]!r}; it has {', '.join(sorted(seen))}"
            )
        rates = [right[agent.name] / seen[agent.name] for agent in team]
        chosen_on = "the pool"
    best = max(range(len(team)), key=lambda k: rates[k])
    return best, {
        "name": team[best].name,
        "chosen_on": chosen_on,
        "rates": {a.name: r for a, r in zip(team, rates, strict=True)},
    }


def pool_rates(pool: Path) -> tuple[Counter, Counter]:
    """Right and all responses per agent of a pool. Raises UserError when the folder is no pool."""
    import pyarrow.parquet as pq

    files = sorted(Path(pool).glob("data/*.parquet"))
    if not files:
        raise UserError(f"--pool {pool}: no data/*.parquet in it; name the folder that sample_team wrote")
    right, seen = Counter(), Counter()
    for file in files:
        for responses in pq.read_table(file, columns=["responses"]).column("responses").to_pylist():
            for response in responses:
                seen[response["agent"]] += 1
                right[response["agent"]] += bool(response["correct"])
    return right, seen
