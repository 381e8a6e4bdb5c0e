"""The command line of eval/evaluate.py, and the check of its flags before any model is opened."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Sequence
from typing import Any

from eval.play.methods import METHODS
from eval.play.state import BUDGETS, LEADER_METHODS, Config
from openrlhf_mlpo.cli.options import Parser, add_question_flags, at_least
from openrlhf_mlpo.engines.base import json_object
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.templates import SHOW_CHOICES, load_template
from openrlhf_mlpo.questions import TASKS
from openrlhf_mlpo.sources import parse_columns
from openrlhf_mlpo.team import split_engine

# What --questions is when it is left out.
USUAL = {"math": "HuggingFaceH4/MATH-500", "bbh": "lukaemon/bbh", "mmlu": "cais/mmlu:all"}


# fmt: off
def parse_args(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags as they stand; `check` settles them."""
    p = Parser(description=description, argument_default="", renamed={"--leader_engine_args": "--engine_args"})
    add = p.add_argument
    several: dict[str, Any] = {"action": "append", "default": []}
    add("--leader", **several, metavar="[NAME=]MODEL",
        help="a leader: model folder or hub name, or ray:MODEL, openai:MODEL, callable:FILE.py:FUNCTION; may repeat. "
        "The first is the one that is tested; name the model it was trained from 'untrained', and a leader trained by "
        "plain GRPO 'grpo', to get those comparisons")
    add("--team", help="YAML team file; needed by every method but leader_solo and leader_vote")
    add("--questions", help="JSONL or Parquet file, or a hub data set (default: "
        + ", ".join(f"{task}: {source}" for task, source in USUAL.items()) + "; of these the split test)")
    add("--task", required=True, help=", ".join(TASKS))
    add_question_flags(add)
    add("--drop_long", action="store_true", default=False,
        help="leave out questions that do not fit a leader's prompt (default: an error)")
    add("--subtasks", help="only questions of these subtasks, comma separated (default: all)")
    add("--rounds", type=int, default=5, help="T, rounds of team then leader (default 5, as in the paper)")
    add("--methods", default="leader_team,leader_solo,majority_vote,best_agent,agent,oracle",
        help=f"comma list of {', '.join(METHODS)}; or 'all', router only with --pool (default: %(default)s)")
    add("--leader_methods", **several, metavar="NAME=METHOD,…",
        help="run only these leader methods for this leader, such as grpo=leader_solo; may repeat")
    add("--budget", help="also give majority_vote, leader_vote, debate and mixture_of_agents the budget of "
        "leader_team: 'generations', 'tokens' (prompt and completion, question by question) or both, comma separated")
    add("--vote_samples", type=int, default=0,
        help="samples of leader_vote; 0: as many as leader_team generates (default)")
    add("--vote_temperature", type=float, default=0.7,
        help="temperature of leader_vote's samples (default %(default)s)")
    add("--debate_rounds", type=int, default=2, help="rounds of debate, the first without seeing others (default 2)")
    add("--moa_layers", type=int, default=2, help="layers of mixture_of_agents (default 2)")
    add("--aggregator", help="the leader that aggregates in mixture_of_agents (default: 'untrained')")
    add("--early_stop", action="store_true", default=False,
        help="end a question's rounds once the leader's answer repeats")
    add("--team_size", default="0",
        help="first K agents of the team file; 0: all (default). A comma list evaluates each into OUT/k1, OUT/k3, …")
    add("--template", default="chat", help="prompt template: chat, compact or a YAML file (default %(default)s)")
    add("--show", default="full", choices=SHOW_CHOICES,
        help="what the leader sees of a response: all of it, or its final answer (default %(default)s)")
    add("--max_new_tokens", type=int, default=1024,
        help="tokens a leader may generate, and an agent whose team entry does not say (default %(default)s)")
    add("--max_prompt_tokens", type=int, default=0,
        help="tokens a prompt may have; longer ones have responses cut. 0: what the model's context leaves (default)")
    add("--temperature", type=float, default=0.0, help="of the leader; 0: greedy (default). Agents: see the team file")
    add("--chat_template_kwargs", default="{}", metavar="JSON",
        help="variables of the leaders' chat template, as in their training: '{\"enable_thinking\": false}'")
    add("--pool", help="training pool of the team: router and best_agent are read off it (best_agent without it: off "
        "these questions, which is harder to beat), and a warning says when it holds questions of this evaluation")
    add("--engine_args", **several, metavar="[NAME=]JSON",
        help="engine arguments of the leaders, such as '{\"max_model_len\": 4096}' for vLLM; may repeat. With a "
        "leader's name they are that one's, beside those for all: 'gpt={\"base_url\": \"http://localhost:8000/v1\"}'")
    add("--max_engines", type=int, default=-1,
        help="models kept open at once; 0: all; -1 (default): all on a CPU, one on a GPU, where vLLM takes most of the "
        "memory for each. Others are closed and opened again each round")
    add("--batch", type=int, default=2048,
        help="prompts sent to a model at once, and lost by a kill (default %(default)s)")
    add("--label", help="name of this run in a report of several (default: the team file's name)")
    add("--seed", type=int, default=0, help="of every sample, tie and order (default 0)")
    add("--out", required=True, help="folder to write to; what was answered there before is not asked again")
    return p.parse_args(argv)
# fmt: on


def check(args: argparse.Namespace) -> tuple[dict[str, str], Config, list[int]]:
    """Leaders (model by name), the methods' configuration, and the team sizes. Opens nothing; raises UserError.

    Settles `args.engine_args` (by leader's name) and `args.aggregator`.
    """
    leaders = leaders_of(args)
    methods = methods_of(args, leaders)
    args.engine_args = engine_args_of(args, leaders)
    parse_columns(args.columns)
    if not args.questions and args.task not in USUAL:
        raise UserError(f"--task {args.task} needs --questions FILE")
    at_least(args, **dict.fromkeys(("rounds", "debate_rounds", "moa_layers", "max_new_tokens", "batch"), 1))
    at_least(args, limit=0, vote_samples=0, max_prompt_tokens=0, temperature=0, vote_temperature=0)
    if not 0 < args.test_fraction < 1:
        raise UserError(f"--test_fraction must be between 0 and 1, not {args.test_fraction}")
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", args.team_size):
        raise UserError(f"--team_size {args.team_size}: a number (0: all), or numbers with commas between them")
    same = ("rounds", "seed", "early_stop", "vote_samples", "debate_rounds", "moa_layers")
    limited = by_leader(args.leader_methods, leaders, "--leader_methods")
    config = Config(
        methods=methods,
        template=load_template(args.template),
        budgets=comma(args.budget, BUDGETS, "--budget"),
        leader_methods={name: comma(text, LEADER_METHODS, "--leader_methods") for name, text in limited.items()},
        **{flag: getattr(args, flag) for flag in same},
    )
    played = {method for method in LEADER_METHODS if any(config.plays(name, method) for name in leaders)}
    if "tokens" in config.budgets and "leader_team" not in played:
        raise UserError(
            "--budget tokens compares with leader_team, which no leader plays: add it to --methods, and to "
            "--leader_methods of a leader that is limited there"
        )
    if not played and set(methods) <= set(LEADER_METHODS):
        raise UserError(f"--leader_methods leaves no leader to play {', '.join(methods)}")
    return leaders, config, list(map(int, args.team_size.split(",")))


def leaders_of(args: argparse.Namespace) -> dict[str, str]:
    """The leaders' models by name."""
    leaders: dict[str, str] = {}
    for text in args.leader:
        name, model = text.split("=", 1) if "=" in text else ("leader", text)
        if name in leaders:
            raise UserError(f"--leader: two are named {name!r}; name them, as in --leader other=MODEL")
        if not (name and name.isprintable() and split_engine(model)[1]):
            raise UserError(f"--leader {text!r}: write [NAME=]MODEL")
        leaders[name] = model
    return leaders


def methods_of(args: argparse.Namespace, leaders: dict[str, str]) -> tuple[str, ...]:
    """The methods to run, each with what it needs; settles `args.aggregator`."""
    if args.methods == "all":
        methods = tuple(name for name in METHODS if name != "router" or args.pool)
    elif not (methods := comma(args.methods, METHODS, "--methods")):
        raise UserError("--methods names no method")
    for method in methods:
        if method in LEADER_METHODS and not leaders:
            raise UserError(f"--methods {method} needs --leader MODEL")
        if method not in ("leader_solo", "leader_vote") and not args.team:
            raise UserError(f"--methods {method} needs --team TEAM.yaml")
        if method == "router" and not args.pool:
            raise UserError("--methods router needs --pool POOL, from which it reads the best agent of each kind")
        if method == "team_vote" and "leader_team" not in methods:
            raise UserError("--methods team_vote needs leader_team, whose rounds show the responses that vote")
        if method == "mixture_of_agents":
            args.aggregator = args.aggregator or "untrained"
            if args.aggregator not in leaders:
                raise UserError(f"--methods {method} needs --leader untrained=MODEL, or a leader as --aggregator NAME")
    return methods


def engine_args_of(args: argparse.Namespace, leaders: dict[str, str]) -> dict[str, dict]:
    """Each leader's engine arguments, the variables of its chat template among them."""
    named = [text for text in args.engine_args if re.match(r"[^{=]+=", text)]
    own = by_leader(named, leaders, "--engine_args")
    common: dict[str, Any] = {}
    for text in (text for text in args.engine_args if text not in named):
        common |= json_object(text, "--engine_args")
    variables = json_object(args.chat_template_kwargs, "--chat_template_kwargs")
    settled = {}
    for name, model in leaders.items():
        engine = split_engine(model)[0]
        settings = {} if engine == "callable" else common  # a function knows no argument of vLLM's
        settings = settings | json_object(own.get(name, ""), f"--engine_args of {name}")
        if variables and engine == "openai":
            settings["extra_body"] = {"chat_template_kwargs": variables, **settings.get("extra_body", {})}
        elif variables and engine != "callable":
            settings = {"chat_template_kwargs": variables, **settings}
        settled[name] = settings
    return settled


def comma(text: str, known: Collection[str], flag: str) -> tuple[str, ...]:
    """The names in a comma list, once each; `all`: all that are known."""
    items = tuple(dict.fromkeys(known if text == "all" else filter(None, map(str.strip, text.split(",")))))
    if unknown := [item for item in items if item not in known]:
        raise UserError(f"{flag}: unknown {unknown[0]!r}; known are {', '.join(known)}")
    return items


def by_leader(texts: Sequence[str], leaders: Collection[str], flag: str) -> dict[str, str]:
    """What a repeated flag of the form NAME=… says of each leader it names."""
    for name, given, _ in (text.partition("=") for text in texts):
        if not given or name not in leaders:
            raise UserError(f"{flag} {name}=…: the leaders are {', '.join(leaders) or 'none'}")
    return dict(text.split("=", 1) for text in texts)
