"""Pools: the stored responses of a team, one row per question. Their columns, and opening them.

POOL/data/train-*.parquet holds the question columns and `responses`, a list of structs in the order (agent of the team
file, sample). POOL/_arrow holds the same rows ready for memory-mapping, POOL/_manifest.json how they were made.
`datasets.load_dataset(POOL)` and `pandas.read_parquet(POOL)` read the first and ignore the rest.
"""

from __future__ import annotations

import json
from pathlib import Path

from openrlhf_mlpo.errors import UserError

MANIFEST = "_manifest.json"


def response_type():
    """The Arrow type of one element of `responses`."""
    import pyarrow as pa

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
    import pyarrow as pa

    from openrlhf_mlpo.questions import COLUMNS

    fields = [pa.field(name, pa.list_(pa.string()) if name == "choices" else pa.string()) for name in COLUMNS]
    return pa.schema([*fields, pa.field("responses", pa.list_(response_type()))])


def read_manifest(path: str | Path) -> dict:
    """POOL/_manifest.json. Raises UserError when there is no pool at `path`."""
    file = Path(path) / MANIFEST
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no pool here ({MANIFEST} is missing); make one with openrlhf_mlpo.cli.sample_team"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: unreadable: {error}") from None


def pool_files(path: str | Path) -> list[Path]:
    """The Parquet files of a finished pool, in row order. Raises UserError for none or an unfinished one."""
    path = Path(path)
    files = sorted((path / "data").glob("*.parquet"))
    if not files:
        if (path / "_parts").is_dir():
            raise UserError(f"{path}: sampling has not finished; run the same sample_team command again to continue it")
        raise UserError(f"{path}: no pool here (no data/*.parquet)")
    return files


def open_pool(path: str | Path):
    """A pool as a memory-mapped `datasets.Dataset`: the same rows and types as `datasets.load_dataset(path)["train"]`.

    Uses POOL/_arrow, which sampling writes, so that nothing is converted and copied to a cache first; a pool without
    it (somebody's own Parquet directory) goes through `load_dataset`. Raises UserError when there is no finished pool.
    """
    import datasets

    files = pool_files(path)
    mapped = [Path(path) / "_arrow" / f"{file.stem}.arrow" for file in files]
    if all(arrow.exists() for arrow in mapped):
        parts = [datasets.Dataset.from_file(str(arrow)) for arrow in mapped]
        return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    import pyarrow.parquet as pq

    if not sum(pq.ParquetFile(file).metadata.num_rows for file in files):  # load_dataset fails on these
        raise UserError(f"{path}: the pool has no questions")
    dataset = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    if missing := sorted({"question", "answer", "task", "responses"} - set(dataset.column_names)):
        raise UserError(f"{path}: not a pool, column {missing[0]} is missing")
    return dataset
