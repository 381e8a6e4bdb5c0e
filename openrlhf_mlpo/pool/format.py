"""Pools: the stored responses of a team, one row per question. Their columns, and opening them.

POOL/data/train-*.parquet holds the question columns and `responses`, a list of structs in the order (agent of the team
file, sample). POOL/_arrow holds the same rows ready for memory-mapping, POOL/_manifest.json how they were made.
`datasets.load_dataset(POOL)` and `pandas.read_parquet(POOL)` read the first and ignore the rest.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from openrlhf_mlpo.errors import UserError, one_line
from openrlhf_mlpo.questions import COLUMNS

MANIFEST = "_manifest.json"


def response_type():
    """The Arrow type of one element of `responses`."""
    return pa.struct(
        {
            "agent": pa.string(),
            "model": pa.string(),
            "sample": pa.int32(),
            "text": pa.string(),
            "answer": pa.string(),  # null: none could be extracted
            "correct": pa.bool_(),
            "prompt_tokens": pa.int32(),
            "completion_tokens": pa.int32(),
            "finish_reason": pa.string(),
        }
    )


def pool_schema():
    """The Arrow schema of a pool: `questions.COLUMNS`, then `responses`."""
    fields = [pa.field(name, pa.list_(pa.string()) if name == "choices" else pa.string()) for name in COLUMNS]
    return pa.schema([*fields, pa.field("responses", pa.list_(response_type()))])


@contextmanager
def reading(file: Path) -> Generator[None]:
    """Raise UserError where a pool's Parquet file cannot be read."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        fix = "put a copy of it in its place, or sample into another directory"
        if file.parent.name == "_parts":
            fix = "delete it: the same sample_team command samples again what it held"
        raise UserError(f"{file}: damaged ({one_line(error, 120)}); {fix}") from None


def read_manifest(path: str | Path) -> dict:
    """POOL/_manifest.json. Raises UserError when there is no pool at `path`, or its manifest is damaged."""
    file = Path(path) / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no pool here ({MANIFEST} is missing); make one with openrlhf_mlpo.cli.sample_team"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged: {one_line(error)}; put a copy of it in its place") from None
    settings = manifest.get("settings") if isinstance(manifest, dict) else None
    if not isinstance(settings, dict) or not {"agents", "samples"} <= set(settings):
        raise UserError(f"{file}: damaged: it has no settings with agents and samples; put a copy of it in its place")
    return {"complete": False, **manifest}


def pool_files(path: str | Path) -> list[Path]:
    """The Parquet files of a finished pool, in row order. Raises UserError for none or an unfinished one."""
    path = Path(path)
    files = sorted((path / "data").glob("*.parquet"))
    if (path / "_data.new").is_dir() or not files and (path / "_parts").is_dir():
        raise UserError(f"{path}: sampling has not finished; run the same sample_team command again to continue it")
    if not files:
        raise UserError(f"{path}: no pool here (no data/*.parquet)")
    return files


def count_rows(path: str | Path, files: list[Path]) -> list[int]:
    """Rows of each of a pool's files. Raises UserError for one that is damaged or missing.

    Says on stderr when the pool is being extended and these are the rows it had before.
    """
    rows = []
    for file in files:
        with reading(file):
            rows.append(pq.ParquetFile(file).metadata.num_rows)
    whole = re.search(r"-of-0*(\d+)$", files[0].stem)
    if whole and int(whole[1]) != len(files):
        raise UserError(f"{path}: {len(files)} of {whole[1]} files are in data/; copy the pool again")
    if not (Path(path) / MANIFEST).exists():  # somebody's own Parquet directory
        return rows
    manifest = read_manifest(path)
    if not manifest["complete"]:
        print(
            f"note: {path} is being extended, or that was stopped; these are its {sum(rows)} questions before it. The "
            "same sample_team command finishes it",
            file=sys.stderr,
        )
    elif sum(rows) != (manifest["settings"].get("questions") or {}).get("rows", sum(rows)):
        raise UserError(f"{path}: {sum(rows)} of {manifest['settings']['questions']['rows']} questions are in data/; "
                        "copy the pool again")  # fmt: skip
    return rows


def open_pool(path: str | Path):
    """A pool as a memory-mapped `datasets.Dataset`: the same rows and types as `datasets.load_dataset(path)["train"]`.

    Uses POOL/_arrow, which sampling writes, so that nothing is converted and copied to a cache first; a pool without
    it (somebody's own Parquet directory), or where it is damaged, goes through `load_dataset`. Raises UserError when
    there is no finished pool or it is damaged.
    """
    import datasets

    files = pool_files(path)
    rows = count_rows(path, files)
    try:
        parts = [datasets.Dataset.from_file(str(Path(path) / "_arrow" / f"{file.stem}.arrow")) for file in files]
        if [len(part) for part in parts] == rows:
            return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    except Exception as error:  # missing or damaged, which says itself in many ways: the rows are in data/ too
        if not isinstance(error, FileNotFoundError):
            print(f"note: {path}/_arrow is damaged and not used: {one_line(error)}", file=sys.stderr)
    if not sum(rows):  # load_dataset fails on these
        raise UserError(f"{path}: the pool has no questions")
    try:
        dataset = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception as error:
        raise UserError(f"{path}: damaged: {one_line(error.__cause__ or error)}; copy the pool again") from None
    if missing := sorted({"question", "answer", "task", "responses"} - set(dataset.column_names)):
        raise UserError(f"{path}: not a pool, column {missing[0]} is missing")
    return dataset
