"""The rounds of `rounds.leader_team`, for one question at a time: its prompts, order and seeds, so its answers too."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from openrlhf_mlpo.engines import Sampling, request_seed
from openrlhf_mlpo.engines.base import seed_of
from openrlhf_mlpo.errors import UserError, one_line
from openrlhf_mlpo.prompts.templates import PromptTemplate
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player, Prompt, Round, Turn, shown_order
from openrlhf_mlpo.serve.batching import Batcher
from openrlhf_mlpo.verify import extract_answer


class TeamFailed(Exception):
    """All agents of the team failed on one question; the message says how."""


class TooLong(Exception):
    """A question that does not fit the leader's prompt."""


@dataclass
class Seat:
    """A player at the server: what it asks, of which engine, how."""

    player: Player
    batcher: Batcher
    sampling: Sampling

    async def ask(self, prompt: Prompt, round: int, seed: int, sampling: Sampling) -> Turn:
        """One turn, with the seed that `Player.ask` would take."""
        begun = time.perf_counter()
        number = seed_of(request_seed(seed, self.player.name, str(round)), 0, prompt) or 0
        completion = await self.batcher.ask(prompt, sampling, number)
        return self.player.turn(prompt, completion, round, time.perf_counter() - begun)


@dataclass
class Game:
    """One question on its way through the rounds: every turn so far, and the agents left out with the reason."""

    question: Question
    sampling: Sampling  # of the leader's outputs
    seed: int
    rounds: list[Round] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def key(self, text: str) -> str | None:
        """The answer of a text in the form in which answers are compared."""
        return self.question.key(extract_answer(text))


@dataclass
class Table:
    """A leader, its team, and how they play. `agent_seconds`: after so long an agent is left out of a question."""

    leader: Seat
    team: Sequence[Seat]
    template: PromptTemplate
    rounds: int
    agent_seconds: float

    async def leader_team(self, game: Game) -> AsyncIterator[Round]:
        """Play the rounds of a question, each as it is finished; early, once the leader's answer repeats.

        An agent that fails or takes too long is left out of the question from then on. Raises TeamFailed when none is
        left, and TooLong.
        """
        for t in range(self.rounds):
            responses = await self.responses(game, t)
            order = [k for k in shown_order(len(self.team), game.seed, game.question.id) if k in responses]
            shown = [responses[k].text for k in order]
            last = game.rounds[-1].output.text if game.rounds else None
            output = await self._lead(game, t, shown, last)
            game.rounds.append(Round(tuple(responses[k] for k in sorted(responses)), output))
            yield game.rounds[-1]
            before = None if last is None else game.key(last)
            if before is not None and before == game.key(output.text):
                return

    async def solo(self, game: Game) -> Turn:
        """The leader alone. Raises TooLong."""
        return await self._lead(game, 0, [], None)

    async def _lead(self, game: Game, t: int, shown: Sequence[str], last: str | None) -> Turn:
        try:
            prompt = self.leader.player.leader_prompt(self.template, game.question.text, shown, last)
        except UserError:
            raise TooLong("the question does not fit the leader's context beside its team's responses") from None
        game.turns.append(await self.leader.ask(prompt, t, game.seed, game.sampling))
        return game.turns[-1]

    async def vote(self, game: Game) -> Turn:
        """The first response that gives the answer of most agents, of equally many the first one's."""
        responses = await self.responses(game, 0)
        keys = {k: game.key(turn.text) for k, turn in sorted(responses.items())}
        votes = Counter(key for key in keys.values() if key is not None)
        winner = votes.most_common(1)[0][0] if votes else next(iter(keys.values()))
        return next(responses[k] for k, key in keys.items() if key == winner)

    async def responses(self, game: Game, t: int) -> dict[int, Turn]:
        """The team's responses of a round by place, of those agents that have not failed."""
        playing = [k for k, seat in enumerate(self.team) if seat.player.name not in game.failed]
        results = await asyncio.gather(*(self._respond(k, game, t) for k in playing))
        responses = {k: turn for k, turn in zip(playing, results, strict=True) if turn is not None}
        game.turns += responses.values()
        if not responses:
            raise TeamFailed("; ".join(f"{name}: {why}" for name, why in game.failed.items()))
        return responses

    async def _respond(self, k: int, game: Game, t: int) -> Turn | None:
        """One agent's response; None, with the reason in `game.failed`, when it fails."""
        seat, own, last = self.team[k], None, None
        if game.rounds:
            before = [turn for turn in game.rounds[-1].responses if turn.player == seat.player.name]
            own, last = before[0].text, game.rounds[-1].output.text
        prompt = seat.player.agent_prompt(self.template, game.question.text, own, last)
        try:
            turn = await asyncio.wait_for(seat.ask(prompt, t, game.seed, seat.sampling), self.agent_seconds)
        except (TimeoutError, asyncio.TimeoutError):  # two before Python 3.11
            game.failed[seat.player.name] = f"no response within {self.agent_seconds:g} s"
        except Exception as error:  # whatever an engine raises concerns this agent alone
            game.failed[seat.player.name] = one_line(error)
        else:
            if turn.text:
                return turn
            game.failed[seat.player.name] = f"an empty response ({turn.finish_reason})"
        return None
