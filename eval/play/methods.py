"""The methods that an evaluation compares: `METHODS`, by name, one function each.

A method takes all questions through a `Play` and records a row per question, or per round of those that have rounds. A
row's cost is what the method would use on its own, also where its generations are shared with others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from eval.play.baselines import debate, mixture_of_agents
from eval.play.recorder import tokens
from eval.play.state import BUDGETS, Config, Play, deepest
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player, Turn

MOST_SAMPLES = 8  # times the generations of leader_team: what a vote may draw to fill a budget of tokens


def run_methods(
    config: Config, team: Sequence[Player], leaders: Sequence[Player], questions: Sequence[Question], **more: Any
) -> tuple[list[dict], list[dict], dict]:
    """Rows, transcripts, and notes for the manifest, of all methods of `config`; `more`: see `Play`.

    Each method has what it needs: `eval.options.check` has seen to that.
    """
    play = Play(config, team, leaders, questions, **more)
    for i, turns in enumerate(play.first if team else ()):
        play.record.transcript(i, "agent", turns)
    for name, method in METHODS.items():
        if name in config.methods:
            method(play)
    return play.record.rows, play.record.transcripts, play.notes


def agent(play: Play) -> None:
    """Each agent's first response."""
    for player in play.team:
        record_agents(play, "agent", [player.name] * len(play.questions))


def best_agent(play: Play) -> None:
    """The agent that is most often right in the pool if one is given, else on these very questions, which makes it the
    harder baseline (no one could have known). Ties go to the first in the team file."""
    chosen_on = "the pool" if play.pool else "the evaluated questions"
    rates = play.pool.rates([player.name for player in play.team]) if play.pool else first_rates(play)
    best = max(rates, key=rates.__getitem__)
    play.notes["best_agent"] = {"name": best, "chosen_on": chosen_on, "rates": rates}
    record_agents(play, "best_agent", [best] * len(play.questions))


def first_rates(play: Play) -> dict[str, float]:
    """How often each agent's first response is right."""
    right = [
        [play.record.judge(question, turn.text).correct for turn in turns]
        for question, turns in zip(play.questions, play.first)
    ]
    return {player.name: sum(column) / len(column) for player, column in zip(play.team, zip(*right))}


def router(play: Play) -> None:
    """The agent that is most often right in the pool on questions of the same kind, which takes no model at all.

    A kind that the pool lacks gets the agent that is best over the whole pool.
    """
    assert play.pool, "the best agent of each kind is read off it"
    names, best = [player.name for player in play.team], {}
    play.notes["router"] = []
    for kind in dict.fromkeys((question.task, question.subtask) for question in play.questions):
        of_kind = play.pool.rates(names, kind)
        rates = of_kind or play.pool.rates(names)
        best[kind] = max(rates, key=rates.__getitem__)
        play.notes["router"].append({"task": kind[0], "subtask": kind[1], "agent": best[kind], "rates": of_kind})
    record_agents(play, "router", [best[question.task, question.subtask] for question in play.questions])


def record_agents(play: Play, method: str, names: Sequence[str]) -> None:
    """A row per question whose answer is the first response of the agent with that name."""
    place = {player.name: k for k, player in enumerate(play.team)}
    for i, name in enumerate(names):
        turn = play.first[i][place[name]]
        play.record.output(i, method, [turn], turn, agent=name)


def majority_vote(play: Play) -> None:
    """The answer that most agents give; with a budget also the vote of as many samples as it allows."""
    for i, turns in enumerate(play.first):
        play.record.elected(i, "majority_vote", turns)

    def draw(n: int) -> list[list[Turn]]:
        # Sample by sample around the team, so that any cut leaves each agent its fair share.
        drawn = play.team_samples(-(-n // len(play.team)))
        return [[turn for turns in zip(*agents) for turn in turns] for agents in drawn]

    equal_votes(play, "majority_vote", draw)


def oracle(play: Play) -> None:
    """Right where any agent is: what choosing among the first responses can reach."""
    for i, (question, turns) in enumerate(zip(play.questions, play.first)):
        verdicts = [play.record.judge(question, turn.text) for turn in turns]
        right = [verdict.answer for verdict in verdicts if verdict.correct]
        play.record.row(i, "oracle", turns, right[0] if right else None, bool(right))


def leader_team(play: Play) -> None:
    """The leader with its team, round by round."""
    for leader in play.playing("leader_team"):
        for i, (question, episode) in enumerate(zip(play.questions, play.rounds[leader.name])):
            turns: list[Turn] = []
            for t in range(play.config.rounds):
                if t < len(episode):
                    turns += [*episode[t].responses, episode[t].output]
                now = episode[min(t, len(episode) - 1)]  # a question settled early keeps its answer
                state = play.record.team_state(question, now.responses)
                play.record.output(
                    i, "leader_team", turns, now.output, leader=leader.name, round=t, played=len(episode),
                    n_correct_now=state["n_correct_agents"], majority_now=state["majority_correct"],
                    follows=play.record.judge.follows(question, now.responses, now.output),
                )  # fmt: skip
            play.record.transcript(i, "leader_team", turns, leader.name)


def team_vote(play: Play) -> None:
    """The vote of the responses that each round of leader_team shows the leader: what it has to add to."""
    for name, episodes in play.rounds.items():
        for i, episode in enumerate(episodes):
            for t in range(play.config.rounds):
                *before, now = episode[: t + 1]  # of a question settled early: its last round
                turns = [turn for each in before for turn in (*each.responses, each.output)]
                play.record.elected(i, "team_vote", now.responses, [*turns, *now.responses], leader=name, round=t)


def leader_solo(play: Play) -> None:
    """The leader alone, one output."""
    for leader in play.playing("leader_solo"):
        for i, samples in enumerate(play.solo(leader)):
            play.record.output(i, "leader_solo", samples, samples[0], leader=leader.name)
            play.record.transcript(i, "leader_solo", samples, leader.name)


def leader_vote(play: Play) -> None:
    """The leader alone, several samples that vote (self-consistency)."""
    for leader in play.playing("leader_vote"):
        sampler = play.samplers.get(leader.name, leader)
        for i, samples in enumerate(play.solo(sampler, play.config.vote_samples or play.generations)):
            play.record.elected(i, "leader_vote", samples, leader=leader.name)
            play.record.transcript(i, "leader_vote", samples, leader.name)
        equal_votes(play, "leader_vote", lambda n, sampler=sampler: play.solo(sampler, n), leader=leader.name)


METHODS: dict[str, Callable[[Play], None]] = {
    method.__name__: method
    for method in (
        agent, best_agent, router, majority_vote, oracle, leader_team, team_vote, leader_solo, leader_vote, debate,
        mixture_of_agents,
    )
}  # fmt: skip


def equal_votes(play: Play, method: str, draw: Callable[[int], list[list[Turn]]], **more: Any) -> None:
    """Votes of as many samples as each budget allows on each question.

    `draw(n)` gives at least n samples per question. How many a budget of tokens needs is estimated from what as many
    samples as leader_team's generations cost, with a quarter to spare.
    """
    drawn = draw(play.generations) if play.config.budgets else []
    for budget in play.config.budgets:
        limits, samples = play.limits[budget], drawn
        if budget == "tokens":
            mean = sum(map(tokens, drawn)) / sum(map(len, drawn))
            wanted = math.ceil(1.25 * sum(limits) / len(limits) / max(1.0, mean))
            if wanted > len(drawn[0]):
                samples = draw(min(wanted, MOST_SAMPLES * play.generations))
        for i, turns in enumerate(samples):
            sizes = accumulate(BUDGETS[budget]([turn]) for turn in turns)
            play.record.elected(i, method, turns[: 1 + deepest(sizes, limits[i])], budget=budget, **more)
