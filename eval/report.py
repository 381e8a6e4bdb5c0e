#!/usr/bin/env python3
"""Report on one evaluation or several: report.md (at most 200 lines), report.html (self-contained), report.json, plots.

    python3 eval/report.py runs/eval --out runs/eval/report
    python3 eval/report.py runs/seed0/eval runs/seed1/eval runs/seed2/eval --out runs/report

Runs of one label (see evaluate.py --label) with equally named agents are taken for seeds of one experiment and pooled;
others, such as teams that a leader never saw or other team sizes, stand side by side:

    python3 eval/report.py runs/eval runs/eval_unseen/k1 runs/eval_unseen/k3 --out runs/report

report.csv holds accuracies and comparisons in one long table, small enough to keep. The same results give the same
report, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

# A script's own folder comes first on the path, where `evaluate` and `report` would shadow other packages.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from eval.reporting import analysis, markdown  # noqa: E402
from eval.reporting.across import groups_of, teams  # noqa: E402
from eval.reporting.curves import read_training, telling  # noqa: E402
from eval.reporting.explorer import explorer_page  # noqa: E402
from eval.reporting.runs import BEST, MAJORITY, ORACLE, ROUTER, Run, System, load_run  # noqa: E402
from eval.reporting.store import as_json, long_table  # noqa: E402
from openrlhf_mlpo.cli.options import Parser  # noqa: E402
from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402
from openrlhf_mlpo.files import write_whole  # noqa: E402

LEVELS = (MAJORITY, BEST, ROUTER, ORACLE)


def draw_rounds(runs: Sequence[Run], file: Path) -> bool:
    """Draw the report's picture, accuracy by round with what it is compared with; False where no leader has rounds."""
    from eval.reporting import plots

    flat = {
        system: analysis.accuracy(runs, system)["accuracy"] for system in LEVELS if all(run.has(system) for run in runs)
    }
    table = analysis.by_round(runs)
    if len(table):
        names = [str(number + 1) for number in range(table["round"].max() + 1)]
        plots.lines(table, file, "round", "rounds played", names, flat)
    return bool(len(table))


def draw(groups: Sequence, runs: Mapping[str, Run], training: Mapping, out: Path) -> dict[str, tuple[str, str]]:
    """Draw all plots into `out`: `{file: (caption, title of the run or "")}`. The first is the report's picture."""
    from eval.reporting import plots

    drawn: dict[str, tuple[str, str]] = {}

    def rounds(name: str, of: Sequence[Run], caption: str, title: str = "") -> None:
        if draw_rounds(of, out / name):
            drawn[name] = (f"{caption}, with 95 % intervals", title)

    rounds("rounds.png", groups[0].runs, f"Accuracy by round ({groups[0].title})")
    systems = {title: analysis.systems(run) for title, run in runs.items()}
    for index, (title, run) in enumerate(runs.items()):
        tail = "" if len(runs) == 1 else f"_{index}"
        plots.comparison(systems[title], out / f"comparison{tail}.png", System("leader_team", (run.leaders or [""])[0]))
        drawn[f"comparison{tail}.png"] = (f"Accuracy of every system ({title})", title)
        if tail:
            rounds(f"rounds{tail}.png", [run], f"Accuracy by round ({title})", title)
        if len(strata := analysis.by_correct_agents(run)):
            chosen = [s.method == "leader_team" or s in LEVELS[:3] for s in strata["system"]]
            strata = strata[chosen].rename(columns={"system": "series"})
            names = [str(right) for right in range(len(run.agents) + 1)]
            name, label = f"by_correct_agents{tail}.png", "agents whose first response is right"
            plots.lines(strata, out / name, "group", label, names)
            drawn[name] = (f"Accuracy by number of correct agents ({title})", title)
    if len(runs) > 1:
        chosen = [s for s in groups[0].runs[0].table if s.method == "leader_team" or s in LEVELS]
        wide = pd.concat(systems, names=["run", "series"]).reset_index()
        wide = wide[wide["series"].isin(chosen)]
        wide = wide.assign(at=wide["run"].map(list(runs).index))
        plots.lines(wide, out / "across.png", "at", "run", [title.replace(", ", "\n", 1) for title in runs])
        drawn["across.png"] = ("The same systems over the runs", "")
    if curves := telling(training):
        plots.learning_curves(curves, out / "learning_curves.png")
        drawn["learning_curves.png"] = ("Learning curves", "")
    return drawn


def blocks(groups: Sequence, plots: Mapping[str, tuple[str, str]], every: bool) -> list[markdown.Block]:
    """The report: what one wants to see first, then claims, teams, plots, and the first run, or `every` run."""
    first = groups[0].titles[0]
    chosen = [(name, caption) for name, (caption, run) in plots.items() if every or run in ("", first)]
    picture, *others = [f"![{caption}]({name}) *{caption}*" for name, caption in chosen]
    sentence, table = markdown.overview(groups[0])
    text: list[markdown.Block] = ["# Evaluation report", sentence, picture, table]
    text += [*markdown.claims_blocks(groups), *markdown.teams_blocks(teams(groups)), *others]
    for group in groups:
        for run, title, tests in zip(group.runs, group.titles, group.tests, strict=True):
            if every or title == first:
                text += markdown.run_blocks(run, title, tests if every else tests[:0])  # report.md has the claims'
    if not every and len(groups[0].runs) + len(groups) > 2:
        text.append("*The other runs' tables, plots and transcripts: report.html.*")
    versions = groups[0].runs[0].manifest.get("versions", {})
    return [*text, "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = Parser(description=__doc__)
    p.add_argument("runs", nargs="+", metavar="DIR", help="folders that eval/evaluate.py wrote")
    p.add_argument("--out", required=True, help="folder for the report")
    p.add_argument("--training", action="append", default=[], metavar="[NAME=]DIR",
                   help="TensorBoard folder of the training, for its learning curves; may repeat")  # fmt: skip
    p.add_argument("--max_megabytes", type=float, default=4.5,
                   help="size of report.html; transcripts are left out beyond it (default %(default)s)")  # fmt: skip
    args = p.parse_args(argv)
    if not 0 <= args.max_megabytes < float("inf"):
        raise UserError(f"--max_megabytes must be a size from 0 on, not {args.max_megabytes}")
    folders = [Path(run).resolve() for run in args.runs]
    if twice := [run for run, folder in zip(args.runs, folders, strict=True) if folders.count(folder) > 1]:
        raise UserError(f"{twice[-1]}: named twice; one run is not two seeds of an experiment")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    groups = groups_of([load_run(path) for path in args.runs])
    runs = {title: run for group in groups for title, run in zip(group.titles, group.runs, strict=True)}
    training = read_training(args.training)
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}") from None
    try:
        plots = draw(groups, runs, training, out)
    except OSError as error:
        raise UserError(f"--out {out}: a plot cannot be written: {error.strerror or error}") from None
    body = markdown.render(blocks(groups, plots, every=True))
    files = {
        "report.md": markdown.fit(blocks(groups, plots, every=False)),
        "report.html": explorer_page(runs, body, out, limit=int(args.max_megabytes * 1e6)),
        "report.json": json.dumps(as_json(groups), indent=1, ensure_ascii=False) + "\n",
        "report.csv": long_table(groups).to_csv(index=False, float_format="%.6g"),
    }
    for name, text in files.items():
        write_whole(out / name, [text])
    size = f"{len(files['report.html'].encode(errors='replace')) / 1e6:.1f} MB"
    print(f"wrote {out / 'report.md'}, report.html ({size}), report.json, report.csv and {len(plots)} plots")
    return 0


if __name__ == "__main__":
    run_cli(main)
