"""`TeamPromptDataset`: OpenRLHF's prompt dataset whose prompts carry a draw from a pool of agents' responses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from openrlhf.datasets import PromptDataset

from openrlhf_mlpo.engines.base import json_object
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.draw import Draw, keep_questions, make_draw, parse_team_size
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.questions import Question

POOL_COLUMNS = ("id", "task", "question", "answer", "responses")
_OPTIONAL_COLUMNS = ("subtask", "choices")
RESPONSE_FIELDS = ("agent", "text", "answer", "correct")  # what a draw is made of

_to_json = json.JSONEncoder(ensure_ascii=False).encode


class TeamPromptDataset(PromptDataset):
    """Rows of one or more pools as leader prompts, rendered when asked for and never before.

    Takes the place of `openrlhf.datasets.PromptDataset` and returns what it returns: (datasource, prompt, label,
    image). The label is a JSON object with the gold answer and what the draw looked like, for reward and metrics.
    For evaluation every question stands twice, with a fixed draw (datasource `…team`) and alone (`…solo`), so that
    OpenRLHF logs the two accuracies apart.
    """

    def __init__(self, dataset, tokenizer, strategy, input_template=None, *, evaluation: bool = False) -> None:
        """`dataset`: a `datasets.Dataset` that `inputs.check_dataset` has passed. Raises UserError: no row is left."""
        args = self.args = strategy.args
        self.evaluation = evaluation
        self.team_size = parse_team_size(args.mlpo.team_size)
        self.renderer = make_renderer(tokenizer, args)
        self._arrow = dataset.with_format("arrow")
        keep, note = select_rows(dataset, self.renderer, args, evaluation)
        self.rows = np.flatnonzero(keep)
        if strategy.is_rank_0():
            print(f"{'evaluation' if evaluation else 'training'}: {note}")
        # Shared memory, so that data loader workers see the episode too.
        self._episode = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_episode(self, episode: int) -> None:
        """Say which pass over the questions this is: each has draws of its own."""
        self._episode[0] = episode

    def __len__(self) -> int:
        return len(self.rows) * (2 if self.evaluation else 1)

    def __getitem__(self, idx: int):
        solo = self.evaluation and idx % 2 == 1
        number = int(self.rows[idx // 2 if self.evaluation else idx])
        episode = "evaluation" if self.evaluation else int(self._episode)
        question, draw = self.state(number, episode, float(solo) if self.evaluation else None)
        source = f"{question.task}_{'team' if draw.texts else 'solo'}"
        more = None
        if self.args.mlpo.rounds > 1 and draw.texts and not self.evaluation:
            more = {"round": 0, "row": number, "episode": episode}  # from which `train.rounds` makes later rounds
        return source, self.renderer.render(question.text, draw.texts), make_label(question, draw, more), None

    def state(self, number: int, episode: int | str, solo_fraction: float | None = None) -> tuple[Question, Draw]:
        """Question and draw of one row of the pool in one episode: the same however often it is asked for."""
        question, responses = read_row(self._arrow[number])
        mlpo = self.args.mlpo
        return question, make_draw(
            question,
            responses,
            seed=self.args.train.seed,
            episode=episode,
            team_size=self.team_size,
            solo_fraction=mlpo.solo_fraction if solo_fraction is None else solo_fraction,
            balance=mlpo.balance_draws and episode != "evaluation",
        )


def read_row(table: pa.Table) -> tuple[Question, list[dict]]:
    """Question and responses of the one row of `table`, less what no prompt needs: in a quarter of the time that
    `Dataset.__getitem__` takes."""
    names = [name for name in (*POOL_COLUMNS[:-1], *_OPTIONAL_COLUMNS) if name in table.column_names]
    row = {name: table.column(name)[0].as_py() for name in names}
    responses = table.column("responses")[0].values
    fields = [responses.field(name).to_pylist() for name in RESPONSE_FIELDS]
    return Question.from_row(row), [dict(zip(RESPONSE_FIELDS, values)) for values in zip(*fields)]


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


def make_renderer(tokenizer, args) -> PromptRenderer:
    """The renderer of leader prompts that the nested training arguments ask for."""
    variables = json_object(args.mlpo.chat_template_kwargs, "--mlpo.chat_template_kwargs")
    template = load_template(args.mlpo.template)
    budget = args.data.max_len - args.rollout.max_new_tokens  # --data.max_len counts prompt and output together
    return PromptRenderer(tokenizer, template, budget, args.mlpo.show, chat_template_kwargs=variables)


def select_rows(dataset, renderer: PromptRenderer, args, evaluation: bool) -> tuple[np.ndarray, str]:
    """Which rows to train or evaluate on, as booleans, and a note that counts them and those left out.

    Training leaves out what too many responses get right (`--mlpo.drop_correct`), both leave out what cannot fit with
    `--mlpo.drop_long`. Raises UserError when no row is left.
    """
    keep = np.ones(len(dataset), bool) if evaluation else keep_questions(dataset, args.mlpo.drop_correct)
    left_out = []
    if easy := len(dataset) - int(keep.sum()):
        left_out.append(f"{easy} with at least {args.mlpo.drop_correct:.0%} of responses correct (--mlpo.drop_correct)")
    if args.mlpo.drop_long and (long := [row for row, _ in too_long(dataset, keep, renderer, args, evaluation)]):
        keep[long] = False
        left_out.append(f"{len(long)} too long for --data.max_len (--mlpo.drop_long)")
    reasons = ", ".join(left_out) or "none"
    if not keep.any():
        raise UserError(f"no question is left of {len(dataset)}; left out: {reasons}; raise that limit")
    return keep, f"{int(keep.sum())} of {len(dataset)} questions; left out: {reasons}"


def too_long(
    dataset, keep: np.ndarray, renderer: PromptRenderer, args, evaluation: bool
) -> Iterator[tuple[int, UserError]]:
    """Rows marked in `keep` whose leader prompt cannot fit however its responses are cut, each with the reason."""
    sizes = agents_by_row(dataset)[1].sum(axis=1)
    if most := parse_team_size(args.mlpo.team_size)[1]:
        sizes[:] = most
    if args.mlpo.solo_fraction >= 1 and not evaluation:
        sizes[:] = 0
    questions = (text for batch in dataset.select_columns(["question"]).iter(1000) for text in batch["question"])
    for row, (question, size) in enumerate(zip(questions, sizes.tolist())):
        try:
            if keep[row]:
                renderer.check_fits(question, size, 1 if evaluation else args.mlpo.rounds)
        except UserError as error:
            yield row, error


def agents_by_row(dataset) -> tuple[list[str], np.ndarray]:
    """The names of a pool's agents, and which of them responded to which question: booleans, (rows, agents)."""
    columns: dict[str, int] = {}
    rows, agents = [np.zeros(0, int)], [np.zeros(0, int)]
    start = 0
    for batch in dataset.select_columns(["responses"]).with_format("arrow").iter(batch_size=20_000):
        lists = batch["responses"].combine_chunks()
        names = pc.struct_field(lists.flatten(), "agent").dictionary_encode()
        places = [columns.setdefault(name, len(columns)) for name in names.dictionary.to_pylist()]
        rows.append(start + pc.list_parent_indices(lists).to_numpy())
        agents.append(np.array(places, int)[names.indices.to_numpy()])
        start += len(lists)
    responded = np.zeros((len(dataset), len(columns)), bool)
    responded[np.concatenate(rows), np.concatenate(agents)] = True
    team = sorted(columns)
    return team, responded[:, [columns[name] for name in team]]
