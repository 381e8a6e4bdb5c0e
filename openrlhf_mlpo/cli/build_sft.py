"""Build the leader's warm-start data: traces that doubt, go back and end right, from its own outputs over a pool.

    python3 -m openrlhf_mlpo.cli.build_sft --pool pool --leader Qwen/Qwen2.5-7B-Instruct --out sft

The leader answers leader prompts (with a draw of the team's responses, some of a later round, some without a team)
--samples times each; from right and wrong outputs to the same prompt the traces of sft/traces.py are composed.
Writes OUT/train.jsonl for OpenRLHF's own SFT,

    python3 -m openrlhf.cli.train_sft --data.dataset sft/train.jsonl --data.input_key input --data.output_key output \\
        --data.input_template "{}" …

and OUT/card.json and card.md, which say what the data are: counts, lengths, yields, what was dropped and why. The
leader's outputs are kept as pools in OUT/outputs: a run that was stopped is continued by the same command, more --draws
or --samples add to them, and other proportions (--mix, --n, --phrases) cost no new sampling.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from openrlhf_mlpo.cli.options import Parser, add_drop_flag, at_least, between
from openrlhf_mlpo.engines import ENGINES
from openrlhf_mlpo.engines.base import json_object
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.models import open_tokenizer
from openrlhf_mlpo.pool.draw import keep_questions
from openrlhf_mlpo.pool.format import open_pool
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.sft.build import ask, build, first_prompts, later_prompts, open_team
from openrlhf_mlpo.sft.card import card, write
from openrlhf_mlpo.sft.phrases import load_phrases
from openrlhf_mlpo.sft.traces import KINDS
from openrlhf_mlpo.team import Agent


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    phrases, template = load_phrases(args.phrases), load_template(args.template)
    pool = open_pool(args.pool)
    kept = pool.select(keep_questions(pool, args.drop_correct).nonzero()[0])
    if not len(kept):
        raise UserError(f"--pool {args.pool}: no question is left of {len(pool)}; raise --drop_correct")
    tokenizer = open_tokenizer(args.tokenizer or args.leader, "--tokenizer" if args.tokenizer else "--leader")
    room = args.max_len - args.max_new_tokens
    renderer = PromptRenderer(tokenizer, template, room, chat_template_kwargs=args.chat_template_kwargs)
    rounds = 2 if args.later_fraction else 1
    for row in kept:
        renderer.check_fits(row["question"], len({response["agent"] for response in row["responses"]}), rounds)
    team = open_team(args, pool)
    leader = Agent(
        name="leader",
        model=args.leader,
        engine=args.engine,
        sampling={"temperature": args.temperature, "max_tokens": args.max_new_tokens},
        engine_args=args.engine_args,
    )
    outputs = args.out / "outputs"
    answered = ask(args, outputs / "first_round", leader, first_prompts(args, kept, renderer))
    later = later_prompts(args, answered, renderer, team)
    if later:
        answered += ask(args, outputs / "later_round", leader, later)
    traces, counts = build(args, answered, tokenizer, phrases)
    write(args, traces, counts, card(args, pool, kept, answered, traces, counts, tokenizer))
    return 0


def parse_mix(text: str) -> dict[str, float]:
    """`plain=0.5,own_line=0.5` as shares that add up to 1. Raises UserError."""
    mix: dict[str, float] = {}
    for pair in filter(str.strip, text.split(",")):
        kind, _, share = pair.partition("=")
        try:
            mix[kind.strip()] = float(share)
        except ValueError:
            raise UserError(f"--mix {pair!r}: write KIND=SHARE, for example plain=0.5") from None
    if unknown := sorted(set(mix) - set(KINDS)):
        raise UserError(f"--mix: unknown kind {unknown[0]!r}; the kinds are {', '.join(KINDS)}")
    total = sum(mix.values())
    if not mix or min(mix.values()) < 0 or not total > 0:
        raise UserError(f"--mix {text!r}: shares must not be negative, and one must be above 0")
    return {kind: share / total for kind, share in mix.items()}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python3 -m openrlhf_mlpo.cli.build_sft", description=__doc__)
    add = parser.add_argument
    usual = ",".join(f"{kind}={share:g}" for kind, share in KINDS.items())
    add("--pool", required=True, help="pool directory (sample_team), from training questions")
    add("--leader", required=True, help="the model to tune, as it is before: it writes the outputs")
    add("--out", type=Path, required=True, help="directory to write to; an unfinished one is continued")
    add("--n", type=int, default=0, help="traces wanted; 0: one a prompt (default)")
    add(
        "--mix",
        default=usual,
        help=f"shares of the kinds of traces (default {usual}). plain: a right output over a team's responses; "
        "own_line: its own wrong line, doubt, a right one; agent_line: a wrong agent's line, doubt, a right one; "
        "checked: a right line, doubt, another right one; solo: a right output without a team",
    )
    add(
        "--phrases",
        default="",
        help="YAML file with phrases that join lines (default: English ones, see sft/phrases.py)",
    )
    add("--draws", type=int, default=1, help="prompts per question, each with a draw of its own (default 1)")
    add("--samples", type=int, default=8, help="outputs per prompt (default 8)")
    add("--temperature", type=float, default=1.0, help="of the leader (default 1)")
    add("--solo_fraction", type=float, default=0.25, help="share of prompts without a team (default 0.25)")
    add(
        "--later_fraction",
        type=float,
        default=0.2,
        help="for this share of team prompts also one of a later round, with the leader's last output (default 0.2)",
    )
    add(
        "--team",
        default="",
        metavar="TEAM.yaml",
        help="the pool's team: it revises its responses for the prompts of a later round, so that these show what the "
        "leader will see (default: another draw from the pool in their place)",
    )
    add_drop_flag(add)
    add("--template", default="chat", help="prompt template, as in training: chat, compact or a YAML file")
    add(
        "--chat_template_kwargs",
        default="",
        help="JSON of variables of the leader's chat template, as in training, such as '{\"enable_thinking\": false}'",
    )
    add("--max_len", type=int, default=8192, help="tokens of prompt and output, as --data.max_len (default 8192)")
    add("--max_new_tokens", type=int, default=2048, help="tokens of an output; longer traces go (default 2048)")
    add("--engine", default="vllm", choices=ENGINES, help="what runs the leader (default vllm)")
    add("--engine_args", default="", help="JSON of its arguments, such as '{\"tensor_parallel_size\": 2}'")
    add("--tokenizer", default="", help="model whose tokenizer and chat template to use (default: the leader's)")
    add("--seed", type=int, default=0, help="seed of draws, outputs and choices (default 0)")
    args = parser.parse_args(argv)
    at_least(args, n=0, draws=1, samples=1, max_new_tokens=1, seed=0)
    between(args, 0, 1, ("solo_fraction", "later_fraction"))
    if args.max_len <= args.max_new_tokens:
        raise UserError(f"--max_len {args.max_len} must exceed --max_new_tokens {args.max_new_tokens}: it counts both")
    args.engine_args = json_object(args.engine_args, "--engine_args")
    args.chat_template_kwargs = json_object(args.chat_template_kwargs, "--chat_template_kwargs")
    args.mix = parse_mix(args.mix)
    if args.engine == "vllm":
        args.engine_args.setdefault("max_model_len", args.max_len)
    return args


if __name__ == "__main__":
    run_cli(main)
