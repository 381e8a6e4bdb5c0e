"""Who was right on which question, kept small: one file for all evaluations of a seed of claims_cpu.sh.

The file has a row per evaluation and question, a column per system and round, 1 where it is right and 0 where it is
wrong. All statistics can be computed again from it; responses are not kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eval.reporting.runs import IN_ROUNDS, Run, System  # noqa: E402

QUESTION = ["evaluation", "label", "seed", "id", "task", "subtask", "n_correct_agents"]
SYSTEM = ["method", "leader", "agent", "budget", "round"]
NONE = "-"


def outcomes(run: Run) -> pd.DataFrame:
    """The table of one evaluation, `QUESTION` as its index and `SYSTEM` as its columns."""
    columns: dict[tuple, pd.Series] = {}
    for system in dict.fromkeys(run.rows["system"]):
        names = [getattr(system, name) or NONE for name in SYSTEM[:-1]]
        if system.method in IN_ROUNDS and not system.budget:
            columns |= {(*names, str(number)): values for number, values in run.rounds(system).items()}
        else:
            columns[(*names, NONE)] = run.table[system]
    table = pd.DataFrame(columns).rename_axis(columns=SYSTEM)
    first = run.rows.drop_duplicates("id").set_index("id").loc[table.index].reset_index()
    table.index = pd.MultiIndex.from_frame(
        first.assign(evaluation=run.path.name, label=run.label, seed=run.seed)[QUESTION]
    )
    return table


def keep(runs: list[Run], file: Path) -> None:
    """Write the outcomes of evaluations to `file`, a packed CSV; equal outcomes give equal bytes."""
    table = pd.concat(map(outcomes, runs)).astype("Int64")
    table.to_csv(file, compression={"method": "gzip", "mtime": 0})


def read(file: Path) -> list[Run]:
    """The evaluations of such a file, as far as comparisons go: without answers and costs."""
    levels = list(range(len(SYSTEM)))
    table = pd.read_csv(file, header=levels, index_col=list(range(len(QUESTION))), dtype=str, keep_default_na=False)
    table.index.names = QUESTION
    return [run_of(part.loc[:, part.ne("").all()]) for _, part in table.groupby("evaluation", sort=False)]


def run_of(table: pd.DataFrame) -> Run:
    parts = []
    for names in table.columns:
        known = {key: "" if name == NONE else name for key, name in zip(SYSTEM, names, strict=True)}
        number = int(known["round"]) if known["round"] else None
        rows = table[names].eq("1").rename("correct").reset_index()
        system = System(known["method"], known["leader"], known["agent"], known["budget"])
        parts.append(rows.assign(**{**known, "round": number}, system=[system] * len(rows)))
    rows = pd.concat(parts, ignore_index=True).astype({"n_correct_agents": "Int64"})
    leaders, agents = (dict.fromkeys(name for name in rows[key] if name) for key in ("leader", "agent"))
    manifest = {
        "label": rows["label"].iloc[0],
        "seed": rows["seed"].iloc[0],
        "rounds": int(rows["round"].max()) + 1,
        "leaders": [{"name": name} for name in leaders],
        "team": [{"name": name} for name in agents],
    }
    return Run(Path(rows["evaluation"].iloc[0]), rows, manifest)
