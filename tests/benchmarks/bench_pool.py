"""How fast a big pool opens, how much memory that takes, and how fast it is read, put together and summarised.

    python3 tests/benchmarks/bench_pool.py [--questions 1000000] [--folder DIR]

Opening is measured in a fresh process, imports apart. A million questions with 3 agents, 4 samples and responses of
about 200 characters take about 4 GB of disk while this runs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

OPEN = """
import os, random, sys, time, datasets
from openrlhf_mlpo.pool.format import open_pool
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
before, start = resident(), time.perf_counter()
pool = open_pool(sys.argv[1])
first = pool[0]
opened, after = time.perf_counter() - start, resident()
rng, start = random.Random(0), time.perf_counter()
for _ in range(5000):
    row = pool[rng.randrange(len(pool))]
    assert len(row["responses"]) == 12
print(f"{len(pool)} questions: open and first row {opened:.2f} s; resident {before:.0f} MB before, {after:.0f} after; "
      f"{5000 / (time.perf_counter() - start):.0f} random rows/s, then {resident():.0f} MB")
"""


def make(path: Path, questions: int, samples: int = 4) -> None:
    """Write a pool of made-up rows with the writer's own file layout."""
    import numpy as np
    import pyarrow as pa

    from openrlhf_mlpo.pool.format import pool_schema, response_type
    from openrlhf_mlpo.pool.writer import write_files

    rng, schema, per_row = np.random.default_rng(0), pool_schema(), 3 * samples

    def rows(start: int, end: int):
        n = end - start
        ids = [f"{i:016x}" for i in range(start, end)]
        noise = rng.integers(0, 2**62, (n * per_row, 9)).tolist()
        columns = {
            "agent": ["a"] * samples + ["b"] * samples + ["c"] * samples,
            "model": ["some/model"] * per_row,
            "sample": list(range(samples)) * 3,
        }
        columns = {name: pa.array(values * n, response_type().field(name).type) for name, values in columns.items()}
        columns["text"] = pa.array([" ".join(map(str, words)) + " <answer> 1 </answer>" for words in noise])
        columns["answer"] = pa.array(["1"] * (n * per_row))
        columns["correct"] = pa.array(rng.random(n * per_row) < 0.5)
        for name in ("prompt_tokens", "completion_tokens"):
            columns[name] = pa.array(rng.integers(1, 500, n * per_row), pa.int32())
        columns["finish_reason"] = pa.array(["stop"] * (n * per_row))
        values = pa.StructArray.from_arrays(
            [columns[field.name] for field in response_type()], fields=list(response_type())
        )
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * per_row)
        texts = [f"What is the answer to question {i}?" for i in ids]
        return pa.table(
            [
                ids,
                ["exact"] * n,
                [""] * n,
                texts,
                ["1"] * n,
                pa.array([[]] * n, schema.field("choices").type),
                pa.ListArray.from_arrays(offsets, values),
            ],
            schema=schema,
        )

    path.mkdir(parents=True)
    write_files(path / "data", path / "_arrow", questions, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--folder", default="", help="where to put the pool (default: a temporary directory)")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.folder or None))
    try:
        start = time.perf_counter()
        make(folder / "pool", args.questions)
        size = {
            name: sum(f.stat().st_size for f in (folder / "pool" / name).iterdir()) / 1e9 for name in ("data", "_arrow")
        }
        seconds = time.perf_counter() - start
        print(f"written in {seconds:.0f} s: Parquet {size['data']:.2f} GB, Arrow {size['_arrow']:.2f} GB", flush=True)
        for _ in range(3):
            subprocess.run([sys.executable, "-c", OPEN, str(folder / "pool")], check=True, cwd=ROOT)
        few = min(args.questions, 20_000)
        make(folder / "few", few)
        from openrlhf_mlpo.pool.summary import summarize

        start = time.perf_counter()
        summarize(folder / "few")
        print(f"cli.pool: {few / (time.perf_counter() - start):.0f} questions/s")
        assemble(folder, few)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def assemble(folder: Path, questions: int) -> None:
    """Sampling's own bookkeeping: adding, writing parts and putting the pool together, without any engine."""
    from openrlhf_mlpo.pool.format import open_pool
    from openrlhf_mlpo.pool.writer import PoolWriter
    from openrlhf_mlpo.questions import COLUMNS

    rows = open_pool(folder / "few")
    agents = ("a", "b", "c")
    settings = {"samples": 4, "agents": [{"name": name} for name in agents]}
    responses = {row["id"]: row["responses"] for row in rows}
    with PoolWriter(folder / "again", rows.select_columns(list(COLUMNS)), {"settings": settings}) as writer:
        start = time.perf_counter()
        for number, agent in enumerate(agents):
            for question_id in writer.ids:
                writer.add(agent, question_id, responses[question_id][4 * number : 4 * number + 4])
        writer.flush()
        middle = time.perf_counter()
        writer.assemble()
        end = time.perf_counter()
        print(f"parts: {3 * questions / (middle - start):.0f} (question, agent) pairs/s")
        print(f"assembling: {questions / (end - middle):.0f} questions/s")
    assert open_pool(folder / "again")[questions // 2] == rows[questions // 2]


if __name__ == "__main__":
    main()
