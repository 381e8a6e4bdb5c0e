"""Writing a pool so that a killed run can be continued: nothing lost beyond the batch in flight, nothing twice.

While it runs, each finished batch of one agent is one file in POOL/_parts, written under another name and then renamed,
so a part is either whole or absent. When every agent has answered every question the parts are put together, in the
order of the questions, into POOL/data, again under another name first; only then the parts go.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.format import MANIFEST, pool_schema, read_manifest, response_type

ROWS_PER_GROUP = 1024  # questions per Parquet row group and Arrow batch
GROUPS_PER_FILE = 64
MAX_AGE = 30.0  # seconds after which a batch is written though it is not full


class PoolWriter:
    """Owns a pool's directory while it is being made (one process at a time). Use as a context manager."""

    def __init__(self, path: str | Path, questions, manifest: dict, flush_every: int = 0):
        """`questions`: a `datasets.Dataset` with `tasks.COLUMNS`; `manifest["settings"]`: what must be the same when a
        run is continued, with the agents under "agents" and "samples" each; `flush_every`: questions per part (0: 64,
        and more where that would make over a thousand parts per agent). Raises UserError when settings differ."""
        self.path = Path(path)
        self.parts = self.path / "_parts"
        self.questions = questions
        self.ids: list[str] = list(questions["id"])
        self.agents = [agent["name"] for agent in manifest["settings"]["agents"]]
        self.samples: int = manifest["settings"]["samples"]
        self.flush_every = flush_every or max(64, len(self.ids) // 1000)
        self._buffer: list[tuple[str, list[dict]]] = []
        self._buffer_agent = ""
        self._buffer_since = 0.0
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path}: is a file; name a directory")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = not (self.path / MANIFEST).exists() and [
                p for p in self.path.iterdir() if not p.name.startswith(("_", "."))
            ]
            self._lock = (self.path / "_lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--out {self.path}: another process is sampling into it") from None
        except OSError as error:
            raise UserError(f"--out {self.path}: {error.strerror or error}") from None
        if foreign:
            raise UserError(f"--out {self.path}: holds other files ({foreign[0].name}); name a new or empty directory")
        if (self.path / MANIFEST).exists():
            stored = read_manifest(self.path)
            if difference := _difference(stored.get("settings"), json.loads(json.dumps(manifest["settings"]))):
                raise UserError(
                    f"--out {self.path} was begun with other settings: {difference}; use those, or another directory"
                )
            self.manifest = stored
        else:
            self.manifest = {**manifest, "complete": False}
            self._write_manifest()
        self.complete = (self.path / "data").is_dir()
        if self.complete:
            self._finish()  # the last run may have been killed just before
            return
        self.parts.mkdir(exist_ok=True)
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

    def done(self, agent: str) -> set[str]:
        """Ids of the questions that this agent's parts hold."""
        import pyarrow.parquet as pq

        if self.complete:
            return set(self.ids)
        return {row for part in self._parts_of(agent) for row in pq.read_table(part, columns=["id"])["id"].to_pylist()}

    def add(self, agent: str, question_id: str, responses: list[dict]) -> None:
        """Keep one agent's `samples` responses to a question; written with the batch they fill."""
        if len(responses) != self.samples:
            raise ValueError(f"{len(responses)} responses of {agent} to {question_id}, not {self.samples}")
        if agent != self._buffer_agent:
            self.flush()
            self._buffer_agent = agent
        if not self._buffer:
            self._buffer_since = time.monotonic()
        self._buffer.append((question_id, responses))
        if len(self._buffer) >= self.flush_every or time.monotonic() - self._buffer_since > MAX_AGE:
            self.flush()

    def flush(self) -> None:
        """Write what has been added."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._buffer:
            return
        ids, responses = zip(*self._buffer, strict=True)
        table = pa.table({"id": pa.array(ids), "responses": pa.array(responses, pa.list_(response_type()))})
        name = f"{self.agents.index(self._buffer_agent):03d}-{self._next_part:07d}.parquet"
        with (self.parts / f".{name}").open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.parts / f".{name}", self.parts / name)
        self._next_part += 1
        self._buffer = []

    def assemble(self) -> None:
        """Turn the parts into the finished pool. Every agent must be done."""
        import pyarrow as pa

        self.flush()
        if self.complete:
            return
        readers = [_PartReader(self._parts_of(agent), self.ids, self.samples) for agent in self.agents]
        schema = pool_schema()

        def rows(start: int, end: int):
            block = self.questions.with_format("arrow")[start:end]
            columns = [block[name].combine_chunks().cast(schema.field(name).type) for name in schema.names[:-1]]
            return pa.table(
                [*columns, _interleave([reader.read(start, end) for reader in readers], self.samples)], schema
            )

        target = self.path / "_data.tmp"
        write_files(target, self.path / "_arrow", len(self.ids), rows)
        os.replace(target, self.path / "data")
        self.complete = True
        self._finish()

    def _finish(self) -> None:
        if not self.manifest["complete"]:
            self.manifest["complete"] = True
            self._write_manifest()
        shutil.rmtree(self.parts, ignore_errors=True)

    def _parts_of(self, agent: str) -> list[Path]:
        return sorted(self.parts.glob(f"{self.agents.index(agent):03d}-*.parquet"))

    def _write_manifest(self) -> None:
        temporary = self.path / f"{MANIFEST}.tmp"
        temporary.write_text(json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, self.path / MANIFEST)


def write_files(parquet_dir: Path, arrow_dir: Path, total: int, rows: Callable[[int, int], Any]) -> None:
    """Write `total` rows as Parquet and as Arrow streams, replacing both directories. `rows(start, end)` gives a table
    with `pool_schema()`; it is asked for at most `ROWS_PER_GROUP` rows at a time, in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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


class _PartReader:
    """One agent's responses by position of the question, from parts that came in the order of completion."""

    CACHED_PARTS = 32

    def __init__(self, parts: list[Path], ids: Sequence[str], samples: int):
        import numpy as np
        import pyarrow.parquet as pq

        self.parts, self.samples = parts, samples
        self._cache: OrderedDict[int, Any] = OrderedDict()
        position = {question_id: index for index, question_id in enumerate(ids)}
        self.part_of = np.full(len(ids), -1, dtype=np.int32)
        self.row_of = np.zeros(len(ids), dtype=np.int32)
        for number, part in enumerate(parts):
            found = [position[i] for i in pq.read_table(part, columns=["id"])["id"].to_pylist()]
            self.part_of[found] = number
            self.row_of[found] = np.arange(len(found))
        if (self.part_of < 0).any():
            raise RuntimeError(f"{int((self.part_of < 0).sum())} questions have no responses yet")

    def read(self, start: int, end: int):
        """Struct array of the `(end - start) * samples` responses to the questions [start, end)."""
        import numpy as np
        import pyarrow as pa

        part_of, row_of = self.part_of[start:end], self.row_of[start:end]
        pieces, positions = [], []
        for number in np.unique(part_of):
            where = np.flatnonzero(part_of == number)
            pieces.append(self._load(int(number)).take(pa.array(row_of[where])))
            positions.append(where)
        order = np.argsort(np.concatenate(positions))
        return pa.concat_arrays(pieces).take(pa.array(order)).flatten()

    def _load(self, number: int):
        import pyarrow.parquet as pq

        if number not in self._cache:
            self._cache[number] = pq.read_table(self.parts[number], columns=["responses"])["responses"].combine_chunks()
            if len(self._cache) > self.CACHED_PARTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(number)
        return self._cache[number]


def _interleave(by_agent: list, samples: int):
    """Per agent `questions * samples` structs -> one list per question, ordered by (agent, sample)."""
    import numpy as np
    import pyarrow as pa

    agents, questions = len(by_agent), len(by_agent[0]) // samples
    index = np.arange(agents * questions * samples).reshape(agents, questions, samples).transpose(1, 0, 2).ravel()
    offsets = np.arange(questions + 1, dtype=np.int32) * (agents * samples)
    values = pa.concat_arrays(by_agent).take(pa.array(index)).cast(response_type())
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _difference(stored: Any, now: Any, where: str = "") -> str:
    """The first place where two JSON values differ, in words; "" when they are equal."""
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*stored, *now)):
            place = f"{where}.{key}" if where else key
            if key not in stored or key not in now:
                return f"{place} {'is new' if key not in stored else 'is no longer given'}"
            if found := _difference(stored[key], now[key], place):
                return found
        return ""
    if isinstance(stored, list) and isinstance(now, list) and where == "agents":
        names = [[agent["name"] for agent in agents] for agents in (stored, now)]
        if names[0] != names[1]:
            return f"agents {', '.join(names[0])} in the pool, {', '.join(names[1])} now"
        return next((d for a, b in zip(stored, now, strict=True) if (d := _difference(a, b, f"agent {a['name']}"))), "")
    return "" if stored == now else f"{where} {stored!r} in the pool, {now!r} now"
