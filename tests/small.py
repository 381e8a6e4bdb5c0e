"""Small made-up pools for tests: no engine, known answers."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

AGENTS = ("ann", "bob", "cyd")
# How often each agent is right.
SKILL = {"ann": 0.8, "bob": 0.5, "cyd": 0.2}


def make_rows(n: int = 12, *, samples: int = 4, seed: int = 0, agents=AGENTS) -> list[dict]:
    """Pool rows of made-up boolean questions, each agent right as often as `SKILL` says."""
    rng = random.Random(seed)
    rows = []
    for number in range(n):
        gold = rng.choice(("True", "False"))
        responses = []
        for agent in agents:
            for sample in range(samples):
                answer = gold if rng.random() < SKILL.get(agent, 0.5) else ("False" if gold == "True" else "True")
                responses.append(
                    {
                        "agent": agent,
                        "model": f"model-{agent}",
                        "sample": sample,
                        "text": f"{agent} says {sample} <answer> {answer} </answer>",
                        "answer": answer,
                        "correct": answer == gold,
                        "prompt_tokens": 5,
                        "completion_tokens": 6,
                        "finish_reason": "stop",
                    }
                )
        rows.append(
            {
                "id": f"q{number:04d}",
                "task": "bbh",
                "subtask": "boolean_expressions",
                "question": f"not ( True ) and {number} is",
                "answer": gold,
                "choices": [],
                "responses": responses,
            }
        )
    return rows


def make_pool(path: Path, n: int = 12, *, rename: dict[str, str] | None = None, **kwargs) -> Path:
    """Write `make_rows(n, …)` as a pool directory; `rename` gives columns wrong names."""
    return write_pool(path, make_rows(n, **kwargs), rename=rename)


def write_pool(path: Path, rows: list[dict], *, rename: dict[str, str] | None = None) -> Path:
    """Write rows as a pool directory, as `sample_team` would."""
    from openrlhf_mlpo.pool.format import pool_schema

    table = pa.Table.from_pylist(rows, schema=pool_schema())
    table = table.rename_columns([(rename or {}).get(name, name) for name in table.column_names])
    (path / "data").mkdir(parents=True)
    pq.write_table(table, path / "data" / "train-00000-of-00001.parquet")
    return path
