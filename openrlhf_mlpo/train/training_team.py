"""The team while a leader trains: what it is asked to revise, and by which engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from openrlhf_mlpo.engines import Sampling, make_engine
from openrlhf_mlpo.engines.answers import Answers
from openrlhf_mlpo.errors import UserError, errors_at
from openrlhf_mlpo.pool.draw import Draw
from openrlhf_mlpo.prompts.templates import PromptTemplate, load_template
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player, agent_player
from openrlhf_mlpo.team import load_team

ANSWERS = "_team"  # folder of the team's answers beside the checkpoints


@dataclass(frozen=True)
class State:
    """What a leader prompt showed: the question and the draw. A group's label names its state by number."""

    question: Question
    draw: Draw


@dataclass(frozen=True)
class Carried:
    """An output carried into the next round, and the state it answered; `round`: that of the prompt it leads to."""

    state: State
    output: str
    correct: bool
    round: int

    def row(self) -> dict[str, Any]:
        """Itself as JSON-ready values, for `from_row`."""
        return {**vars(self), "state": {"question": self.state.question.row(), "draw": asdict(self.state.draw)}}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Carried:
        """What `row` returned, as it was."""
        draw = Draw(**{name: tuple(values) for name, values in row["state"]["draw"].items()})
        state = State(Question.from_row(row["state"]["question"]), draw)
        return cls(state, row["output"], row["correct"], row["round"])


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

    def start(self, carried: Sequence[Carried]) -> Callable[[], list[list[str | None]]]:
        """Ask the agents; what is returned waits for them: `[state][place in the draw]`, None where an agent failed.

        It can be called again and asks nobody twice. Those that take turns are asked then: in synchronous training
        nothing else runs on their device while a batch is waited for. What is returned raises UserError when too many
        failed.
        """
        asked: dict[str, list[tuple[int, int]]] = {}
        for i, item in enumerate(carried):
            for k, name in enumerate(item.state.draw.agents):
                asked.setdefault(name, []).append((i, k))
        errors: dict[str, UserError] = {}
        revised: list[list[str | None]] = [[None] * len(item.state.draw.agents) for item in carried]

        def ask(name: str) -> None:
            player = self.players[name]
            # Each round has a seed of its own, as at inference; what is carried is in the order of rounds.
            for t, group in groupby(asked[name], key=lambda place: carried[place[0]].round):
                places = list(group)
                prompts = [self._prompt(player, carried[i], k) for i, k in places]
                try:
                    answers = player.ask(prompts, round=t, seed=self.seed)
                except UserError as error:
                    errors[name] = error
                    return
                for (i, k), samples in zip(places, answers, strict=True):
                    revised[i][k] = samples[0].text or None

        threads = ThreadPoolExecutor(len(asked) or 1)
        at_once = [threads.submit(ask, name) for name in asked if name not in self.one_by_one]
        threads.shutdown(wait=False)

        @cache
        def finish() -> list[list[str | None]]:
            for name in asked:
                if name in self.one_by_one:
                    ask(name)
            for future in at_once:
                future.result()
            self._check_failures(asked, revised, errors)
            return revised

        return finish

    def _prompt(self, player: Player, item: Carried, k: int) -> list[dict]:
        question, own = item.state.question.text, item.state.draw.texts[k]
        return player.agent_prompt(self.template, question, own, item.output)

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
        with errors_at(f"agent {agent.name}: "):
            engine = make_engine(agent)
        generate = answers.of_engine(agent.name, agent.identity(), engine, sampling)
        players[agent.name] = agent_player(agent, generate, sampling)
    return TrainingTeam(
        players,
        load_template(args.mlpo.template),
        seed=args.train.seed,
        max_failures=args.mlpo.team_failures,
        one_by_one=frozenset(agent.name for agent in agents if agent.engine == "vllm"),
    )
