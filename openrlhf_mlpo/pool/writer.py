"""Writing a pool so that a killed run can be continued: nothing lost beyond the batch in flight, nothing twice.

While it runs, each finished batch is one file in POOL/_parts, written under another name and then renamed,
so a part is either whole or absent. When every agent has answered every question the parts, and what the pool held
before it was extended, are put together in the order of the questions into _data.tmp and _arrow.tmp. Renaming the first
to _data.new says that both are whole; only then do they take the places of POOL/data and POOL/_arrow, and the parts go.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from openrlhf_mlpo.errors import UserError, one_line
from openrlhf_mlpo.files import whole_file
from openrlhf_mlpo.pool.format import MANIFEST, pool_schema, read_manifest, reading, response_type
from openrlhf_mlpo.pool.parts import StoredResponses
from openrlhf_mlpo.pool.settings import contradiction

ROWS_PER_GROUP = 1024  # questions per Parquet row group and Arrow batch
GROUPS_PER_FILE = 64
MAX_AGE = 30.0  # seconds after which a batch is written though it is not full


class PoolWriter:
    """Owns a pool's directory while it is being made (one process at a time). Use as a context manager."""

    def __init__(self, path: str | Path, questions, manifest: dict, flush_every: int = 0):
        """`questions`: a `datasets.Dataset` with `questions.COLUMNS`; `manifest["settings"]`: what must be the same
        when a run is continued (or ask for more of it, see `pool.settings`), with the agents under "agents" and
        "samples" each; `flush_every`: questions per part (0: 64, and more where that would make over a thousand parts
        per agent). Raises UserError when settings differ or a file is damaged."""
        self.path = Path(path)
        self.parts = self.path / "_parts"
        self.questions = questions
        self.ids: list[str] = list(questions["id"])
        self.agents = [agent["name"] for agent in manifest["settings"]["agents"]]
        self.samples: int = manifest["settings"]["samples"]
        self.flush_every = flush_every or max(64, len(self.ids) // 1000)
        self._buffer: list[tuple[str, list[dict]]] = []
        self._buffer_since = 0.0
        self._lock = self._take_directory()
        try:
            with _writing_to(self.path):
                self.manifest = self._begin(manifest)
        except BaseException:
            self._lock.close()
            raise
        self.complete = self.manifest["complete"] and bool(self._pool_files())
        if self.complete:
            shutil.rmtree(self.parts, ignore_errors=True)  # the last run may have been killed just before
            return
        for leftover in self.parts.glob(".*"):
            leftover.unlink()
        self._next_part = 1 + max((int(part.stem.split("-")[1]) for part in self.parts.glob("*.parquet")), default=-1)

    def __enter__(self) -> PoolWriter:
        return self

    def __exit__(self, *_exception) -> None:
        try:
            self.flush()
        finally:
            self._lock.close()

    def first_missing(self, agent: str):
        """The number of the first sample that each question lacked of this agent before this writer added any
        (`samples`: none is missing), as an int array in the order of `ids`."""
        return self._first_missing[:, self.agents.index(agent)]

    @cached_property
    def _first_missing(self) -> np.ndarray:
        """`first_missing` of all agents: (questions, agents). Read once, as every part holds responses of any agent."""
        if self.complete:
            return np.full((len(self.ids), len(self.agents)), self.samples)
        there = self._stored().there
        return np.where(there.all(axis=2), self.samples, there.argmin(axis=2))

    def add(self, agent: str, question_id: str, responses: list[dict]) -> None:
        """Keep one agent's responses to a question, all that were missing; written with the batch they fill."""
        if not responses or responses[-1]["sample"] != self.samples - 1:
            raise ValueError(f"{len(responses)} responses of {agent} to {question_id}: not all that were missing")
        if not self._buffer:
            self._buffer_since = time.monotonic()
        self._buffer.append((question_id, responses))
        if len(self._buffer) >= self.flush_every or time.monotonic() - self._buffer_since > MAX_AGE:
            self.flush()

    def flush(self) -> None:
        """Write what has been added."""
        if not self._buffer:
            return
        ids, responses = zip(*self._buffer, strict=True)
        table = pa.table({"id": pa.array(ids), "responses": pa.array(responses, pa.list_(response_type()))})
        with _writing_to(self.path):
            _write_part(table, self.parts / f"part-{self._next_part:07d}.parquet")
        self._next_part += 1
        self._buffer = []

    def assemble(self) -> None:
        """Turn what is stored into the finished pool. Every agent must be done."""
        self.flush()
        if self.complete:
            return
        stored = self._stored()
        if missing := int((~stored.there).sum()):
            raise RuntimeError(f"{missing} responses are missing")
        schema = pool_schema()

        def rows(start: int, end: int):
            block = self.questions.with_format("arrow")[start:end]
            columns = [block[name].combine_chunks().cast(schema.field(name).type) for name in schema.names[:-1]]
            return pa.table([*columns, stored.read(start, end)], schema)

        with _writing_to(self.path):
            write_files(self.path / "_data.tmp", self.path / "_arrow.tmp", len(self.ids), rows)
            os.replace(self.path / "_data.tmp", self.path / "_data.new")
            self._put_in_place(self.manifest)
        self.complete = True

    def _take_directory(self):
        """Make the directory and lock it; UserError when it is another's."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path}: is a file; name a directory")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = not (self.path / MANIFEST).exists() and [
                p for p in self.path.iterdir() if not p.name.startswith(("_", "."))
            ]
            lock = (self.path / "_lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--out {self.path}: another process is sampling into it") from None
        except OSError as error:
            raise UserError(f"--out {self.path}: {error.strerror or error}") from None
        if foreign:
            raise UserError(f"--out {self.path}: holds other files ({foreign[0].name}); name a new or empty directory")
        return lock

    def _begin(self, wanted: dict) -> dict:
        """The manifest to go on with: a new one, the stored one, or one that asks for more than the stored one."""
        before: dict | None = None
        if (self.path / MANIFEST).exists():
            before = read_manifest(self.path)
            self._put_in_place(before)
            settings = json.loads(json.dumps(wanted["settings"]))
            if before["settings"] == settings:
                self.parts.mkdir(exist_ok=True)
                return before
            asks = dict(zip(self.ids, zip(self.questions["answer"], self.questions["subtask"])))
            if problem := contradiction(before["settings"], settings, self._asked(), asks):
                raise UserError(
                    f"--out {self.path} was begun with other settings: {problem}; use those, or another directory"
                )
        manifest = {**wanted, "complete": False}
        if before:
            manifest["earlier"] = [*before.pop("earlier", []), before]
        self._write_manifest(manifest)
        self.parts.mkdir(exist_ok=True)
        listed = self.questions.select_columns(["id", "answer", "subtask"]).with_format("arrow")[:]
        _write_part(listed, self.parts / "_questions")
        return manifest

    def _asked(self) -> dict[str, tuple] | None:
        """The questions that the pool was begun with: id -> (answer, subtask); None when nothing says which."""
        listed = self.parts / "_questions"
        asked: dict[str, tuple] = {}
        for file in [listed] if listed.exists() else self._pool_files():
            with reading(file):
                table = pq.ParquetFile(file).read(["id", "answer", "subtask"])
            asked.update((row["id"], (row["answer"], row["subtask"])) for row in table.to_pylist())
        return asked or None

    def _stored(self) -> StoredResponses:
        files = [*self._pool_files(), *sorted(self.parts.glob("*.parquet"))]
        return StoredResponses(files, self.ids, self.agents, self.samples)

    def _pool_files(self) -> list[Path]:
        return sorted((self.path / "data").glob("*.parquet"))

    def _put_in_place(self, manifest: dict) -> None:
        """Let files that are whole take the places of older ones. A run that was killed on the way does it again."""
        new, arrow = self.path / "_data.new", self.path / "_arrow.tmp"
        if new.is_dir():
            if arrow.is_dir():
                shutil.rmtree(self.path / "_arrow", ignore_errors=True)
                os.replace(arrow, self.path / "_arrow")
            manifest["complete"] = True
            self._write_manifest(manifest)
            shutil.rmtree(self.path / "data", ignore_errors=True)
            os.replace(new, self.path / "data")
            shutil.rmtree(self.parts, ignore_errors=True)

    def _write_manifest(self, manifest: dict) -> None:
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        with whole_file(self.path / MANIFEST) as file:
            file.write(text.encode(errors="backslashreplace"))  # so lone surrogates stay valid JSON


@contextmanager
def _writing_to(path: Path) -> Generator[None]:
    """Raise UserError where a file of the pool cannot be written, such as on a full disk."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else one_line(error)
        raise UserError(f"--out {path}: cannot be written: {why}; once it can, the same command continues") from None


def _write_part(table, path: Path) -> None:
    """Write a Parquet file that is whole or absent, and on the disk: it may have cost hours of sampling."""
    with whole_file(path) as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())


def write_files(parquet_dir: Path, arrow_dir: Path, total: int, rows: Callable[[int, int], Any]) -> None:
    """Write `total` rows as Parquet and as Arrow streams, replacing both directories. `rows(start, end)` gives a table
    with `pool_schema()`; it is asked for at most `ROWS_PER_GROUP` rows at a time, in order."""
    for directory in (parquet_dir, arrow_dir):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    schema, per_file = pool_schema(), ROWS_PER_GROUP * GROUPS_PER_FILE
    files = -(-total // per_file)
    for number in range(files):
        stem, last = f"train-{number:05d}-of-{files:05d}", min((number + 1) * per_file, total)
        with (
            pq.ParquetWriter(parquet_dir / f"{stem}.parquet", schema, compression="zstd") as parquet,
            pa.OSFile(str(arrow_dir / f"{stem}.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, schema) as arrow,
        ):
            for start in range(number * per_file, last, ROWS_PER_GROUP):
                table = rows(start, min(start + ROWS_PER_GROUP, last))
                parquet.write_table(table)
                arrow.write_table(table)
