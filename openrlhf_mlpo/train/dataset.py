"""`TeamPromptDataset`: OpenRLHF's prompt dataset whose prompts carry a draw from a pool of agents' responses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from openrlhf.datasets import PromptDataset

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.draw import Draw, keep_questions, make_draw
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.questions import Question

POOL_COLUMNS = ("id", "task", "question", "answer", "responses")
_OPTIONAL_COLUMNS = ("subtask", "choices")
_RESPONSE_FIELDS = ("agent", "text", "answer", "correct")  # what a draw is made of

_to_json = json.JSONEncoder(ensure_ascii=False).encode


class TeamPromptDataset(PromptDataset):
    """Rows of one or more pools as leader prompts, rendered when asked for and never before.

    Takes the place of `openrlhf.datasets.PromptDataset` and returns what it returns: (datasource, prompt, label,
    image). The label is a JSON object with the gold answer and what the draw looked like, for reward and metrics.
    For evaluation every question stands twice, with a fixed draw (datasource `…team`) and alone (`…solo`), so that
    OpenRLHF logs the two accuracies apart.
    """

    def __init__(self, dataset, tokenizer, strategy, input_template=None, *, evaluation: bool = False) -> None:
        """`dataset`: a `datasets.Dataset` with the pool columns. Raises UserError when it is not a usable pool."""
        args = strategy.args
        check_columns(dataset.column_names, args.eval.dataset if evaluation else args.mlpo.pool)
        self.strategy = strategy
        self.tokenizer = tokenizer
        self.evaluation = evaluation
        self.seed = args.train.seed
        self.team_size = args.mlpo.team_size
        self.solo_fraction = args.mlpo.solo_fraction
        self.rounds = args.mlpo.rounds
        self.renderer = PromptRenderer(
            tokenizer, load_template(args.mlpo.template), prompt_budget(args), show=args.mlpo.show
        )
        self.dataset = dataset
        self._arrow = dataset.with_format("arrow")
        keep = np.ones(len(dataset), bool) if evaluation else keep_questions(dataset, args.mlpo.drop_correct)
        self.rows = np.flatnonzero(keep)
        if not len(self.rows):
            raise UserError(
                f"--mlpo.pool {args.mlpo.pool}: no question is left: in all {len(dataset)} at least "
                f"{args.mlpo.drop_correct:.0%} of the responses are correct; raise --mlpo.drop_correct"
            )
        if strategy.is_rank_0():
            print(f"pool: {len(self.rows)} of {len(dataset)} questions {'to evaluate on' if evaluation else 'kept'}")
        # Shared memory, so that data loader workers see the episode too.
        self._episode = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_episode(self, episode: int) -> None:
        """Say which pass over the questions this is: each has draws of its own."""
        self._episode[0] = episode

    def __len__(self) -> int:
        return len(self.rows) * (2 if self.evaluation else 1)

    def __getitem__(self, index: int):
        solo = self.evaluation and index % 2 == 1
        number = int(self.rows[index // 2 if self.evaluation else index])
        episode = "evaluation" if self.evaluation else int(self._episode)
        question, draw = self.state(number, episode, float(solo) if self.evaluation else self.solo_fraction)
        source = f"{question.task}_{'team' if draw.texts else 'solo'}"
        more = None
        if self.rounds > 1 and draw.texts and not self.evaluation:
            more = {"round": 0, "row": number, "episode": episode}  # whence `train.rounds` goes on
        return source, self.renderer.render(question.text, draw.texts), make_label(question, draw, more), None

    def state(self, number: int, episode: int | str, solo_fraction: float | None = None) -> tuple[Question, Draw]:
        """Question and draw of one row of the pool in one episode: the same however often it is asked for."""
        question, responses = read_row(self._arrow[number])
        solo = self.solo_fraction if solo_fraction is None else solo_fraction
        return question, make_draw(
            question, responses, seed=self.seed, episode=episode, team_size=self.team_size, solo_fraction=solo
        )


def read_row(table: pa.Table) -> tuple[Question, list[dict]]:
    """Question and responses of the one row of `table`, less what no prompt needs: in a quarter of the time that
    `Dataset.__getitem__` takes."""
    names = [name for name in (*POOL_COLUMNS[:-1], *_OPTIONAL_COLUMNS) if name in table.column_names]
    row = {name: table.column(name)[0].as_py() for name in names}
    responses = table.column("responses")[0].values
    fields = [responses.field(name).to_pylist() for name in _RESPONSE_FIELDS]
    return Question.from_row(row), [dict(zip(_RESPONSE_FIELDS, values)) for values in zip(*fields)]


def make_label(question: Question, draw: Draw, more: Mapping[str, Any] | None = None) -> str:
    """The label OpenRLHF hands to the reward function and keeps in `Experience.labels`, as a JSON object.

    `more`: what later rounds add (see `train.rounds`).
    """
    label: dict[str, Any] = {"answer": question.answer, "task": question.task, "id": question.id}
    if question.subtask:
        label["subtask"] = question.subtask
    if question.choices:
        label["choices"] = question.choices
    if draw.texts:
        label |= {"agents_correct": sum(draw.correct), "majority": draw.majority}
    return _to_json(label | dict(more or {}))


def prompt_budget(args) -> int:
    """Tokens a leader prompt may have: OpenRLHF's `--data.max_len` counts prompt and response together."""
    return args.data.max_len - (args.rollout.max_new_tokens or args.data.max_len // 2)


def check_columns(columns: Sequence[str], path: str) -> None:
    """Raise UserError unless these are the columns of a pool."""
    if missing := [name for name in POOL_COLUMNS if name not in columns]:
        raise UserError(
            f"{path}: column {missing[0]!r} is missing (found {', '.join(columns)}); a pool is made by "
            "python3 -m openrlhf_mlpo.cli.sample_team"
        )


def check_dataset(dataset, tokenizer, args, path: str) -> None:
    """Find, before any engine starts, what would stop a run hours later. Raises UserError.

    Team size, that every question fits its budget, and that every agent answered every question.
    """
    check_columns(dataset.column_names, path)
    if not len(dataset):
        raise UserError(f"{path}: the pool has no questions")
    agents = Counter(response["agent"] for response in dataset[0]["responses"])
    if args.mlpo.team_size > len(agents):
        raise UserError(
            f"--mlpo.team_size {args.mlpo.team_size}: the team of {path} has {len(agents)} agents "
            f"({', '.join(sorted(agents))})"
        )
    renderer = PromptRenderer(tokenizer, load_template(args.mlpo.template), prompt_budget(args), show=args.mlpo.show)
    team_size = args.mlpo.team_size or len(agents)
    for number, question in enumerate(dataset["question"], 1):
        try:
            renderer.check_fits(question, team_size)
        except UserError as error:
            raise UserError(f"{path}: row {number}: {error}") from None
