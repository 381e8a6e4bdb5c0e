"""What must not be in a training command, as a table: one row per way to get it wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

from openrlhf_mlpo.cpu import use_cpu
from openrlhf_mlpo.engines.base import json_object
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.draw import parse_team_size
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.team import load_team
from openrlhf_mlpo.train.paths import path_problems, reward_problems

ESTIMATORS = ("dr_grpo", "group_norm", "rloo", "reinforce_baseline")
CARRY = ("balanced", "wrong", "sampled")
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
    (
        lambda a: _raises(parse_team_size, a.mlpo.team_size),
        "--mlpo.team_size {mlpo.team_size}: write K or LOW-HIGH, such as 3 or 1-5; 0 is the whole team",
    ),
    (lambda a: a.mlpo.rounds < 1, "--mlpo.rounds must be at least 1, not {mlpo.rounds}"),
    (
        lambda a: a.mlpo.rounds > 1 and not a.mlpo.team,
        "--mlpo.rounds {mlpo.rounds} needs --mlpo.team TEAM.yaml: the agents revise while the leader trains",
    ),
    (
        lambda a: a.mlpo.rounds < 2 and {"mlpo.team", "mlpo.later_share", "mlpo.carry", "mlpo.team_failures"} & a.given,
        "--mlpo.team, --mlpo.later_share, --mlpo.carry and --mlpo.team_failures have no effect without --mlpo.rounds 2 "
        "or more; leave them out",
    ),
    (
        lambda a: a.mlpo.rounds > (a.rollout.vllm_generate_batch_size or a.rollout.batch_size),
        "--mlpo.rounds {mlpo.rounds} needs a group of each round in a batch; raise --rollout.batch_size",
    ),
    (
        lambda a: a.mlpo.rounds > 1 and a.train.partial_rollout_enable,
        "--train.partial_rollout_enable cannot work with --mlpo.rounds: a group must be whole before one of its "
        "outputs is carried; leave it out",
    ),
    (
        lambda a: a.mlpo.rounds > 1 and a.mlpo.solo_fraction >= 1,
        "--mlpo.solo_fraction {mlpo.solo_fraction} leaves no prompt with a team, and later rounds follow from those",
    ),
    (lambda a: not 0 < a.mlpo.later_share < 1, "--mlpo.later_share must be between 0 and 1, not {mlpo.later_share}"),
    (
        lambda a: not 0 <= a.mlpo.team_failures <= 1,
        "--mlpo.team_failures must be between 0 and 1, not {mlpo.team_failures}",
    ),
    (lambda a: a.mlpo.log_samples < 0, "--mlpo.log_samples must be 0 or more, not {mlpo.log_samples}"),
    (lambda a: not a.mlpo.drop_correct > 0, "--mlpo.drop_correct must be above 0: 0 would leave out every question"),
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
    yield from _team_problems(args)
    yield from _refusal("", json_object, args.mlpo.chat_template_kwargs, "--mlpo.chat_template_kwargs")
    yield from _refusal("--mlpo.template: ", load_template, args.mlpo.template)


def _refusal(place: str, read: Callable[..., object], *args: str) -> Iterator[str]:
    try:
        read(*args)
    except UserError as error:
        yield f"{place}{error}"


def _team_problems(args: SimpleNamespace) -> Iterator[str]:
    if args.mlpo.rounds < 2 or not args.mlpo.team or not Path(args.mlpo.team).exists():
        return  # an earlier command may write the file; `inputs` asks for it before a run starts
    try:
        agents = load_team(args.mlpo.team)
    except UserError as error:
        yield f"--mlpo.team: {error}"
        return
    inside = [agent.name for agent in agents if agent.engine == "vllm"]
    if inside and not use_cpu():
        yield (
            f"--mlpo.team {args.mlpo.team}: agent {inside[0]} would share the trainer's GPU (engine: vllm); serve it "
            "and use engine: openai, or use engine: ray with GPUs of its own"
        )


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


def _raises(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return True
    return False
