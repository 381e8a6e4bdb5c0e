#!/usr/bin/env python3
"""Report on one evaluation or several: report.json, report.md, report.html (self-contained) and plots as PNG.

    python3 eval/report.py runs/eval --out runs/eval/report
    python3 eval/report.py runs/seed0/eval runs/seed1/eval runs/seed2/eval --out runs/report

Runs of one label (see evaluate.py --label) with equally named agents are taken for seeds of one experiment and pooled;
others, such as teams that a leader never saw or other team sizes, stand side by side:

    python3 eval/report.py runs/eval runs/eval_unseen/k1 runs/eval_unseen/k3 --out runs/report

The same results give the same report, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# A script's own folder comes first on the path, where `evaluate` and `report` would shadow other packages.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from eval.reporting.across import groups_of, team_rows, titles_of  # noqa: E402
from eval.reporting.analysis import (
    Run,
    accuracies,
    backtracking,
    by_correct_agents,
    by_round,
    by_subject,
    load_run,
    system_name,
)
from eval.reporting.claims import claims, over_runs, steps, tests  # noqa: E402
from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402


def summarise(
    run: Run | str | Path, *, untrained: str = "untrained", grpo: str = "grpo", wall_seconds: Mapping | None = None
) -> dict:
    """The summary.json of one evaluation: accuracy, by number of correct agents, paired comparisons, versions.

    The leader reported as `leader_*` is the first of the evaluation. Methods that were not run are left out.
    """
    run = run if isinstance(run, Run) else load_run(run)
    systems, rounds = accuracies(run), by_round(run)
    first = run.leaders[0] if run.leaders else ""
    names = {
        "leader_team": first,
        "leader_solo": first,
        "leader_team_untrained": untrained,
        "leader_solo_untrained": untrained,
        "grpo_solo": grpo,
    }
    accuracy: dict = {}
    for key, leader in names.items():
        if "team" in key and leader in rounds:
            accuracy[key] = [point["accuracy"] for point in rounds[leader]]
        elif "solo" in key and system_name("leader_solo", leader) in systems:
            accuracy[key] = systems[system_name("leader_solo", leader)]["accuracy"]
    for key in ("majority_vote", "best_agent", "oracle"):
        if key in systems:
            accuracy[key] = systems[key]["accuracy"]
    accuracy["agents"] = {
        name[len("agent[") : -1]: found["accuracy"] for name, found in systems.items() if name.startswith("agent[")
    }
    strata, made = by_correct_agents(run), tests(run)
    return {
        "wall_seconds": dict(wall_seconds or {}),
        "seed": run.seed,
        "n_test": len(run.table),
        "accuracy": accuracy,
        "by_correct_agents": {system: groups for system, groups in strata.items() if not system.startswith("agent[")},
        "paired": {
            test["name"]: {key: test[key] for key in ("diff", "ci95", "p", "p_holm", "n", "claim", "verdict")}
            for test in made
        },
        "claims": {claim: found["runs"][0] for claim, found in claims([made], []).items()},
        "steps": steps([run]),
        "backtracking": backtracking(run),
        "best_agent": run.manifest.get("best_agent"),
        "versions": run.manifest.get("versions", {}),
    }


def analyse(run: Run) -> dict:
    """Everything about one run, as it goes into report.json."""
    return {
        "label": run.label,
        "seed": run.seed,
        "n_questions": len(run.table),
        "team": run.manifest.get("team", []),
        "leaders": run.manifest.get("leaders", []),
        "best_agent": run.manifest.get("best_agent"),
        "command": run.manifest.get("command", ""),
        "versions": run.manifest.get("versions", {}),
        "systems": accuracies(run),
        "by_round": by_round(run),
        "by_correct_agents": by_correct_agents(run),
        "by_subject": by_subject(run),
        "backtracking": backtracking(run),
        "tests": tests(run),
    }


def build(runs: Sequence[Run]) -> dict:
    """report.json: each run's analysis, the claims by group of seeds, and the table across teams and team sizes."""
    titles, groups = titles_of(runs), groups_of(runs)
    analyses = [analyse(run) for run in runs]
    pooled = {title: over_runs([runs[i] for i in found]) for title, found in groups.items() if len(found) > 1}
    of_groups = [
        {
            "title": title,
            "runs": [titles[i] for i in members],
            "claims": claims([analyses[i]["tests"] for i in members], pooled.get(title, [])),
            "steps": steps([runs[i] for i in members]),
        }
        for title, members in groups.items()
        if runs[members[0]].leaders
    ]
    for found, title in zip(analyses, titles, strict=True):
        found["title"] = title
    with_members = {title: (groups[title], found) for title, found in pooled.items()}
    teams = team_rows(runs, titles, analyses, with_members) if len(runs) > 1 else []
    return {"groups": of_groups, "teams": teams, "pooled": pooled, "runs": analyses}


def read_training(specs: Sequence[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """`{tag: {run: [(step, value)]}}` from the TensorBoard folders that OpenRLHF wrote; a spec is `[NAME=]DIR`.

    A folder that holds several runs gives each the name of its own folder in it.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for spec in specs:
        name, found, folder = spec.partition("=")
        name, folder = (name, folder) if found else (Path(spec).name, spec)
        files = sorted(Path(folder).rglob("events.out.tfevents.*"))
        if not files:
            raise UserError(f"--training {spec}: no TensorBoard event files below it")
        inside = {file: (*file.relative_to(folder).parts[:-1], name)[0] for file in files}
        several = len(set(inside.values())) > 1
        for file in files:
            run = inside[file] if several else name
            events = EventAccumulator(str(file), size_guidance={"scalars": 0})
            events.Reload()
            for tag in events.Tags()["scalars"]:
                points = curves.setdefault(tag, {}).setdefault(run, [])
                points += [(event.step, event.value) for event in events.Scalars(tag)]
    for of_tag in curves.values():
        for points in of_tag.values():
            points.sort(key=lambda point: point[0])
    return dict(sorted(curves.items()))


# What tells whether training goes well, most telling first; a run logs some fifty tags, several of them twice.
TELLING = ("accuracy", "overr", "misled", "format", "reward", "policy_loss", "kl", "response_length")
MOST_CURVES = 18


def telling(training: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """The curves that a report shows: averages, not spreads, and nothing twice."""
    found: dict[str, Mapping] = {}
    for word in TELLING:
        for tag, curves in training.items():
            if word in tag and "std" not in tag and not any(curves == other for other in found.values()):
                found[tag] = curves
    return dict(list(found.items())[:MOST_CURVES])


def draw(runs: Sequence[Run], report: Mapping, training: Mapping, out: Path) -> dict[str, str]:
    """Draw all plots into `out`; `{file name: caption}` in the order in which the report shows them."""
    from eval.reporting import plots

    drawn: dict[str, str] = {}
    for index, (run, found) in enumerate(zip(runs, report["runs"], strict=True)):
        tail = "" if len(runs) == 1 else f"_{index}"
        name = found["title"]
        first = run.leaders[0] if run.leaders else ""
        systems = found["systems"]
        plots.comparison(systems, out / f"comparison{tail}.png", main=system_name("leader_team", first))
        drawn[f"comparison{tail}.png"] = f"Accuracy of every system ({name})"
        flat = {key: systems[key]["accuracy"] for key in ("majority_vote", "best_agent", "oracle") if key in systems}
        if found["by_round"]:
            plots.rounds(found["by_round"], out / f"rounds{tail}.png", flat)
            drawn[f"rounds{tail}.png"] = f"Accuracy by round ({name})"
        if found["by_correct_agents"]:
            shown = [s for s in systems if s.startswith("leader_team[")]
            shown += [s for s in ("majority_vote", "best_agent") if s in systems]
            plots.by_correct(found["by_correct_agents"], out / f"by_correct_agents{tail}.png", shown)
            drawn[f"by_correct_agents{tail}.png"] = f"Accuracy by number of correct agents ({name})"
        plots.cost(systems, found["by_round"], out / f"cost{tail}.png")
        drawn[f"cost{tail}.png"] = f"Accuracy against cost ({name})"
    if len(runs) > 1:
        table = {found["title"].replace(", ", "\n", 1): found["systems"] for found in report["runs"]}
        shown = [s for s in report["runs"][0]["systems"] if not s.startswith("agent[") and "(equal" not in s][:8]
        plots.across(table, out / "across.png", shown)
        drawn["across.png"] = "The same systems over the runs"
    if curves := telling(training):
        plots.learning_curves(curves, out / "learning_curves.png")
        drawn["learning_curves.png"] = "Learning curves"
    return drawn


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="+", metavar="DIR", help="folders that eval/evaluate.py wrote")
    p.add_argument("--out", required=True, help="folder for the report")
    p.add_argument(
        "--training",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="TensorBoard folder of the training, for its learning curves; may repeat",
    )
    p.add_argument(
        "--max_megabytes",
        type=float,
        default=4.5,
        help="size of report.html; transcripts are left out beyond it (default %(default)s)",
    )
    return p.parse_args(argv)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    from eval.reporting.markdown import markdown
    from eval.reporting.page import page

    args = parse_args(argv)
    runs = [load_run(path) for path in args.runs]
    training = read_training(args.training) if args.training else {}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    report = build(runs)
    plots = draw(runs, report, training, out)
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = markdown(report, plots)
    (out / "report.md").write_text(text, encoding="utf-8")
    html = page(runs, report, plots, out, limit=int(args.max_megabytes * 1e6))
    (out / "report.html").write_text(html, encoding="utf-8")
    size = f"{len(html.encode()) / 1e6:.1f} MB"
    print(f"wrote {out / 'report.md'}, report.html ({size}), report.json and {len(plots)} plots")
    return 0


if __name__ == "__main__":
    run_cli(main)
