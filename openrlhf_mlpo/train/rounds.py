"""Rounds inside training: prompts of rounds t > 0 made of the leader's own outputs and the team's revisions.

At inference the leader meets prompts that hold its last output and revised responses. `LaterRounds` makes such prompts
while training: one output of a group goes on, the team revises, and the leader answers the new prompt in a group of its
own, so that `R - mean(R)` still compares outputs to one prompt. States of the leader as it trains matter: corrections
learned on stored states of an earlier model do not carry over (SCoRe, arXiv 2409.12917).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_mlpo.engines import Sampling, make_engine
from openrlhf_mlpo.engines.answers import Answers
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.draw import Draw
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import NO_ANSWER, PromptTemplate, load_template
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player, agent_player
from openrlhf_mlpo.team import load_team
from openrlhf_mlpo.train.dataset import make_label
from openrlhf_mlpo.train.outputs import are_right, output_text
from openrlhf_mlpo.verify.labels import parse_label

VERIFY_THREADS = 4
ANSWERS = "_team"  # folder of the team's answers beside the checkpoints


@dataclass(frozen=True)
class State:
    """What a leader prompt showed: the question and the draw. A group's label names its state by number."""

    question: Question
    draw: Draw


@dataclass(frozen=True)
class Carried:
    """One output that goes on to the next round, from the state that it answered."""

    state: State
    output: str
    correct: bool


def round_counts(groups: int, rounds: int, later_share: float) -> list[int]:
    """How many of a batch's groups belong to each round: `later_share` of them to rounds t > 0 in equal parts.

    Every round gets at least one group: `checks.CHECKS` refuses fewer groups than rounds.
    """
    later = min(max(round(groups * later_share), rounds - 1), groups - 1) if rounds > 1 else 0
    each, rest = divmod(later, max(rounds - 1, 1))
    return [groups - later, *(each + (t < rest) for t in range(rounds - 1))]


def steps_of_all_rounds(steps: int, args: Any) -> int:
    """The optimizer steps of a run in which `steps` would be those of round 0 alone. `args`: nested."""
    groups = args.rollout.vllm_generate_batch_size or args.rollout.batch_size
    return steps * groups // round_counts(groups, args.mlpo.rounds, args.mlpo.later_share)[0]


@dataclass
class TrainingTeam:
    """The agents of a team file, asked to revise their responses while a leader trains.

    `players`: by agent's name; those of `one_by_one` share this process's device and take turns, the others are asked
    at once. An agent that fails gives "(no answer)"; when more than `max_failures` of the responses asked of a batch
    fail, the run stops with the endpoint's words.
    """

    players: dict[str, Player]
    template: PromptTemplate
    seed: int
    max_failures: float
    one_by_one: frozenset[str] = frozenset()

    def revise(self, carried: Sequence[Carried], round: int) -> list[list[str | None]]:
        """`[state][place in the draw]`: the revised responses; None where an agent failed. Raises UserError."""
        asked: dict[str, list[tuple[int, int]]] = {}
        for i, item in enumerate(carried):
            for k, name in enumerate(item.state.draw.agents):
                asked.setdefault(name, []).append((i, k))
        errors: dict[str, UserError] = {}
        revised: list[list[str | None]] = [[None] * len(item.state.draw.agents) for item in carried]

        def ask(name: str) -> None:
            player = self.players[name]
            prompts = []
            for i, k in asked[name]:
                state = carried[i].state
                own, question = state.draw.texts[k], state.question.text
                prompts.append(player.agent_prompt(self.template, question, own, carried[i].output))
            try:
                answers = player.ask(prompts, round=round, seed=self.seed)
            except UserError as error:
                errors[name] = error
                return
            for (i, k), samples in zip(asked[name], answers, strict=True):
                revised[i][k] = samples[0].text or None

        with ThreadPoolExecutor(len(asked)) as threads:
            at_once = [threads.submit(ask, name) for name in asked if name not in self.one_by_one]
            for name in asked:
                if name in self.one_by_one:
                    ask(name)
            for future in at_once:
                future.result()
        self._check_failures(asked, revised, errors)
        return revised

    def _check_failures(self, asked, revised, errors: dict[str, UserError]) -> None:
        total = sum(map(len, asked.values()))
        failed = {name: sum(revised[i][k] is None for i, k in where) for name, where in asked.items()}
        if sum(failed.values()) <= self.max_failures * total:
            return
        worst = max(failed, key=failed.__getitem__)
        words = f"; {errors[worst]}" if worst in errors else ": empty responses"
        raise UserError(
            f"--mlpo.team: {sum(failed.values())} of {total} revisions failed, above --mlpo.team_failures "
            f"{self.max_failures:g}; agent {worst}{words}"
        )


class LaterRounds:
    """Makes the prompts of rounds t > 0 of one rollout batch, and remembers the state behind each.

    `carry`: which output of a group goes on, where it has right and wrong ones: "balanced" (either with equal chance),
    "wrong" (a wrong one) or "sampled" (any, as likely as the leader gives it).
    """

    def __init__(self, team: TrainingTeam, renderer: PromptRenderer, tokenizer, *, carry: str, rng: random.Random):
        self.team, self.renderer, self.tokenizer, self.carry, self.rng = team, renderer, tokenizer, carry, rng
        self.states: list[State] = []

    def choose(self, frontier: Sequence[tuple[State, list[Experience]]], wanted: int) -> list[Carried]:
        """Choose `wanted` outputs that go on, of as many groups as possible; fewer when there are not so many."""
        # The order in which groups came back from the engines must not matter.
        frontier = sorted(frontier, key=lambda pair: (pair[0].question.id, pair[0].draw.texts))
        self.rng.shuffle(frontier)
        outputs = [[(state, output) for output in self._in_order(group)] for state, group in frontier]
        in_turn = (pair for pairs in zip_longest(*outputs) for pair in pairs if pair)
        return [Carried(state, self._text(e), *are_right(e)) for state, e in islice(in_turn, wanted)]

    def _in_order(self, group: Sequence[Experience]) -> list[Experience]:
        """A group's outputs in the order in which they would go on."""
        outputs = sorted(group, key=self._text)
        self.rng.shuffle(outputs)
        sides = [[e for e in outputs if are_right(e) == [right]] for right in (True, False)]
        if self.carry == "sampled" or not all(sides):
            return outputs
        if self.carry == "balanced":
            self.rng.shuffle(sides)
        else:  # the wrong ones stand last
            sides.reverse()
        first = sides[0][0]
        return [first, *(e for e in outputs if e is not first)]

    def _text(self, experience: Experience) -> str:
        return output_text(experience, 0, self.tokenizer)

    def prompts(self, carried: Sequence[Carried], round: int) -> Iterator[tuple]:
        """The next round's prompts as OpenRLHF's prompt loader would give them: (_, [prompt], [label], [image])."""
        revised = self.team.revise(carried, round)
        with ThreadPoolExecutor(VERIFY_THREADS) as threads:
            draws = list(threads.map(revised_draw, carried, revised))
        for item, texts, draw in zip(carried, revised, draws, strict=True):
            question = item.state.question
            about = {
                "round": round,
                "state": len(self.states),
                "last_correct": item.correct,
                "agents_right": [*map(int, draw.correct)],
                "agents_right_before": [*map(int, item.state.draw.correct)],
                "agents_failed": texts.count(None),
            }
            self.states.append(State(question, draw))
            prompt = self.renderer.render(question.text, draw.texts, item.output)
            yield None, [prompt], [make_label(question, draw, about)], [None]


def revised_draw(carried: Carried, texts: Sequence[str | None]) -> Draw:
    """The draw of the next round: the same agents in the same order, as in the rounds of inference."""
    question = carried.state.question
    verdicts = [None if text is None else question.verify(text) for text in texts]
    return Draw(
        texts=tuple(NO_ANSWER if text is None else text for text in texts),
        keys=tuple(None if verdict is None else question.key(verdict.answer) for verdict in verdicts),
        correct=tuple(verdict is not None and bool(verdict.correct) for verdict in verdicts),
        agents=carried.state.draw.agents,
    )


def label_of(group: Sequence[Experience]) -> dict:
    """What the label that the outputs of one group share holds beside its answer and task."""
    return parse_label(group[0].labels[0]).extra


def open_team(args: Any) -> TrainingTeam:
    """The team of `--mlpo.team`, its engines open. `args`: nested training arguments. Raises UserError.

    Where checkpoints are saved, the team's answers are kept beside them: what a resumed run asks again is read.
    """
    resumable = 0 < args.ckpt.save_steps < float("inf")
    answers = Answers(Path(args.ckpt.path) / ANSWERS if resumable else None)
    agents = load_team(args.mlpo.team)
    players = {}
    for agent in agents:
        sampling = Sampling.from_dict(agent.sampling)
        generate = answers.of_engine(agent.name, agent.identity(), make_engine(agent), sampling)
        players[agent.name] = agent_player(agent, generate, sampling)
    return TrainingTeam(
        players,
        load_template(args.mlpo.template),
        seed=args.train.seed,
        max_failures=args.mlpo.team_failures,
        one_by_one=frozenset(agent.name for agent in agents if agent.engine == "vllm"),
    )
