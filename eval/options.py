"""The command line of eval/evaluate.py, and the check of its flags before any model is opened."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence

from eval.play.methods import BUDGETS, LEADER_METHODS, METHODS, Config
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.sources import TEST_FRACTION

# What --questions is when it is left out.
USUAL = {"math": "HuggingFaceH4/MATH-500", "bbh": "lukaemon/bbh", "mmlu": "cais/mmlu:all"}
NEED_TEAM = ("leader_team", "agent", "majority_vote", "best_agent", "debate", "mixture_of_agents", "oracle")


def parse_args(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add(
        "--leader",
        action="append",
        default=[],
        metavar="[NAME=]MODEL",
        help="a leader: model folder or hub name, or openai:MODEL, callable:FILE.py:FUNCTION; may repeat. The first is "
        "the one that is tested; name the model it was trained from 'untrained', and a leader trained by plain GRPO "
        "'grpo', to get those comparisons",
    )
    add("--team", help="YAML team file; needed by every method but leader_solo and leader_vote")
    add(
        "--questions",
        default="",
        help="JSONL or Parquet file, or a hub data set (default: "
        + ", ".join(f"{task}: {source}" for task, source in USUAL.items())
        + ")",
    )
    add("--task", required=True, help="math, bbh, mmlu or exact")
    add("--split", default=None, help="split of a data set (default: all rows of a file, else test)")
    add(
        "--columns",
        default="",
        help="names of your columns, as question=prompt,answer=gold[,subtask=…,choices=…] (default: the usual names)",
    )
    add(
        "--test_fraction",
        type=float,
        default=TEST_FRACTION,
        help="share of the test split where it is made from content (default %(default)s)",
    )
    add(
        "--drop_long",
        action="store_true",
        help="leave out questions that do not fit a leader's prompt (default: an error)",
    )
    add(
        "--skip_bad_rows",
        "--skip-bad-rows",
        action="store_true",
        help="leave out rows without an answer, with one that can never be matched, or that contradict each other",
    )
    add("--subtasks", default="", help="only questions of these subtasks, comma separated (default: all)")
    add("--limit", type=int, default=0, help="first N questions; 0: all (default)")
    add("--rounds", type=int, default=5, help="T, rounds of team then leader (default 5, as in the paper)")
    add(
        "--methods",
        default="leader_team,leader_solo,majority_vote,best_agent,agent,oracle",
        help=f"comma list of {', '.join(METHODS)}; or 'all' (default: %(default)s)",
    )
    add(
        "--leader_methods",
        action="append",
        default=[],
        metavar="NAME=METHOD,…",
        help="run only these leader methods for this leader, such as grpo=leader_solo; may repeat",
    )
    add(
        "--budget",
        default="",
        help="also give majority_vote, leader_vote, debate and mixture_of_agents the budget of "
        "leader_team: 'generations', 'tokens' (prompt and completion, question by question) or both, comma separated",
    )
    add(
        "--vote_samples",
        type=int,
        default=0,
        help="samples of leader_vote; 0: as many as leader_team generates (default)",
    )
    add(
        "--vote_temperature", type=float, default=0.7, help="temperature of leader_vote's samples (default %(default)s)"
    )
    add("--debate_rounds", type=int, default=2, help="rounds of debate, the first without seeing others (default 2)")
    add("--moa_layers", type=int, default=2, help="layers of mixture_of_agents (default 2)")
    add("--aggregator", default="", help="the leader that aggregates in mixture_of_agents (default: 'untrained')")
    add("--early_stop", action="store_true", help="end a question's rounds once the leader's answer repeats")
    add(
        "--team_size",
        default="0",
        help="first K agents of the team file; 0: all (default). A comma list evaluates each "
        "size into OUT/k1, OUT/k3, …",
    )
    add("--template", default="chat", help="prompt template: chat, compact or a YAML file (default %(default)s)")
    add("--show", default="full", help="what the leader sees of a response: full (default) or answer")
    add(
        "--max_new_tokens",
        type=int,
        default=1024,
        help="tokens a leader may generate, and an agent whose team entry does not say (default %(default)s)",
    )
    add(
        "--max_prompt_tokens",
        type=int,
        default=0,
        help="tokens a prompt may have; longer ones have responses cut. 0: what the model's context leaves (default)",
    )
    add("--temperature", type=float, default=0.0, help="of the leader; 0: greedy (default). Agents: see the team file")
    add(
        "--pool",
        default="",
        help="training pool on which best_agent is chosen (default: on these questions, which is harder to beat)",
    )
    add(
        "--engine_args",
        action="append",
        default=[],
        metavar="[NAME=]JSON",
        help="more vLLM arguments for leaders, such as '{\"max_model_len\": 4096}'; may repeat. With a leader's name "
        "they are for that one, beside those for all",
    )
    add(
        "--max_engines",
        type=int,
        default=-1,
        help="models kept open at once; 0: all; -1 (default): all on a CPU, one on a GPU, where vLLM takes most of the "
        "memory for each. Others are closed and opened again each round",
    )
    add(
        "--batch",
        type=int,
        default=2048,
        help="prompts sent to a model at once, and lost by a kill (default %(default)s)",
    )
    add("--label", default="", help="name of this run in a report of several (default: the team file's name)")
    add("--seed", type=int, default=0)
    add("--out", required=True, help="folder to write to")
    return p.parse_args(argv)


def named(text: str) -> tuple[str, str]:
    name, given, model = text.partition("=")
    return (name, model) if given else ("leader", text)


def engine_args_of(texts: Sequence[str], leaders: Iterable[str]) -> dict[str, dict]:
    """Engine arguments by leader from `[NAME=]JSON`; those without a name hold for all. Raises UserError."""
    every: dict[str, dict] = {name: {} for name in leaders}
    named = [text.partition("=") if re.match(r"[^{=]+=", text) else ("", "", text) for text in texts]
    for name, _, settings in sorted(named, key=lambda parts: parts[0] != ""):  # those for all first
        if name and name not in every:
            raise UserError(f"--engine_args {name}=…: the leaders are {', '.join(every) or 'none'}")
        try:
            values = json.loads(settings)
        except ValueError as error:
            raise UserError(f"--engine_args {settings}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f'--engine_args {settings}: write a JSON object, such as {{"max_model_len": 4096}}')
        for leader in [name] if name else every:
            every[leader] |= values
    return every


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
    args.engine_args = engine_args_of(args.engine_args, leaders)
    if not args.questions and args.task not in USUAL:
        raise UserError(f"--task {args.task} needs --questions FILE")
    methods = comma(args.methods, METHODS, "--methods")
    if args.methods == "all" and not leaders:
        raise UserError("--methods all needs --leader MODEL")
    budgets = comma(args.budget, BUDGETS, "--budget")
    only = {}
    for text in args.leader_methods:
        name, found, listed = text.partition("=")
        if not found or name not in leaders:
            raise UserError(
                f"--leader_methods {text}: write NAME=METHOD,… with NAME one of {', '.join(leaders) or 'none'}"
            )
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
            raise UserError(
                "mixture_of_agents needs an untrained aggregator: --leader untrained=MODEL, or --aggregator NAME"
            )
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
