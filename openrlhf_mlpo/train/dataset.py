"""`TeamPromptDataset`: OpenRLHF's prompt dataset whose prompts carry a draw from a pool of agents' responses."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from openrlhf.datasets import PromptDataset

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.format import majority
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.verify import canonical

POOL_COLUMNS = ("id", "task", "question", "answer", "responses")
_OPTIONAL_COLUMNS = ("subtask", "choices")
RESPONSE_FIELDS = ("agent", "text", "answer", "correct")  # what a draw is made of

_canonical = lru_cache(maxsize=10_000)(canonical)  # few answers, many draws
_to_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class Draw:
    """One response per agent for one training prompt, in the shuffled order the leader sees; empty for solo."""

    texts: tuple[str, ...]
    answers: tuple[str | None, ...]
    correct: tuple[bool, ...]

    @property
    def majority(self) -> bool | None:
        """True or False: more than half of the agents share an answer, and it is right or wrong. None: no majority."""
        return majority(self.answers, self.correct) if self.correct else None


def make_draw(
    responses: Sequence[dict],
    question_id: str,
    *,
    seed: int,
    episode: int | str,
    team_size: int = 0,
    solo_fraction: float = 0.0,
    task: str = "exact",
) -> Draw:
    """Draw one response per agent; depends on nothing but the arguments, so a resumed run sees the same prompts.

    `team_size` agents are chosen at random when it is neither 0 nor the whole team. The order is shuffled: position
    must not tell the leader who speaks. One draw serves all G samples of a prompt, as the group baseline requires.
    """
    rng = random.Random(f"{seed}:{episode}:{question_id}")
    if rng.random() < solo_fraction:
        return Draw((), (), ())
    by_agent: dict[str, list[dict]] = {}
    for response in responses:
        by_agent.setdefault(response["agent"], []).append(response)
    agents = sorted(by_agent)
    chosen = [rng.choice(by_agent[agent]) for agent in rng.sample(agents, team_size or len(agents))]
    answers = (None if r["answer"] is None else _canonical(r["answer"], task) for r in chosen)
    return Draw(tuple(r["text"] for r in chosen), tuple(answers), tuple(bool(r["correct"]) for r in chosen))


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
        self.renderer = make_renderer(tokenizer, args)
        self.dataset = dataset
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

    def __getitem__(self, index: int):
        solo = self.evaluation and index % 2 == 1
        row = read_row(self._arrow[int(self.rows[index // 2 if self.evaluation else index])])
        draw = make_draw(
            row["responses"],
            row["id"],
            seed=self.seed,
            episode="evaluation" if self.evaluation else int(self._episode),
            team_size=self.team_size,
            solo_fraction=float(solo) if self.evaluation else self.solo_fraction,
            task=row["task"],
        )
        source = f"{row['task']}_{'team' if draw.texts else 'solo'}"
        prompt = self.renderer.render(row["question"], shown(draw, self.renderer.show))
        return source, prompt, make_label(row, draw), None


def read_row(table: pa.Table) -> dict:
    """The one row of `table` as `Dataset.__getitem__` gives it, less what no prompt needs: a quarter of its time."""
    names = [name for name in (*POOL_COLUMNS[:-1], *_OPTIONAL_COLUMNS) if name in table.column_names]
    row = {name: table.column(name)[0].as_py() for name in names}
    responses = table.column("responses")[0].values
    fields = [responses.field(name).to_pylist() for name in RESPONSE_FIELDS]
    row["responses"] = [dict(zip(RESPONSE_FIELDS, values)) for values in zip(*fields)]
    return row


def keep_questions(dataset, max_correct: float) -> np.ndarray:
    """Which rows of a pool have less than `max_correct` of their responses right (`pool.keep_question`, on columns).

    Returns a boolean array of shape (rows,). Only the verdicts are read, so millions of rows take seconds.
    """
    kept = [np.zeros(0, bool)]
    for batch in dataset.select_columns(["responses"]).with_format("arrow").iter(batch_size=20_000):
        lists = batch["responses"].combine_chunks()
        counts = np.diff(lists.offsets.to_numpy())
        right = np.append(0, np.cumsum(pc.struct_field(lists.flatten(), "correct").to_numpy(zero_copy_only=False)))
        ends = np.cumsum(counts)
        kept.append(right[ends] - right[ends - counts] < max_correct * counts)
    return np.concatenate(kept)


def shown(draw: Draw, show: str) -> list[str]:
    """What the leader sees of each response: all of it, or with `show="answer"` its final answer alone."""
    if show == "full":
        return list(draw.texts)
    return [answer if answer is not None else "(no answer)" for answer in draw.answers]


def make_label(row: dict, draw: Draw) -> str:
    """The label OpenRLHF hands to the reward function and keeps in `Experience.labels`, as a JSON object."""
    label = {"answer": row["answer"], "task": row["task"], "id": row["id"]}
    for optional in _OPTIONAL_COLUMNS:
        if row.get(optional):
            label[optional] = row[optional]
    if draw.texts:
        label |= {"agents_correct": sum(draw.correct), "majority": draw.majority}
    return _to_json(label)


def prompt_budget(args) -> int:
    """Tokens a leader prompt may have: OpenRLHF's `--data.max_len` counts prompt and response together."""
    return args.data.max_len - (args.rollout.max_new_tokens or args.data.max_len // 2)


def make_renderer(tokenizer, args) -> PromptRenderer:
    """The renderer of leader prompts that the nested training arguments ask for."""
    variables = json.loads(args.mlpo.chat_template_kwargs or "{}")
    template = load_template(args.mlpo.template)
    return PromptRenderer(tokenizer, template, prompt_budget(args), args.mlpo.show, chat_template_kwargs=variables)


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
    if args.mlpo.team_size:
        sizes = np.minimum(sizes, args.mlpo.team_size)
    if args.mlpo.solo_fraction >= 1 and not evaluation:
        sizes[:] = 0
    questions = (text for batch in dataset.select_columns(["question"]).iter(1000) for text in batch["question"])
    for row, (question, size) in enumerate(zip(questions, sizes.tolist())):
        try:
            if keep[row]:
                renderer.check_fits(question, size)
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


def check_columns(columns: Sequence[str], path: str) -> None:
    """Raise UserError unless these are the columns of a pool."""
    if missing := [name for name in POOL_COLUMNS if name not in columns]:
        raise UserError(
            f"{path}: column {missing[0]!r} is missing (found {', '.join(columns)}); a pool is made by "
            "python3 -m openrlhf_mlpo.cli.sample_team"
        )
