"""Print the Markdown tables of a page of results from the stored results of a recipe.

    python3 recipes/results.py runs/claims/report/report.csv
    python3 recipes/results.py --brief runs/quickstart/report/report.csv
    python3 recipes/results.py --claims recipes/claims/results/results.csv

Such a file is the report.csv that eval/report.py writes of several seeds together. The runs that come first in it are
those that the claims are tested on; a row or table that no run has figures for is left out. --brief: accuracies and
comparisons alone. --claims: the verdict on each claim over all seeds, with the comparison that is closest to failing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval.reporting.claims import (  # noqa: E402
    AGENTS_RIGHT,
    CLAIMS,
    GRPO,
    GRPO_TOKENS,
    NO_ROUNDS,
    UNTRAINED,
    Pair,
    combined,
    step_pairs,
)
from eval.reporting.markdown import arrows, difference, table  # noqa: E402
from eval.reporting.runs import BEST, MAJORITY, ORACLE, ROUTER, System, round_name  # noqa: E402
from eval.reporting.stats import FAILS, FEW, HOLDS, OPEN  # noqa: E402
from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402

TEAM, BEFORE = System("leader_team", "mlpo"), System("leader_team", UNTRAINED)
SOLO = System("leader_solo", "mlpo")
ROWS = {
    "leader + team, after MLPO": TEAM,
    "leader + team, before MLPO": BEFORE,
    "leader + team, after MLPO on round 0 only": System("leader_team", NO_ROUNDS),
    "majority vote": MAJORITY,
    "vote of the responses that the leader was shown, after MLPO": System("team_vote", "mlpo"),
    "vote of the responses that the leader was shown, before MLPO": System("team_vote", UNTRAINED),
    "best agent": BEST,
    "router": ROUTER,
    "leader alone, after MLPO": SOLO,
    "leader alone, after MLPO on round 0 only": System("leader_solo", NO_ROUNDS),
    "leader alone, before MLPO": System("leader_solo", UNTRAINED),
    "leader alone, plain GRPO on as many rollouts": System("leader_solo", GRPO),
    "leader alone, plain GRPO on as many generated tokens": System("leader_solo", GRPO_TOKENS),
    "any agent right (oracle)": ORACLE,
}
WORST_FIRST = (FAILS, OPEN, FEW, HOLDS)
COMPARISONS = {
    "leader + team, round 0 − majority vote": Pair(TEAM.at(0), MAJORITY),
    "leader + team, round 0 − best agent": Pair(TEAM.at(0), BEST),
    "leader + team, round 0 − before MLPO": Pair(TEAM.at(0), BEFORE.at(0)),
    "leader + team, last round − majority vote": Pair(TEAM, MAJORITY),
    "leader + team, last round − best agent": Pair(TEAM, BEST),
    "leader + team, last round − router": Pair(TEAM, ROUTER),
    "leader + team, last round − before MLPO": Pair(TEAM, BEFORE),
    "leader + team, last round − vote of the responses shown before MLPO": Pair(TEAM, System("team_vote", UNTRAINED)),
    "leader alone − the same before MLPO": Pair(SOLO, System("leader_solo", UNTRAINED)),
    "leader alone − plain GRPO alone": Pair(SOLO, System("leader_solo", GRPO)),
    "leader + team, last round − round 0": Pair(TEAM, TEAM.at(0)),
}


class Results:
    """The long table of report.csv: `of` gives rows, `difference` a cell of a table."""

    def __init__(self, file: Path):
        self.rows = pd.read_csv(file, dtype={"seed": str, "round": "Int64", "against_round": "Int64"})
        self.first = self.rows["runs"].iloc[0]

    def of(self, metric: str, **columns: object) -> pd.DataFrame:
        """Rows of a metric in which the columns have these values; None: in which they are blank."""
        rows = self.rows[self.rows["metric"] == metric]
        for name, value in columns.items():
            rows = rows[rows[name].isna() if value is None else rows[name].eq(value).fillna(False)]
        return rows

    def difference(self, runs: str, seed: str, pair: Pair) -> str:
        a, b = ({"system": str(system.at(None)), "round": system.round} for system in (pair.a, pair.b))
        columns = {**a, "against": b["system"], "against_round": b["round"], "agents_right": None}
        rows = self.of("difference", runs=runs, seed=seed, **columns).rename(columns={"value": "diff"})
        return difference(rows.iloc[0]) if len(rows) else ""


def tables(results: Results, brief: bool = False) -> str:
    """All tables as they stand in the page, or the first two."""
    parts = [accuracies(results, results.first, "accuracy"), comparisons(results)]
    if not brief:
        parts += [revising(results), verdicts(results), steps(results), teams(results)]
        parts += [accuracies(results, "temperature 1", "accuracy, temperature 1"), conditions(results), stages(results)]
    return "\n\n".join(table(part) for part in parts if len(part))


def column(seed: str) -> str:
    """The heading over the figures of a seed, or of all seeds together."""
    return seed if seed == "together" else f"seed {seed}"


def accuracies(results: Results, runs: str, heading: str) -> pd.DataFrame:
    """A row per system that was evaluated, a column per seed, the rounds with arrows between them."""
    rows = []
    for title, system in ROWS.items():
        by_seed = results.of("accuracy", runs=runs, system=str(system)).groupby("seed")["value"]
        cells = {column(str(seed)): arrows(values) for seed, values in by_seed}
        rows += [{heading: title, **cells}] if cells else []
    return pd.DataFrame(rows)


def comparisons(results: Results) -> pd.DataFrame:
    seeds = results.of("difference", runs=results.first)["seed"].unique()
    rows = []
    for title, pair in COMPARISONS.items():
        cells = {column(seed): results.difference(results.first, seed, pair) for seed in seeds}
        rows += [{"difference, 95 % interval": title, **cells}] if any(cells.values()) else []
    return pd.DataFrame(rows)


def revising(results: Results) -> pd.DataFrame:
    """Share of the leader's outputs in round 0 that revise an answer, and of those that end right."""
    revising = results.of("revises", runs=results.first, round=0).set_index(["system", "seed"])["value"]
    right = results.of("right, of revising outputs", runs=results.first, round=0).set_index(["system", "seed"])["value"]
    cells = revising.map("{:.3f}, ".format) + right.map("{:.3f}".format).where(right.notna(), "–")
    wide = cells.unstack(sort=False).add_prefix("seed ")
    wide.insert(0, "revising outputs, of them right", wide.index + ", round 0")
    return wide


def verdicts(results: Results) -> pd.DataFrame:
    """The verdict on each claim by seed: those on the first runs, and (e) on all teams that the leader never saw."""
    words = results.of("claim", runs=results.first).set_index(["system", "seed"])["verdict"].unstack(sort=False)
    for seed, parts in results.of("difference", claim="e").groupby("seed"):
        words.loc["e", seed] = combined(parts)
    words.columns = [column(seed) for seed in words]
    words.insert(0, "claim", words.index.map("({})".format))
    return words


def claims(results: Results) -> pd.DataFrame:
    """The claims (a) to (e) over all seeds, each with its verdict and the comparison that is closest to failing."""
    rows = results.of("difference").rename(columns={"value": "diff"})
    seed = "together" if "together" in set(rows["seed"]) else rows["seed"].iloc[0]
    rows = rows[rows["seed"].eq(seed)]
    rows = rows[rows["runs"].eq(results.first) | rows["claim"].eq("e")]
    rows = rows.assign(rank=rows["verdict"].map(WORST_FIRST.index)).sort_values(["rank", "diff"], kind="stable")
    entries = []
    for claim, parts in rows.groupby("claim"):
        if claim not in "abcde":  # (a, one round) is no claim of its own
            continue
        worst = parts.iloc[0]
        where = AGENTS_RIGHT[None if pd.isna(worst["agents_right"]) else worst["agents_right"]]
        at = "" if pd.isna(worst["against_round"]) else f", {round_name(worst['against_round'])}"
        team = f" ({worst['runs']})" if claim == "e" else ""
        name, closest = f"({claim}) {CLAIMS[claim]}", f"{difference(worst)} against {worst['against']}{at}{where}{team}"
        entries.append({"claim": name, "verdict": combined(parts), "closest comparison": closest})
    return pd.DataFrame(entries)


def steps(results: Results) -> pd.DataFrame:
    """What each step of training brought, over all seeds."""
    systems = results.of("accuracy", runs=results.first)["system"]
    leaders = systems.str.extract(r"leader_\w+\[(.*)\]")[0].dropna().unique()
    rows = [
        {"step of training": f"{pair.a}: {what}", "against": pair.b.leader, "together": cell}
        for pair, what in step_pairs(list(leaders))
        if (cell := results.difference(results.first, "together", pair))
    ]
    return pd.DataFrame(rows)


def teams(results: Results) -> pd.DataFrame:
    """The leader with its own team and with others, over all seeds."""
    rows = []
    for key, accuracies in results.of("accuracy", seed="together").groupby("runs", sort=False):
        runs, values = str(key), accuracies.groupby("system")["value"]
        rows.append(
            {"team": runs, "leader + team, by round": arrows(values.get_group(str(TEAM))),
             "majority vote": arrows(values.get_group(str(MAJORITY))),
             "− before MLPO": results.difference(runs, "together", Pair(TEAM, BEFORE)),
             "− majority vote": results.difference(runs, "together", Pair(TEAM, MAJORITY))}
        )  # fmt: skip
    return pd.DataFrame(rows)


def conditions(results: Results) -> pd.DataFrame:
    """What was measured before MLPO, by seed, with its bound."""
    return by_seed(results.of("condition"), "{:.3f}", system="condition", against="bound")


def stages(results: Results) -> pd.DataFrame:
    """Seconds of each stage, and minutes of all, by seed."""
    seconds = results.of("seconds")
    minutes = (seconds.groupby("seed", as_index=False)["value"].sum()).assign(system="all, minutes")
    minutes["value"] /= 60
    return by_seed(pd.concat([seconds, minutes]), "{:.0f}", system="stage, seconds")


def by_seed(rows: pd.DataFrame, form: str, **heads: str) -> pd.DataFrame:
    """Values in a column per seed; `heads`: the columns that name a row, and what stands over them."""
    cells = rows.set_index([*heads, "seed"])["value"].map(form.format).unstack(sort=False).fillna("")
    return cells.add_prefix("seed ").reset_index().rename(columns=heads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="report.csv, or a stored copy of it")
    parser.add_argument("--brief", action="store_true", help="accuracies and comparisons alone")
    parser.add_argument("--claims", action="store_true", help="the claims alone, over all seeds")
    args = parser.parse_args()
    if not args.file.exists():
        raise UserError(f"{args.file}: no such file; eval/report.py writes report.csv")
    results = Results(args.file)
    print(table(claims(results)) if args.claims else tables(results, args.brief))


if __name__ == "__main__":
    run_cli(main)
