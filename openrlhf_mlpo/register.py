"""The one file that knows where OpenRLHF 0.11.2 can be extended; `tests/test_register.py` checks every seam.

OpenRLHF has no plugin interface, but its entry point looks its classes up when it runs. Nothing installed is edited:
names in already imported modules are pointed at our subclasses, in the driver (`register`) and in the Ray actors that
build datasets, generators and losses (`use_team_data`, and the classes of `openrlhf_mlpo.trainer`).
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import itertools
import os
import sys
from collections.abc import Callable

from openrlhf_mlpo.checkpoints import check_checkpoint
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.train.sharing import settle_flags, settle_model

OPENRLHF_VERSION = "0.11.2"
TRAIN_MODULE = "openrlhf.cli.train_ppo_ray"
ESTIMATORS = ("dr_grpo", "group_norm", "rloo", "reinforce_baseline")
LOSS_NORMS = ("constant", "token-mean", "seq-mean-token-mean")

# Module and name of everything that is replaced or subclassed, for the seam tests and the documentation.
SEAMS = {
    ("openrlhf.trainer.ppo_trainer", "PPOTrainer"): "looked up by train() for synchronous runs",
    (
        "openrlhf.trainer.ppo_trainer",
        "PromptDataset",
    ): "built by prepare_datasets(), training set first, then evaluation",
    ("openrlhf.trainer.ppo_trainer", "SamplesGenerator"): "built by PPOTrainer.__init__",
    ("openrlhf.trainer.ppo_trainer_async", "PPOTrainerAsync"): "looked up by train() for asynchronous runs",
    ("openrlhf.trainer.ppo_trainer_async", "GenerateSamplesActor"): "built by PPOTrainerAsync.__init__",
    ("openrlhf.trainer.ppo_trainer_async", "TrainingActor"): "built by PPOTrainerAsync.__init__",
    ("openrlhf.trainer.ppo_trainer_async", "SamplesGenerator"): "built by GenerateSamplesActor.__init__",
    ("openrlhf.trainer.ray.ppo_actor", "PolicyModelActor"): "imported by train_ppo_ray when it is loaded",
    ("openrlhf.trainer.ray.ppo_actor", "ActorPPOTrainer"): "built by PolicyModelActor.init_model_from_pretrained",
    ("openrlhf.trainer.ray.ppo_actor", "Actor"): "built by PolicyModelActor.init_model_from_pretrained",
    ("openrlhf.trainer.ray.launcher", "ReferenceModelActor"): "imported by train_ppo_ray when it is loaded",
    ("openrlhf.trainer.ray.launcher", "Actor"): "built by ReferenceModelActor.init_model_from_pretrained",
    ("openrlhf.trainer.ppo_trainer", "RemoteExperienceMaker"): "built by BasePPOTrainer.__init__",
    ("openrlhf.trainer.ppo_trainer", "balance_experiences"): "called by BasePPOTrainer.train_step with dynamic batches",
    (
        "openrlhf.trainer.ppo_utils.replay_buffer",
        "NaiveReplayBuffer",
    ): "built by ActorPPOTrainer.__init__, replaced after it",
}


def check_version() -> None:
    """Raise UserError unless the OpenRLHF this release was written for is installed."""
    try:
        installed = importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"openrlhf is not installed; run: pip install openrlhf=={OPENRLHF_VERSION}") from None
    if installed != OPENRLHF_VERSION:
        raise UserError(
            f"openrlhf {installed} is installed, but this release extends {OPENRLHF_VERSION} only; run: "
            f"pip install openrlhf=={OPENRLHF_VERSION}"
        )


def plain_class(actor_class) -> type:
    """The ordinary class behind a Ray actor class, which alone can be subclassed."""
    return actor_class.__ray_metadata__.modified_class


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
        "--mlpo.loss_norm",
        choices=LOSS_NORMS,
        default="constant",
        help="what the summed token loss of an optimizer step is divided by: constant = samples x max_new_tokens "
        "(Dr. GRPO), or one of OpenRLHF's --actor.loss_agg_mode (default: constant)",
    )
    group.add_argument(
        "--mlpo.share_prompt",
        choices=("auto", "on", "off"),
        default="auto",
        help="compute a prompt once for all its samples in a micro batch, the same numbers for less time and memory: "
        "auto = where model and flags allow, on = or stop, off = once per sample as OpenRLHF does (default: auto)",
    )


def extend_parsers(extend: Callable[[argparse.ArgumentParser], None], check: Callable | None = None) -> None:
    """Let `extend(parser)` add to, and `check(nested_args)` refuse, what OpenRLHF's entry points parse.

    They build their parser inside `if __name__ == "__main__"` and pass the result to `hierarchize`, so the one place
    to reach it is `ArgumentParser.parse_args` itself; the replacement lasts for one call.
    """
    original = argparse.ArgumentParser.parse_args

    @functools.wraps(original)
    def parse_args(self, args=None, namespace=None):
        argparse.ArgumentParser.parse_args = original
        extend(self)
        parsed = original(self, args, namespace)
        if check is not None:
            check(self, parsed)
        return parsed

    argparse.ArgumentParser.parse_args = parse_args


def check_arguments(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """Settle and check what the flags say before anything starts; raises UserError. `parsed` is still flat."""
    args = vars(parsed)
    given = given_flags(parser)
    if not args["mlpo.pool"]:
        if stray := sorted(flag for flag in given if flag.startswith("mlpo.")):
            raise UserError(f"--{stray[0]} has no effect without --mlpo.pool")
        return
    if "data.prompt_dataset" in given:
        raise UserError("--data.prompt_dataset and --mlpo.pool exclude each other: the pool holds the questions")
    for flag in ("data.input_template", "data.apply_chat_template", "train.agent_func_path"):
        if flag in given:
            raise UserError(f"--{flag} has no effect with --mlpo.pool, which renders its prompts itself; leave it out")
    if not args["actor.model_name_or_path"]:
        raise UserError("--actor.model_name_or_path is missing: name the leader")
    if not args["reward.remote_url"]:
        raise UserError("--reward.remote_url is missing: name a reward file, such as reward_fns/auto_reward.py")
    for path in args["reward.remote_url"].split(","):
        if path.endswith(".py") and not os.path.isfile(path):
            raise UserError(f"--reward.remote_url {path}: no such file")
    if "algo.advantage.estimator" not in given:
        args["algo.advantage.estimator"] = "dr_grpo"
    if args["algo.advantage.estimator"] not in ESTIMATORS:
        raise UserError(
            f"--algo.advantage.estimator {args['algo.advantage.estimator']}: MLPO compares samples of one prompt and "
            f"has no value network; use one of {', '.join(ESTIMATORS)}"
        )
    if args["rollout.n_samples_per_prompt"] < 2:
        raise UserError("--rollout.n_samples_per_prompt must be at least 2: the baseline is the mean of a group")
    if not 0 <= args["mlpo.solo_fraction"] <= 1:
        raise UserError(f"--mlpo.solo_fraction must be between 0 and 1, not {args['mlpo.solo_fraction']}")
    if args["mlpo.team_size"] < 0:
        raise UserError(f"--mlpo.team_size must be 0 (whole team) or more, not {args['mlpo.team_size']}")
    if args["mlpo.drop_correct"] <= 0:
        raise UserError("--mlpo.drop_correct must be above 0: 0 would leave out every question")
    if args["mlpo.loss_norm"] != "constant":
        if "actor.loss_agg_mode" in given and args["actor.loss_agg_mode"] != args["mlpo.loss_norm"]:
            raise UserError("--actor.loss_agg_mode and --mlpo.loss_norm contradict each other; give one of them")
        args["actor.loss_agg_mode"] = args["mlpo.loss_norm"]
    elif "actor.loss_agg_mode" in given or args["actor.policy_loss_type"] == "gspo":
        other = "--actor.policy_loss_type gspo" if args["actor.policy_loss_type"] == "gspo" else "--actor.loss_agg_mode"
        raise UserError(f"{other} needs --mlpo.loss_norm seq-mean-token-mean or token-mean: its default is constant")
    if args["rollout.max_new_tokens"] is not None and args["rollout.max_new_tokens"] >= args["data.max_len"]:
        raise UserError(
            f"--rollout.max_new_tokens {args['rollout.max_new_tokens']} leaves no room for a prompt in --data.max_len "
            f"{args['data.max_len']}, which counts prompt and response together"
        )
    if args["rollout.max_new_tokens"] is None:
        raise UserError("--rollout.max_new_tokens is missing: it sets how much of --data.max_len a prompt may take")
    if args["ds.lora.rank"] and (args["ds.zero_stage"] > 2 or args["ds.tensor_parallel_size"] > 1):
        raise UserError(
            "--ds.lora.rank needs --ds.zero_stage 2 or less and no --ds.tensor_parallel_size: adapters are "
            "merged on each GPU before vLLM gets the weights"
        )
    if args["ds.load_in_4bit"]:
        raise UserError("--ds.load_in_4bit: vLLM cannot take 4-bit weights from training; leave it out")
    args["data.prompt_dataset"] = args["mlpo.pool"]
    settle_flags(args, given)
    _check_pools(parsed)
    if args["ckpt.load_enable"]:
        check_checkpoint(args["ckpt.path"])


def given_flags(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> set[str]:
    """Names (without dashes) of the flags that stand on the command line, abbreviations resolved."""
    words = {word.split("=", 1)[0] for word in (sys.argv[1:] if argv is None else argv) if word.startswith("--")}
    options = {option: action.dest for action in parser._actions for option in action.option_strings}
    return {options[o] for w in words for o in options if o == w or (w not in options and o.startswith(w))}


def _check_pools(parsed: argparse.Namespace) -> None:
    from openrlhf.utils.config import hierarchize
    from transformers import AutoConfig, AutoTokenizer

    from openrlhf_mlpo.dataset import check_dataset
    from openrlhf_mlpo.pool import open_pool

    args = hierarchize(parsed)
    model = args.actor.model_name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=True)
        settle_model(vars(parsed), AutoConfig.from_pretrained(model, trust_remote_code=True))
    except (OSError, ValueError) as error:
        raise UserError(f"--actor.model_name_or_path {model}: {str(error).splitlines()[0]}") from None
    for paths in (args.mlpo.pool, args.eval.dataset):
        for path in (paths or "").split(","):
            if path:
                check_dataset(open_pool(path.strip()), tokenizer, args, path.strip())


def register() -> None:
    """Point OpenRLHF's entry point at the MLPO classes, in the driver process."""
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import openrlhf.trainer.ray.launcher as launcher
    import openrlhf.trainer.ray.ppo_actor as ppo_actor
    import ray

    from openrlhf_mlpo import trainer

    ppo_trainer.PPOTrainer = ray.remote(trainer.MLPOTrainer)
    ppo_trainer_async.PPOTrainerAsync = ray.remote(trainer.MLPOTrainerAsync)
    ppo_actor.PolicyModelActor = ray.remote(num_gpus=1)(trainer.MLPOPolicyModelActor)
    launcher.ReferenceModelActor = ray.remote(num_gpus=1)(trainer.MLPOReferenceModelActor)
    # train_ppo_ray runs as __main__ and imported these names when it was loaded, before it parsed its flags.
    entry_point = sys.modules["__main__"]
    for module, name in ((ppo_actor, "PolicyModelActor"), (launcher, "ReferenceModelActor")):
        if hasattr(entry_point, name):
            setattr(entry_point, name, getattr(module, name))


def use_team_data(args) -> None:
    """Make OpenRLHF build team prompts and MLPO rollouts, in the Ray actor that is about to build its datasets."""
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import transformers

    from openrlhf_mlpo.dataset import TeamPromptDataset
    from openrlhf_mlpo.trainer import MLPOSamplesGenerator

    # OpenRLHF leaves this process unseeded; the order of prompts should follow --train.seed.
    transformers.set_seed(args.train.seed)
    built = itertools.count()  # prepare_datasets builds the training set first, then the evaluation set
    ppo_trainer.PromptDataset = lambda *a, **k: TeamPromptDataset(*a, **k, evaluation=next(built) > 0)
    ppo_trainer.SamplesGenerator = ppo_trainer_async.SamplesGenerator = MLPOSamplesGenerator
