"""The `--mlpo.*` flags, and what is checked of a training command before anything starts.

Defaults are settled first; then `checks.CHECKS` is a table of what must not be, and all conflicts come in one message.
"""

from __future__ import annotations

import argparse
import sys
from types import SimpleNamespace

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.train import seams
from openrlhf_mlpo.train.checks import CARRY, LOSS_NORMS, conflicts
from openrlhf_mlpo.train.sharing import settle_flags


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
        "--data.prompt_probs says. Without it this is stock train_ppo_ray. --eval.dataset then takes pools alone",
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
        "--mlpo.team_size",
        default="0",
        metavar="K|LOW-HIGH",
        help="responses per draw, of agents chosen at random; a range draws a number for each prompt, more than "
        "there are agents takes several responses of one (default: 0, one of each agent)",
    )
    group.add_argument(
        "--mlpo.balance_draws",
        action="store_true",
        help="choose among several draws of a question so that few and many right responses are as likely",
    )
    group.add_argument(
        "--mlpo.rounds",
        type=int,
        default=1,
        help="rounds T in training: above 1 the team of --mlpo.team revises and the leader answers again, in groups "
        "of their own (default: 1)",
    )
    group.add_argument(
        "--mlpo.team", default=None, metavar="TEAM.yaml", help="the team that revises, with --mlpo.rounds above 1"
    )
    group.add_argument(
        "--mlpo.later_share",
        type=float,
        default=0.5,
        help="share of a batch's groups that belong to rounds after the first, in equal parts (default: 0.5)",
    )
    group.add_argument(
        "--mlpo.carry",
        choices=CARRY,
        default="balanced",
        help="which output of a group is carried into the next round where it has right and wrong ones: either with "
        "equal chance, a wrong one, or as sampled (default: balanced)",
    )
    group.add_argument(
        "--mlpo.team_failures",
        type=float,
        default=0.1,
        help="stop when more than this share of a batch's revisions failed; up to it they are counted and shown as "
        "'(no answer)' (default: 0.1)",
    )
    group.add_argument(
        "--mlpo.solo_fraction",
        type=float,
        default=0.0,
        help="share of round 0's prompts that are without a team, 0 to 1; later rounds have none, so that with more "
        "rounds the same share of all outputs takes a higher one (default: 0)",
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
        "--mlpo.share_prompt",
        choices=("auto", "on", "off"),
        default="auto",
        help="compute a prompt once for all its samples in a micro batch, the same numbers for less time and memory: "
        "auto = where model and flags allow, on = or stop, off = once per sample as OpenRLHF does (default: auto)",
    )
    group.add_argument(
        "--mlpo.log_samples",
        type=int,
        default=4,
        metavar="N",
        help="keep so many whole groups of each step as transcripts in _samples beside the checkpoints, for "
        "openrlhf_mlpo.cli.samples; 0 = none (default: 4)",
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
        if "mlpo.pool" in given:  # such as a shell variable that is not set
            raise UserError("--mlpo.pool is empty: name a pool, or leave the flag out to run OpenRLHF as it is")
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
    settle_flags(vars(parsed), given)
    args.mlpo.share_prompt = vars(parsed)["mlpo.share_prompt"]
    return args


def settle(args: dict, given: set[str]) -> None:
    """Fill in what MLPO has another default for than OpenRLHF. `args` are flat and changed in place."""
    args["data.prompt_dataset"] = args["mlpo.pool"]  # if given it is refused
    if "algo.advantage.estimator" not in given:
        args["algo.advantage.estimator"] = "dr_grpo"
    if args["mlpo.loss_norm"] != "constant" and "actor.loss_agg_mode" not in given:
        args["actor.loss_agg_mode"] = args["mlpo.loss_norm"]


def given_flags(parser: argparse.ArgumentParser) -> set[str]:
    """Names (without dashes) of the flags that stand on the command line, abbreviations resolved."""
    words = {word.split("=", 1)[0] for word in sys.argv[1:] if word.startswith("--")}
    options = {option: action.dest for action in parser._actions for option in action.option_strings}
    return {options[o] for w in words for o in options if o == w or (w not in options and o.startswith(w))}
