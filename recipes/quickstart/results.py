"""Print the Markdown tables of the README from the summaries of several quickstart runs.

    python3 recipes/quickstart/results.py recipes/quickstart/results/*.json

One of the files may hold what eval/report.py says of the runs together: the verdicts on the claims and the table across
teams are then printed too. A small file of that kind, made from a report.json:

    python3 recipes/quickstart/results.py --trim runs/report/report.json > recipes/quickstart/results/together.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROWS = (
    ("leader + team, after MLPO", "leader_team"),
    ("leader + team, before MLPO", "leader_team_untrained"),
    ("majority vote", "majority_vote"),
    ("best agent", "best_agent"),
    ("leader alone, after MLPO", "leader_solo"),
    ("leader alone, before MLPO", "leader_solo_untrained"),
    ("leader alone, plain GRPO on as many rollouts", "grpo_solo"),
    ("any agent right (oracle)", "oracle"),
)
COMPARISONS = (
    ("leader + team, round 0 − majority vote", "leader_team[mlpo] first round - majority_vote"),
    ("leader + team, round 0 − best agent", "leader_team[mlpo] first round - best_agent"),
    ("leader + team, round 0 − before MLPO", "leader_team[mlpo] first round - leader_team[untrained] first round"),
    ("leader + team, last round − majority vote", "leader_team[mlpo] - majority_vote"),
    ("leader + team, last round − best agent", "leader_team[mlpo] - best_agent"),
    ("leader + team, last round − before MLPO", "leader_team[mlpo] - leader_team[untrained]"),
    ("leader alone − the same before MLPO", "leader_solo[mlpo] - leader_solo[untrained]"),
    ("leader alone − plain GRPO alone", "leader_solo[mlpo] - leader_solo[grpo]"),
    ("leader + team, last round − round 0", "leader_team[mlpo] last round - first round"),
)


def tables(summaries: list[dict]) -> str:
    """Accuracy and paired differences, one column a seed."""
    head = "| | " + " | ".join(f"seed {summary['seed']}" for summary in summaries) + " |"
    rule = "| --- |" + " --: |" * len(summaries)
    lines = [head.replace("| |", "| accuracy |", 1), rule]
    for title, key in ROWS:
        cells = []
        for summary in summaries:
            value = summary["accuracy"][key]
            cells.append(" → ".join(f"{v:.3f}" for v in value) if isinstance(value, list) else f"{value:.3f}")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += ["", head.replace("| |", "| difference, 95 % interval |", 1), rule]
    for title, key in COMPARISONS:
        found = [summary["paired"][key] for summary in summaries]
        lines.append(f"| {title} | " + " | ".join(map(difference, found)) + " |")
    return "\n".join(lines)


def difference(test: dict | None) -> str:
    return f"{test['diff']:+.3f} [{test['ci95'][0]:+.3f}, {test['ci95'][1]:+.3f}]" if test else ""


def backtracking(summaries: list[dict]) -> str:
    """Share of the leader's outputs that revise an answer, and of those that end right, one column a seed."""
    lines = [
        "| revising outputs, of them right | " + " | ".join(f"seed {summary['seed']}" for summary in summaries) + " |",
        "| --- |" + " --: |" * len(summaries),
    ]
    found = [summary["backtracking"] for summary in summaries]
    for name in dict.fromkeys(name for systems in found for name in systems):
        cells = []
        for systems in found:
            point = systems[name][0] if name in systems else None
            right = f"{point['right']['accuracy']:.3f}" if point and point["right"]["n"] else "–"
            cells.append(f"{point['revised']['accuracy']:.3f}, {right}" if point else "")
        lines.append(f"| {name}, round 0 | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def together(report: dict) -> str:
    """The verdicts on claims (a) to (d), the steps of training and other teams, from a report of all seeds."""
    group = report["groups"][0]
    heads = [*(name.rpartition(", ")[2] for name in group["runs"]), "together"]
    lines = ["| claim | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for claim, found in group["claims"].items():
        words = [*found["runs"], found["together"] or ""]
        lines.append(f"| ({claim}) {found['text']} | " + " | ".join(words) + " |")
    lines += ["", "| step of training | against | together |", "| --- | --- | --: |"]
    for step in group["steps"]:
        if step["against"]:
            test = difference(step["together"] or step["runs"][0])
            lines.append(f"| {step['system']}: {step['what']} | {step['against']} | {test} |")
    if report["teams"]:
        heads = ("team", "K", "leader + team, by round", "majority vote", "− untrained", "− majority vote")
        lines += ["", "| " + " | ".join(heads) + " |", "| --- |" + " --: |" * 5]
        pooled = any("together" in row["run"] for row in report["teams"])
        for row in report["teams"]:
            if "together" in row["run"] or not pooled:
                rounds = " → ".join(f"{value:.3f}" for value in row["rounds"])
                minus = [difference(row["differences"][key]) for key in ("untrained", "majority_vote")]
                cells = [row["run"], str(row["team_size"]), rounds, f"{row['majority_vote']:.3f}", *minus]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--trim"]:
        report = json.loads(Path(arguments[1]).read_text())
        print(json.dumps({key: report[key] for key in ("groups", "teams")}, indent=1))
        return
    found = [json.loads(Path(path).read_text()) for path in arguments]
    summaries = [data for data in found if "accuracy" in data]
    parts = [tables(summaries)] if summaries else []
    if summaries and all(summary.get("backtracking") for summary in summaries):
        parts.append(backtracking(summaries))
    print("\n\n".join([*parts, *(together(data) for data in found if "groups" in data)]))


if __name__ == "__main__":
    main(sys.argv[1:])
