"""The `--mlpo.*` flags, and what is checked of a training command before anything starts.

Defaults are settled first; then `CHECKS` is a table of what must not be, and all conflicts come in one message. What
opens files is in `inputs`. To add a flag: an `add_argument`, a row of `CHECKS` per way to get it wrong, a test of each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.train import seams
from openrlhf_mlpo.train.paths import path_problems, reward_problems

ESTIMATORS = ("dr_grpo", "group_norm", "rloo", "reinforce_baseline")
LOSS_NORMS = ("constant", "token-mean", "seq-mean-token-mean")

# Flags of OpenRLHF that do nothing beside --mlpo.pool ("critic" is all of --critic.*), and why. They are refused, as
# whoever gives one expects something of it.
_PROMPTS = "the pool holds the questions, and --mlpo.template makes the prompts"
IGNORED = {
    "data.prompt_dataset": "the pool holds the questions",
    "data.input_key": _PROMPTS,
    "data.label_key": "the pool holds the answers",
    "data.input_template": _PROMPTS,
    "data.apply_chat_template": "the leader's chat template is always applied",
    "data.image_key": "prompts are text",
    "data.max_images_per_prompt": "prompts are text",
    "train.agent_func_path": "it would take the place of the reward file",
    "reward.model_name_or_path": "--reward.remote_url gives the rewards",
    "critic": "MLPO has no value network",
}

Check = tuple[Callable[[SimpleNamespace], object], str]
# What must not be, of nested arguments with `given`, the flags on the command line; and the message, filled from them.
CHECKS: tuple[Check, ...] = (
    (lambda a: not a.actor.model_name_or_path, "--actor.model_name_or_path is missing: name the leader"),
    (
        lambda a: not a.reward.remote_url,
        "--reward.remote_url is missing: name a reward file, such as reward_fns/auto_reward.py",
    ),
    (
        lambda a: a.algo.advantage.estimator not in ESTIMATORS,
        "--algo.advantage.estimator {algo.advantage.estimator}: MLPO compares samples of one prompt and has no value "
        f"network; use one of {', '.join(ESTIMATORS)}",
    ),
    (
        lambda a: a.rollout.n_samples_per_prompt < 2,
        "--rollout.n_samples_per_prompt must be at least 2: the baseline is the mean of a group",
    ),
    (
        lambda a: (a.vllm.num_engines or 0) < 1,
        "--vllm.num_engines must be at least 1: vLLM writes the leader's outputs",
    ),
    (lambda a: a.train.num_episodes < 1, "--train.num_episodes must be at least 1, not {train.num_episodes}"),
    (lambda a: a.train.max_epochs < 1, "--train.max_epochs must be at least 1, not {train.max_epochs}"),
    (lambda a: a.data.max_samples < 1, "--data.max_samples must be at least 1, not {data.max_samples}"),
    (
        lambda a: samples_at_once(a) < a.train.batch_size,
        "--train.batch_size {train.batch_size}: a rollout batch of {rollout.batch_size} prompts x "
        "{rollout.n_samples_per_prompt} samples never fills one optimizer step; lower it, or raise "
        "--rollout.batch_size (and --rollout.vllm_generate_batch_size if given)",
    ),
    (
        lambda a: not 0 <= a.mlpo.solo_fraction <= 1,
        "--mlpo.solo_fraction must be between 0 and 1, not {mlpo.solo_fraction}",
    ),
    (lambda a: a.mlpo.team_size < 0, "--mlpo.team_size must be 0 (whole team) or more, not {mlpo.team_size}"),
    (lambda a: not a.mlpo.drop_correct > 0, "--mlpo.drop_correct must be above 0: 0 would leave out every question"),
    (
        lambda a: a.mlpo.chat_template_kwargs and not isinstance(_json(a.mlpo.chat_template_kwargs), dict),
        "--mlpo.chat_template_kwargs {mlpo.chat_template_kwargs}: not a JSON object; write one such as "
        '{{"enable_thinking": false}}',
    ),
    (
        lambda a: a.mlpo.loss_norm != "constant" and a.actor.loss_agg_mode != a.mlpo.loss_norm,
        "--actor.loss_agg_mode and --mlpo.loss_norm contradict each other; give one of them",
    ),
    (
        lambda a: a.mlpo.loss_norm == "constant" and "actor.loss_agg_mode" in a.given,
        "--actor.loss_agg_mode needs --mlpo.loss_norm seq-mean-token-mean or token-mean, not constant",
    ),
    (
        lambda a: a.mlpo.loss_norm == "constant" and a.actor.policy_loss_type == "gspo",
        "--actor.policy_loss_type gspo needs --mlpo.loss_norm seq-mean-token-mean or token-mean, not constant",
    ),
    (
        lambda a: a.rollout.max_new_tokens is None,
        "--rollout.max_new_tokens is missing: it sets how much of --data.max_len a prompt may take",
    ),
    (
        lambda a: a.rollout.max_new_tokens is not None and not 0 < a.rollout.max_new_tokens < a.data.max_len,
        "--rollout.max_new_tokens {rollout.max_new_tokens} leaves no room for a prompt or an output in --data.max_len "
        "{data.max_len}, which counts both together",
    ),
    (
        lambda a: a.ds.lora.rank and (a.ds.zero_stage > 2 or a.ds.tensor_parallel_size > 1),
        "--ds.lora.rank needs --ds.zero_stage 2 or less and no --ds.tensor_parallel_size: adapters are merged on each "
        "GPU before vLLM gets the weights",
    ),
    (lambda a: a.ds.load_in_4bit, "--ds.load_in_4bit: vLLM cannot take 4-bit weights from training; leave it out"),
    (
        lambda a: "data.disable_fast_tokenizer" in a.given,
        "--data.disable_fast_tokenizer: only a fast tokenizer can cut responses to fit; leave it out",
    ),
)


def check_openrlhf() -> None:
    """Raise UserError unless the installed OpenRLHF can be extended."""
    try:
        seams.check_version()
    except seams.SeamError as error:
        raise UserError(str(error)) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the `--mlpo.*` flags to OpenRLHF's parser."""
    group = parser.add_argument_group("MLPO", "train a leader on prompts that carry a frozen team's responses")
    group.add_argument(
        "--mlpo.pool",
        default=None,
        metavar="DIR[,DIR…]",
        help="pool(s) made by openrlhf_mlpo.cli.sample_team, in place of --data.prompt_dataset; several are mixed as "
        "--data.prompt_probs says. Without it this is stock train_ppo_ray. --eval.dataset then takes a pool as well",
    )
    group.add_argument(
        "--mlpo.template", default="chat", help="prompt template: chat, compact, or a YAML file (default: chat)"
    )
    group.add_argument(
        "--mlpo.chat_template_kwargs",
        default="",
        metavar="JSON",
        help="variables of the leader's own chat template, as in '{\"enable_thinking\": false}' (default: none)",
    )
    group.add_argument(
        "--mlpo.team_size", type=int, default=0, help="agents per draw, chosen at random; 0 = the pool's whole team"
    )
    group.add_argument(
        "--mlpo.solo_fraction", type=float, default=0.0, help="share of prompts without a team, 0 to 1 (default: 0)"
    )
    group.add_argument(
        "--mlpo.show",
        choices=("full", "answer"),
        default="full",
        help="what the leader sees of each response: all of it, or its final answer only (default: full)",
    )
    group.add_argument(
        "--mlpo.drop_correct",
        type=float,
        default=0.75,
        help="leave out questions of which at least this share of responses is correct (default: 0.75, as in the "
        "paper); above 1 = keep all",
    )
    group.add_argument(
        "--mlpo.drop_long",
        action="store_true",
        help="leave out, and count, questions that do not fit a prompt even with every response cut to its end; "
        "without it they are an error, and --data.max_len is to be raised",
    )
    group.add_argument(
        "--mlpo.loss_norm",
        choices=LOSS_NORMS,
        default="constant",
        help="what the summed token loss of an optimizer step is divided by: constant = samples x max_new_tokens "
        "(Dr. GRPO), or one of OpenRLHF's --actor.loss_agg_mode (default: constant)",
    )


def check_arguments(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> SimpleNamespace | None:
    """Settle (in `parsed`, which is flat) and check what the flags say; opens neither model nor pools.

    Returns the arguments as OpenRLHF nests them; None without `--mlpo.pool`. Raises UserError with all conflicts.
    """
    from openrlhf.utils.config import hierarchize

    given = given_flags(parser)
    if not vars(parsed)["mlpo.pool"]:
        if stray := sorted(flag for flag in given if flag.startswith("mlpo.")):
            verb = "have" if len(stray) > 1 else "has"
            raise UserError(f"{', '.join(f'--{flag}' for flag in stray)} {verb} no effect without --mlpo.pool")
        return None
    settle(vars(parsed), given)
    args = hierarchize(parsed)
    args.given = given
    problems = list(conflicts(args))
    if len(problems) > 1:
        raise UserError(f"{len(problems)} mistakes: " + "; ".join(f"({i}) {p}" for i, p in enumerate(problems, 1)))
    if problems:
        raise UserError(problems[0])
    return args


def settle(args: dict, given: set[str]) -> None:
    """Fill in what MLPO has another default for than OpenRLHF. `args` are flat and changed in place."""
    if "data.prompt_dataset" not in given:
        args["data.prompt_dataset"] = args["mlpo.pool"]
    if "algo.advantage.estimator" not in given:
        args["algo.advantage.estimator"] = "dr_grpo"
    if args["mlpo.loss_norm"] != "constant" and "actor.loss_agg_mode" not in given:
        args["actor.loss_agg_mode"] = args["mlpo.loss_norm"]


def conflicts(args: SimpleNamespace) -> Iterator[str]:
    """Everything wrong with settled, nested arguments, one line each; no pool and no model is opened."""
    for ignored, why in IGNORED.items():
        for flag in sorted(args.given):
            if f"{flag}.".startswith(f"{ignored}."):
                yield f"--{flag} has no effect with --mlpo.pool: {why}; leave it out"
    yield from (message.format(**vars(args)) for wrong, message in CHECKS if wrong(args))
    yield from path_problems("--mlpo.pool", args.mlpo.pool)
    yield from path_problems("--eval.dataset", args.eval.dataset or "")
    yield from reward_problems(args.reward.remote_url or "")
    yield from _mixture_problems(args)
    try:
        load_template(args.mlpo.template)
    except UserError as error:
        yield f"--mlpo.template: {error}"


def samples_at_once(args: SimpleNamespace, questions: float = float("inf")) -> float:
    """Samples that one rollout batch holds at most: OpenRLHF updates on these, then throws them away."""
    generated = args.rollout.vllm_generate_batch_size or args.rollout.batch_size
    return min(args.rollout.batch_size, generated, questions) * args.rollout.n_samples_per_prompt


def _mixture_problems(args: SimpleNamespace) -> Iterator[str]:
    if args.data.prompt_probs is None:
        return
    text, pools = args.data.prompt_probs, args.mlpo.pool.count(",") + 1
    try:
        shares = [float(share) for share in text.split(",")]
    except ValueError:
        yield f"--data.prompt_probs {text}: not numbers divided by commas"
        return
    if len(shares) != pools:
        yield f"--data.prompt_probs {text}: {len(shares)} numbers for {pools} pools of --mlpo.pool; give one for each"
    elif not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-8:
        yield f"--data.prompt_probs {text}: must be above 0 and sum to 1"


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def given_flags(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> set[str]:
    """Names (without dashes) of the flags that stand on the command line, abbreviations resolved."""
    words = {word.split("=", 1)[0] for word in (sys.argv[1:] if argv is None else argv) if word.startswith("--")}
    options = {option: action.dest for action in parser._actions for option in action.option_strings}
    return {options[o] for w in words for o in options if o == w or (w not in options and o.startswith(w))}
