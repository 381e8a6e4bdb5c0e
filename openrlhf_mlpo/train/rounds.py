"""Rounds inside training: prompts of rounds t > 0 made of the leader's own outputs and the team's revisions.

At inference the leader meets prompts that hold its last output and revised responses. `LaterRounds` makes such prompts
while training: one output of a group is carried on, the team revises, and in the next batch the leader answers the new
prompt in a group of its own, so that `R - mean(R)` still compares outputs to one prompt. States of the leader as it
trains matter: corrections learned on stored states of an earlier model do not carry over (SCoRe, arXiv 2409.12917).
That a state is one batch old lets the leader answer all rounds of a batch at once, and the team work meanwhile.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice, zip_longest
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_mlpo.pool.draw import Draw
from openrlhf_mlpo.prompts.templates import NO_ANSWER
from openrlhf_mlpo.train.dataset import TeamPromptDataset, make_label
from openrlhf_mlpo.train.outputs import are_right, output_text
from openrlhf_mlpo.train.training_team import Carried, State, TrainingTeam, open_team
from openrlhf_mlpo.verify.labels import parse_label

VERIFY_THREADS = 4
CARRIED = "mlpo_carried"  # key of the carried outputs in the state of the prompt loader


def round_counts(groups: int, rounds: int, later_share: float) -> list[int]:
    """How many of a batch's groups belong to each round: `later_share` of them to rounds t > 0 in equal parts.

    Every round gets at least one group: `checks.CHECKS` refuses fewer groups than rounds.
    """
    later = min(max(round(groups * later_share), rounds - 1), groups - 1) if rounds > 1 else 0
    each, rest = divmod(later, max(rounds - 1, 1))
    return [groups - later, *(each + (t < rest) for t in range(rounds - 1))]


def steps_of_all_rounds(steps: int, args: Any) -> int:
    """The optimizer steps of a run in which `steps` would be those of round 0 alone. `args`: nested.

    The first batches, in which later rounds have no carried outputs yet, take more prompts: a run has a few less.
    """
    groups = args.rollout.vllm_generate_batch_size or args.rollout.batch_size
    return steps * groups // round_counts(groups, args.mlpo.rounds, args.mlpo.later_share)[0]


class LaterRounds:
    """The outputs carried from one rollout batch to the next, and the prompts they lead to.

    `args`: nested; its `--mlpo.carry` says which output of a group is carried, where it has right and wrong ones:
    "balanced" (either with equal chance), "wrong" (a wrong one) or "sampled" (any, as likely as the leader gives it).
    """

    def __init__(self, args: Any, dataset: TeamPromptDataset, tokenizer):
        self.args, self.dataset, self.tokenizer = args, dataset, tokenizer
        self.carried: list[Carried] = []
        self._states: list[State] = []  # behind the prompts of later rounds of this batch
        self._revisions: Callable[[], list[list[str | None]]] | None = None

    @cached_property
    def team(self) -> TrainingTeam:
        """The team that revises, opened when it is first asked for."""
        return open_team(self.args)

    def carry(self, groups: Sequence[list[Experience]], size: int, rng: random.Random) -> None:
        """Choose outputs of a batch's groups for a batch of `size` groups, and have the team revise after them."""
        counts = round_counts(size, self.args.mlpo.rounds, self.args.mlpo.later_share)
        by_round: dict[int, list[list[Experience]]] = {}
        for group in groups:
            by_round.setdefault(label_of(group).get("round", 0), []).append(group)
        self.carried = []
        for t in range(1, len(counts)):
            before = by_round.get(t - 1, [])
            # Of few groups, as at the end of an episode, few are carried, as what one group leads to is much alike.
            wanted = min(counts[t], round(counts[t] * len(before) / counts[t - 1]))
            self.carried += self._choose(before, t, wanted, rng)
        self._revisions = self.team.start(self.carried)

    def _choose(
        self, groups: Sequence[list[Experience]], next_round: int, wanted: int, rng: random.Random
    ) -> Iterator[Carried]:
        """Choose `wanted` outputs, of as many groups as possible; fewer when there are not so many."""
        # Solo prompts stay in round 0: there is no team to ask.
        frontier = [group for group in groups if "round" in label_of(group)]
        rng.shuffle(frontier)
        in_turn = chain.from_iterable(zip_longest(*(self._in_order(group, rng) for group in frontier)))
        for output in islice((output for output in in_turn if output is not None), wanted):
            state = self._state(label_of([output]))
            yield Carried(state, self._text(output), are_right(output)[0], next_round)

    def _state(self, label: dict) -> State:
        """What the prompt with this label showed."""
        if "row" in label:
            return State(*self.dataset.state(label["row"], label["episode"]))
        return self._states[label["state"]]

    def _in_order(self, group: Sequence[Experience], rng: random.Random) -> list[Experience]:
        """A group's outputs in the order in which they would be carried."""
        outputs = sorted(group, key=self._text)
        rng.shuffle(outputs)
        sides = [[e for e in outputs if are_right(e) == [right]] for right in (True, False)]
        if self.args.mlpo.carry == "sampled" or not all(sides):
            return outputs
        if self.args.mlpo.carry == "balanced":
            rng.shuffle(sides)
        else:  # the wrong ones stand last
            sides.reverse()
        first = sides[0][0]
        return [first, *(e for e in outputs if e is not first)]

    def _text(self, experience: Experience) -> str:
        return output_text(experience, 0, self.tokenizer)

    def revisions(self) -> list[list[str | None]]:
        """Wait for the team: `[carried output][place in the draw]`, None where an agent failed.

        After a resume the team is asked now, and what it had answered before is read. Raises UserError.
        """
        if self._revisions is None:
            self._revisions = self.team.start(self.carried)
        return self._revisions()

    def prompts(self) -> list[tuple]:
        """The prompts of later rounds, as OpenRLHF's prompt loader would give them: (_, [prompt], [label], [image])."""
        revised = self.revisions()
        with ThreadPoolExecutor(VERIFY_THREADS) as threads:
            draws = list(threads.map(revised_draw, self.carried, revised))
        self._states, prompts = [], []
        for item, texts, draw in zip(self.carried, revised, draws, strict=True):
            question = item.state.question
            about = {
                "round": item.round,
                "state": len(self._states),
                "last_correct": item.correct,
                "agents_right": [*map(int, draw.correct)],
                "agents_right_before": [*map(int, item.state.draw.correct)],
                "agents_failed": texts.count(None),
            }
            self._states.append(State(question, draw))
            prompt = self.dataset.renderer.render(question.text, draw.texts, item.output)
            prompts.append((None, [prompt], [make_label(question, draw, about)], [None]))
        return prompts


class RoundsLoader:
    """OpenRLHF's prompt loader; its state, which checkpoints hold, also keeps the carried outputs."""

    def __init__(self, loader, later: LaterRounds):
        self._loader, self._later = loader, later

    def __len__(self) -> int:
        return len(self._loader)

    def state_dict(self) -> dict[str, Any]:
        """The loader's state, and carried outputs as a tensor: OpenRLHF prints states, of a tensor only the ends."""
        rows = json.dumps([item.row() for item in self._later.carried]).encode()
        return {**self._loader.state_dict(), CARRIED: torch.frombuffer(bytearray(rows), dtype=torch.uint8)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state up; one of a run without rounds has no carried outputs."""
        rows = json.loads(state[CARRIED].numpy().tobytes()) if CARRIED in state else []
        self._later.carried = list(map(Carried.from_row, rows))
        self._loader.load_state_dict(state)


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
