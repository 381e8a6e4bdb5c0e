"""Print the Markdown tables of docs/results_quickstart.md from the stored results.

    python3 recipes/quickstart/results.py recipes/quickstart/results.csv

Such a file is the report.csv that eval/report.py writes of several seeds together.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eval.reporting.claims import step_pairs  # noqa: E402
from eval.reporting.markdown import arrows, difference, table  # noqa: E402

TEAM, BEFORE, SOLO = "leader_team[mlpo]", "leader_team[untrained]", "leader_solo[mlpo]"
ROWS = {
    "leader + team, after MLPO": TEAM,
    "leader + team, before MLPO": BEFORE,
    "majority vote": "majority_vote",
    "best agent": "best_agent",
    "leader alone, after MLPO": SOLO,
    "leader alone, before MLPO": "leader_solo[untrained]",
    "leader alone, plain GRPO on as many rollouts": "leader_solo[grpo]",
    "any agent right (oracle)": "oracle",
}
# (system, round, against, its round); None: the last round, or that there are none
COMPARISONS = {
    "leader + team, round 0 − majority vote": (TEAM, 0, "majority_vote", None),
    "leader + team, round 0 − best agent": (TEAM, 0, "best_agent", None),
    "leader + team, round 0 − before MLPO": (TEAM, 0, BEFORE, 0),
    "leader + team, last round − majority vote": (TEAM, None, "majority_vote", None),
    "leader + team, last round − best agent": (TEAM, None, "best_agent", None),
    "leader + team, last round − before MLPO": (TEAM, None, BEFORE, None),
    "leader alone − the same before MLPO": (SOLO, None, "leader_solo[untrained]", None),
    "leader alone − plain GRPO alone": (SOLO, None, "leader_solo[grpo]", None),
    "leader + team, last round − round 0": (TEAM, None, TEAM, 0),
}


class Results:
    """The long table of report.csv: `values` and `test` look up what a cell of a table shows."""

    def __init__(self, file: Path):
        self.rows = pd.read_csv(file, dtype={"seed": str, "round": "Int64", "against_round": "Int64"})

    def of(self, metric: str, **columns: object) -> pd.DataFrame:
        rows = self.rows[self.rows["metric"] == metric]
        for name, value in columns.items():
            rows = rows[rows[name].isna() if value is None else rows[name].eq(value).fillna(False)]
        return rows

    def seeds(self, runs: str) -> list[str]:
        return [seed for seed in self.rows.loc[self.rows["runs"] == runs, "seed"].unique() if seed != "together"]

    def test(self, runs: str, seed: str, system: str, number: int | None, against: str, its: int | None) -> dict | None:
        columns = {"system": system, "round": number, "against": against, "against_round": its, "agents_right": None}
        rows = self.of("difference", runs=runs, seed=seed, **columns).rename(columns={"value": "diff"})
        return rows.iloc[0].to_dict() if len(rows) else None


def tables(results: Results) -> str:
    """All tables, as they stand in docs/results_quickstart.md."""
    parts = [accuracies(results, "team", "accuracy"), comparisons(results), revising(results), verdicts(results)]
    parts += [steps(results), teams(results), accuracies(results, "real BBH rows", "75 real BBH rows")]
    return "\n\n".join(map(table, parts))


def accuracies(results: Results, runs: str, heading: str) -> pd.DataFrame:
    columns = {heading: list(ROWS)}
    for seed in results.seeds(runs):
        of_systems = [results.of("accuracy", runs=runs, seed=seed, system=system)["value"] for system in ROWS.values()]
        columns[f"seed {seed}"] = [arrows(values) for values in of_systems]
    return pd.DataFrame(columns).loc[lambda frame: frame.iloc[:, 1] != ""]


def comparisons(results: Results) -> pd.DataFrame:
    by_seed = {
        f"seed {seed}": [difference(results.test("team", seed, *pair)) for pair in COMPARISONS.values()]
        for seed in results.seeds("team")
    }
    return pd.DataFrame({"difference, 95 % interval": list(COMPARISONS), **by_seed})


def revising(results: Results) -> pd.DataFrame:
    """Share of the leader's outputs in round 0 that revise an answer, and of those that end right."""
    found = results.of("revises", runs="team", round=0)
    right = results.of("right, of revising outputs", runs="team", round=0).set_index(["system", "seed"])["value"]
    shown = found.assign(
        cell=[
            f"{row.value:.3f}, " + ("–" if pd.isna(r := right[row.system, row.seed]) else f"{r:.3f}")
            for row in found.itertuples()
        ]
    )
    wide = shown.set_index(["system", "seed"])["cell"].unstack(sort=False).add_prefix("seed ").reset_index()
    return wide.assign(system=wide["system"] + ", round 0").rename(
        columns={"system": "revising outputs, of them right"}
    )


def verdicts(results: Results) -> pd.DataFrame:
    words = results.of("claim", runs="team").set_index(["system", "seed"])["verdict"].unstack(sort=False)
    words = words.rename(columns=lambda seed: seed if seed == "together" else f"seed {seed}").reset_index()
    return words.assign(system=words["system"].map("({})".format)).rename(columns={"system": "claim"})


def steps(results: Results) -> pd.DataFrame:
    """What each step of training brought, over all seeds."""
    names = results.of("revises", runs="team")["system"].str.extract(r"leader_team\[(.*)\]")[0].dropna().unique()
    found = []
    for system, what, pair in step_pairs(list(names)):
        if pair and (
            test := results.test(
                "team", "together", str(pair.a.at(None)), pair.a.round, str(pair.b.at(None)), pair.b.round
            )
        ):
            found.append(
                {"step of training": f"{system}: {what}", "against": pair.b.leader, "together": difference(test)}
            )
    return pd.DataFrame(found)


def teams(results: Results) -> pd.DataFrame:
    """The leader with its own team and with others, over all seeds."""
    found = []
    for runs, rows in results.of("accuracy", seed="together").groupby("runs", sort=False):
        tests = [results.test(runs, "together", TEAM, None, other, None) for other in (BEFORE, "majority_vote")]
        rounds = arrows(rows.loc[rows["system"] == TEAM, "value"])
        vote = rows.loc[rows["system"] == "majority_vote", "value"].iloc[0]
        found.append({"team": runs, "leader + team, by round": rounds, "majority vote": vote,
                      "− before MLPO": difference(tests[0]), "− majority vote": difference(tests[1])})  # fmt: skip
    return pd.DataFrame(found)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(tables(Results(Path(sys.argv[1]))))
