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

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts import PromptTemplate
from openrlhf_mlpo.rounds import Player, Turn, leader_solo, leader_team, team_answers
from openrlhf_mlpo.verify import canonical, extract_answer, verify_response

from eval.baselines import debate, mixture_of_agents, vote, within_tokens

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
    template: PromptTemplate = field(default_factory=PromptTemplate)
    seed: int = 0
    early_stop: bool = False
    vote_samples: int = 0  # 0: as many as leader_team's generations
    debate_rounds: int = 2
    moa_layers: int = 2
    budgets: tuple[str, ...] = ()
    leader_methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # leader: only these of LEADER_METHODS

    def plays(self, leader: str, method: str) -> bool:
        return method in self.methods and method in self.leader_methods.get(leader, LEADER_METHODS)


class Judge:
    """Verdicts of `openrlhf_mlpo.verify`, one per (question, text); many methods show the same texts."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, str], Any] = {}
        self._keys: dict[tuple[str, str], str] = {}

    def __call__(self, question: Mapping, text: str) -> Any:
        key = (question["id"], text)
        if key not in self._verdicts:
            verdict = verify_response(
                text,
                question["answer"],
                question["task"],
                subtask=question["subtask"] or None,
                choices=question["choices"] or None,
            )
            self._verdicts[key] = verdict
        return self._verdicts[key]

    def elect(self, question: Mapping, turns: Sequence[Turn], seed: int) -> tuple[str | None, bool]:
        """The answer that these turns vote for, and whether it is right."""
        verdicts = [self(question, turn.text) for turn in turns]
        keys = [self.key(question, v.answer) for v in verdicts]
        answers = [v.answer for v in verdicts]
        winner = vote(answers, keys, seed, question["id"])
        return winner, winner is not None and verdicts[answers.index(winner)].correct

    def majority(self, question: Mapping, turns: Sequence[Turn]) -> bool | None:
        """Whether the answer of more than half of the team is right; None where no answer has that many."""
        verdicts = [self(question, turn.text) for turn in turns]
        keys = [self.key(question, v.answer) for v in verdicts]
        key, most = Counter(keys).most_common(1)[0] if keys else (None, 0)
        return None if key is None or 2 * most <= len(turns) else bool(verdicts[keys.index(key)].correct)

    def key(self, question: Mapping, answer: str | None) -> str | None:
        """The form in which answers to this question are compared with each other; None stays None."""
        if answer is None:
            return None
        key = (question["id"], answer)
        if key not in self._keys:
            choices = question["choices"] or None
            self._keys[key] = canonical(answer, question["task"], subtask=question["subtask"] or None, choices=choices)
        return self._keys[key]

    def settled(self, question: Mapping, last: str, now: str) -> bool:
        """Two outputs with the same answer; two without one are not settled."""
        a, b = extract_answer(last), extract_answer(now)
        return None not in (a, b) and self.key(question, a) == self.key(question, b)


class Recorder:
    """Collects rows and transcripts in the order in which they are to be written."""

    def __init__(self, questions: Sequence[Mapping], judge: Judge, first: Sequence[Sequence[Turn]], seed: int):
        self.questions, self.judge, self.seed = questions, judge, seed
        self.rows: list[dict] = []
        self.transcripts: list[dict] = []
        self.initial = [self.team_state(q, turns) for q, turns in zip(questions, first)]

    def team_state(self, question: Mapping, responses: Sequence[Turn]) -> dict:
        if not responses:
            return {"n_correct_agents": None, "majority_correct": None}
        right = sum(self.judge(question, turn.text).correct for turn in responses)
        return {"n_correct_agents": right, "majority_correct": self.judge.majority(question, responses)}

    def row(self, i: int, method: str, turns: Sequence[Turn], answer: str | None, correct: bool, **more: Any) -> None:
        """`turns`: all that the method used for this answer; they are its cost.

        `steps` counts model calls that must follow each other and `serial_tokens` the tokens generated along the longest
        of them: latency without the machine. `seconds` is this machine's share of batched time.
        """
        q = self.questions[i]
        prompt = sum(turn.prompt_tokens for turn in turns)
        completion = sum(turn.completion_tokens for turn in turns)
        longest: dict[tuple[int, bool], int] = {}
        leading = more.pop("leading", "")
        for turn in turns:
            key = (turn.round, turn.player == leading)
            longest[key] = max(longest.get(key, 0), turn.completion_tokens)
        self.rows.append(
            {
                "id": q["id"],
                "task": q["task"],
                "subtask": q["subtask"],
                "method": method,
                "leader": more.pop("leader", ""),
                "agent": more.pop("agent", ""),
                "round": more.pop("round", None),
                "budget": more.pop("budget", ""),
                "answer": answer,
                "correct": bool(correct),
                "formatted": more.pop("formatted", None),
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "tokens": prompt + completion,
                "generations": len(turns),
                "steps": len(longest),
                "serial_tokens": sum(longest.values()),
                "seconds": round(sum(turn.seconds for turn in turns), 6),
                **self.initial[i],
                **more,
            }
        )

    def output(self, i: int, method: str, turns: Sequence[Turn], output: Turn, **more: Any) -> None:
        """A row whose answer is what `output` says."""
        verdict = self.judge(self.questions[i], output.text)
        self.row(i, method, turns, verdict.answer, verdict.correct, formatted=bool(verdict.formatted), **more)

    def elected(self, i: int, method: str, voters: Sequence[Turn], turns: Sequence[Turn] | None = None, **more: Any):
        """A row whose answer is what `voters` vote for."""
        self.row(i, method, turns or voters, *self.judge.elect(self.questions[i], voters, self.seed), **more)

    def transcript(self, i: int, method: str, turns: Sequence[Turn], leader: str = "") -> None:
        q = self.questions[i]
        told = []
        for turn in turns:
            verdict = self.judge(q, turn.text)
            told.append({**turn.__dict__, "answer": verdict.answer, "correct": bool(verdict.correct)})
        head = {"id": q["id"], "task": q["task"], "subtask": q["subtask"], "question": q["question"], "gold": q["answer"]}
        self.transcripts.append({**head, "method": method, "leader": leader, "turns": told})


def run_methods(
    config: Config,
    team: Sequence[Player],
    leaders: Sequence[Player],
    questions: Sequence[Mapping],
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
    settled = judge.settled if config.early_stop else None
    played = leader_team(
        team, playing, questions, template, rounds=config.rounds, seed=seed, settled=settled
    ) if playing else {}
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
            sum(judge(q, turns[k].text).correct for q, turns in zip(questions, first)) / max(1, len(questions))
            for k in range(len(team))
        ]
        chosen_on = "the evaluated questions"
    else:
        right, seen = pool_rates(pool)
        if missing := [agent.name for agent in team if not seen[agent.name]]:
            raise UserError(f"--pool {pool} holds no responses of agent {missing[0]!r}; it has {', '.join(sorted(seen))}")
        rates = [right[agent.name] / seen[agent.name] for agent in team]
        chosen_on = "the pool"
    best = max(range(len(team)), key=lambda k: rates[k])
    return best, {"name": team[best].name, "chosen_on": chosen_on, "rates": {a.name: r for a, r in zip(team, rates)}}


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
