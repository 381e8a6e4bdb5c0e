"""What a training command opens: leader, pools and checkpoint, each found faulty before any engine starts.

OpenRLHF and vLLM would open them minutes or hours later, in a worker and with a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import get_dataset_split_names

from openrlhf_mlpo.errors import UserError, errors_at
from openrlhf_mlpo.models import open_config, open_tokenizer
from openrlhf_mlpo.pool.draw import parse_team_size
from openrlhf_mlpo.pool.format import open_pool
from openrlhf_mlpo.prompts.chat_template import PINNED_DATE, prints_date
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.team import load_team
from openrlhf_mlpo.train.checkpoints import check_checkpoint
from openrlhf_mlpo.train.checks import samples_at_once
from openrlhf_mlpo.train.dataset import (
    POOL_COLUMNS,
    RESPONSE_FIELDS,
    agents_by_row,
    make_renderer,
    select_rows,
    too_long,
)
from openrlhf_mlpo.train.sharing import settle_model


def check_files(args: SimpleNamespace, flat: dict) -> None:
    """Open the leader's tokenizer and configuration, the pools and the checkpoint, as OpenRLHF will.

    Settles `--mlpo.share_prompt` in `flat`, the same arguments as OpenRLHF will read them. Raises UserError.
    """
    if args.mlpo.rounds > 1 and not Path(args.mlpo.team).exists():
        raise UserError(f"--mlpo.team: team file {args.mlpo.team}: no such file; recipes/serve_team.sh can write one")
    model, n = args.actor.model_name_or_path, args.rollout.n_samples_per_prompt
    tokenizer = open_tokenizer(model, "--actor.model_name_or_path")
    settle_model(flat, open_config(model, "--actor.model_name_or_path"))
    renderer = make_renderer(tokenizer, args)
    if prints_date(tokenizer, renderer.chat_template_kwargs):
        note = f"the chat template of {model} prints the date; all prompts say {PINNED_DATE:%d %b %Y}"
        print(f"note: {note}, so that a resumed run sees the same ones", file=sys.stderr)
    questions = _check_pools(renderer, args, args.mlpo.pool, "--data.prompt_split")
    # A mixture repeats questions until its last pool is used up: there are at least as many.
    if args.data.prompt_probs is None and samples_at_once(args, questions) < args.train.batch_size:
        raise UserError(
            f"--train.batch_size {args.train.batch_size}: the {questions} questions kept of {args.mlpo.pool} x {n} "
            f"samples are {questions * n} and never fill one optimizer step; lower it, or use more questions"
        )
    if args.eval.dataset:
        _check_pools(renderer, args, args.eval.dataset, "--eval.split")
    if args.ckpt.load_enable:
        check_checkpoint(args.ckpt.path)


def _check_pools(renderer, args: SimpleNamespace, paths: str, split_flag: str) -> int:
    """Check each pool of `--mlpo.pool` or `--eval.dataset`; returns how many questions OpenRLHF will take of them."""
    evaluation = split_flag == "--eval.split"
    split = args.eval.split if evaluation else args.data.prompt_split
    questions, left = 0, args.data.max_samples
    for path in map(str.strip, paths.split(",")):
        pool = open_pool(path)
        if split not in (splits := get_dataset_split_names(path)):
            raise UserError(f"{split_flag} {split}: {path} has no such split, it has {', '.join(splits)}")
        pool = pool.select(range(min(left, len(pool))))
        questions += check_dataset(pool, renderer, args, path, evaluation)
        if evaluation or args.data.prompt_probs is None:  # else --data.max_samples counts for each pool
            left -= len(pool)
        if not left:
            break
    return questions


def check_dataset(dataset, renderer: PromptRenderer, args, path: str, evaluation: bool = False) -> int:
    """Find, before any engine starts, what would stop a run hours later; returns how many questions will be used.

    Raises UserError for a row that lacks a value or an agent, for too small a team, for a question that cannot fit
    (unless `--mlpo.drop_long` leaves it out), and when no question is left.
    """
    _check_columns(dataset, path)
    if not len(dataset):
        raise UserError(f"{path}: the pool has no questions")
    _check_values(dataset, path)
    team, responded = agents_by_row(dataset)
    if (gaps := np.argwhere(~responded)).size or not team:
        row, missing = gaps[0].tolist() if team else (0, 0)
        raise UserError(
            f"{path}: row {row + 1} has no response of {team[missing] if team else 'any agent'}"
            f" ({(~responded).any(axis=1).sum()} such rows); sample the pool again or leave such rows out"
        )
    fewest = min(len(responses) for batch in dataset.iter(1000) for responses in batch["responses"])
    if parse_team_size(args.mlpo.team_size)[1] > fewest:
        raise UserError(
            f"--mlpo.team_size {args.mlpo.team_size}: {path} holds {fewest} responses to a question, of {len(team)} "
            f"agents ({', '.join(team)})"
        )
    if args.mlpo.rounds > 1 and (unknown := sorted(set(team) - {agent.name for agent in load_team(args.mlpo.team)})):
        raise UserError(
            f"--mlpo.team {args.mlpo.team} has no agent {unknown[0]!r}, whose responses {path} holds; name the team "
            "file that the pool was sampled with"
        )
    with errors_at(f"{path}: "):
        keep, _ = select_rows(dataset, renderer, args, evaluation)
    if not args.mlpo.drop_long and (long := list(too_long(dataset, keep, renderer, args, evaluation))):
        row, error = long[0]
        raise UserError(f"{path}: row {row + 1}: {error}, or leave out {len(long)} such rows with --mlpo.drop_long")
    return int(keep.sum())


def _check_columns(dataset, path: str) -> None:
    """Raise UserError unless these are the columns of a pool, and the responses have what a draw is made of."""
    if missing := [name for name in POOL_COLUMNS if name not in dataset.column_names]:
        raise UserError(
            f"{path}: column {missing[0]!r} is missing (found {', '.join(dataset.column_names)}); a pool is made by "
            "python3 -m openrlhf_mlpo.cli.sample_team"
        )
    records = getattr(dataset.data.schema.field("responses").type, "value_type", None)
    fields = {field.name for field in records} if records is not None and pa.types.is_struct(records) else set()
    if missing := [name for name in RESPONSE_FIELDS if name not in fields]:
        raise UserError(f"{path}: column 'responses' must be a list of records that have {', '.join(missing)} too")


def _check_values(dataset, path: str) -> None:
    """Raise UserError for the first row of a pool with a null where a prompt or a label needs a value."""
    done = 0
    for batch in dataset.select_columns(list(POOL_COLUMNS)).with_format("arrow").iter(batch_size=20_000):
        lists = batch["responses"].combine_chunks()
        rows = pc.list_parent_indices(lists).to_numpy()
        for name in POOL_COLUMNS:
            _no_null(batch[name].combine_chunks(), range(done, done + len(lists)), path, name)
        for name in ("agent", "text", "correct"):  # an answer may be null: none could be extracted
            _no_null(pc.struct_field(lists.flatten(), name), rows + done, path, f"a response with {name}")
        done += len(lists)


def _no_null(values: pa.Array, rows: Sequence[int], path: str, what: str) -> None:
    if values.null_count:
        row = int(rows[int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))])
        raise UserError(f"{path}: row {row + 1}: {what} is null; fix the row or leave it out")
