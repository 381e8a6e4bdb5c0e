"""What a command needs of a machine, read off its parsed arguments by one function per program.

Team files and templates that are there are read, so a mistake in them is found; a file that an earlier command of a
recipe writes need not be there.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openrlhf_mlpo.engines.base import json_object
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.draw import parse_team_size
from openrlhf_mlpo.preflight.memory import Training, shared_tokens
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.sft.phrases import load_phrases
from openrlhf_mlpo.team import Agent, load_team


@dataclass(frozen=True)
class EngineNeed:
    """vLLM engines: for whom, with which of `vllm.LLM`'s arguments, and the flag or file that gives them."""

    who: str
    model: str
    settings: dict[str, Any]
    flag: str
    length_flag: str = ""  # the one that gives the context length, where another does

    def __post_init__(self) -> None:
        for name in ("actors", "tensor_parallel_size"):
            if not isinstance(value := self.settings.get(name, 1), int) or value < 1:
                raise UserError(f"{self.flag}: {name} must be a whole number of at least 1, not {value!r}")

    @property
    def parallel(self) -> int:
        return self.settings.get("tensor_parallel_size", 1)

    @property
    def gpus(self) -> int:
        return self.settings.get("actors", 1) * self.parallel

    @property
    def length(self) -> int:
        """Tokens of its context; 0: the model's own."""
        length = self.settings.get("max_model_len")
        return length if isinstance(length, int) and length > 0 else 0


@dataclass(frozen=True)
class PromptNeed:
    """Leader prompts that have, beside an output of `new_tokens`, what `flag` leaves of `max_len`."""

    what: str
    flag: str
    max_len: int
    new_tokens: int
    pool: str = ""  # whose responses they hold; "": the team's
    team_size: int = 0  # responses in a prompt; 0: of the whole team
    last_output: int = 0  # tokens of the leader's last output in it


@dataclass
class Requirements:
    """What one command needs; nothing for a program of which nothing is known."""

    gpus: int = 0  # of a training, with its engines
    training: Training | None = None
    engines: list[EngineNeed] = field(default_factory=list)
    prompt: PromptNeed | None = None
    team: list[Agent] = field(default_factory=list)
    leader_tokens: int = 0  # of the output that agents see in rounds after the first; 0: no such rounds
    fills: str = ""  # pool that the team writes
    address: str = ""  # of the Ray cluster that the command is sent to
    on_cpu: bool = False


def of_sampling(args: Namespace) -> Requirements:
    """Requirements of `openrlhf_mlpo.cli.sample_team`."""
    team = read_team(args.team)
    for agent in team:
        load_template(agent.prompt or args.template)
    return Requirements(team=team, engines=engines_of(team, args.team), fills=args.out)


def of_sft_data(args: Namespace) -> Requirements:
    """Requirements of `openrlhf_mlpo.cli.build_sft`."""
    load_phrases(args.phrases)
    load_template(args.template)
    leader = EngineNeed("the leader", args.leader, args.engine_args, "--engine_args")
    prompt = PromptNeed("warm start", "--max_len", args.max_len, args.max_new_tokens, str(args.pool))
    team = read_team(args.team)  # revises for prompts of a later round
    engines = [leader] if args.engine in ("vllm", "ray") else []
    return Requirements(
        engines=engines + engines_of(team, args.team), prompt=prompt, team=team, leader_tokens=args.max_new_tokens
    )


def of_evaluation(args: Namespace, leaders: dict[str, str]) -> Requirements:
    """Requirements of `eval/evaluate.py`; `leaders` are models by name, `args.engine_args` theirs."""
    team, tokens = read_team(args.team or ""), args.max_new_tokens
    engines = []
    for name, model in leaders.items():
        if not model.startswith(("openai:", "callable:")):
            model = model.removeprefix("ray:").removeprefix("vllm:")
            engines.append(EngineNeed(f"leader {name}", model, args.engine_args[name], "--engine_args"))
    prompt = None
    if team and (lengths := [need.length for need in engines if need.length]):
        prompt = PromptNeed("evaluation", "max_model_len", min(lengths), tokens, last_output=tokens)
    return Requirements(0, None, engines + engines_of(team, args.team), prompt, team, leader_tokens=tokens)


def of_serving(args: Namespace) -> Requirements:
    """Requirements of `openrlhf_mlpo.cli.serve`."""
    args.engine_args = {"leader": json_object(args.engine_args, "--engine_args")}
    load_template(args.template)
    return of_evaluation(args, {"leader": args.leader})


def of_sft(args: Any, gpus: int) -> Requirements:
    """Requirements of `openrlhf.cli.train_sft` on so many GPUs."""
    check_batch(args, gpus)
    return Requirements(gpus, training_of(args, args.model, gpus, args.train.micro_batch_size * args.data.max_len))


def of_ppo(args: Any) -> Requirements:
    """Requirements of `openrlhf.cli.train_ppo_ray`."""
    vllm, trainers = args.vllm, args.actor.num_nodes * args.actor.num_gpus_per_node
    colocated = args.train.colocate_all and not args.train.async_enable
    reference = args.algo.kl.init_coef > 0
    apart = reference and not (args.train.colocate_all or args.train.colocate_actor_ref)
    gpus = trainers + (args.ref.num_nodes * args.ref.num_gpus_per_node if apart else 0)
    tokens = (args.train.micro_batch_size * args.data.max_len, args.rollout.micro_batch_size * args.data.max_len)
    if args.train.dynamic_batch_enable:
        tokens = (args.train.max_tokens_per_gpu, args.rollout.max_tokens_per_gpu)
    else:
        check_batch(args, trainers)
    share = vllm.gpu_memory_utilization if colocated and vllm.num_engines else 0.0
    more = {"reference": reference and not args.ref.offload, "vllm": share, "asleep": vllm.enable_sleep}
    training = training_of(args, args.actor, trainers, *tokens, **more)
    if not vllm.num_engines:
        return Requirements(gpus, training)
    settings = {
        "actors": vllm.num_engines,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "gpu_memory_utilization": vllm.gpu_memory_utilization,
        "max_model_len": args.data.max_len,
        "enable_sleep_mode": vllm.enable_sleep,
        "enable_prefix_caching": vllm.enable_prefix_caching,
    }
    rollouts = EngineNeed("the rollouts", training.model, settings, "--vllm.*", "--data.max_len")
    return Requirements(gpus + (0 if colocated else rollouts.gpus), training, [rollouts])


def of_mlpo(args: Any) -> Requirements:
    """Requirements of `openrlhf_mlpo.cli.train_mlpo_ray`."""
    needs, pool = of_ppo(args), (args.mlpo.pool or "").split(",")[0].strip()
    if not pool:
        return needs
    lengths = args.data.max_len, args.rollout.max_new_tokens
    if needs.training and args.mlpo.share_prompt != "off" and not args.train.dynamic_batch_enable:
        sizes = args.rollout.n_samples_per_prompt, *lengths
        tokens, logits = shared_tokens(args.train.micro_batch_size, *sizes)
        _, sampled = shared_tokens(args.rollout.micro_batch_size, *sizes)
        needs.training = replace(needs.training, train_tokens=tokens, logit_tokens=logits, rollout_tokens=sampled)
    if args.mlpo.team:  # revises while the leader trains
        needs.team, needs.leader_tokens = read_team(args.mlpo.team), args.rollout.max_new_tokens
        engines = engines_of(needs.team, args.mlpo.team)
        needs.engines += engines
        needs.gpus += sum(engine.gpus for engine in engines)
    size = parse_team_size(args.mlpo.team_size)[1]
    needs.prompt = PromptNeed("training", "--data.max_len", *lengths, pool, size, last_output=needs.leader_tokens)
    return needs


def training_of(args: Any, model: Any, gpus: int, train_tokens: int, rollout_tokens: int = 0, **more: Any) -> Training:
    """The training that OpenRLHF's flags ask for; `model` holds those of the trained model."""
    split = args.ds.ring_attn_size * args.ds.tensor_parallel_size
    return Training(
        model=model.model_name_or_path,
        gpus=gpus,
        zero_stage=args.ds.zero_stage,
        train_tokens=train_tokens // split,
        rollout_tokens=rollout_tokens // split,
        checkpointing=model.gradient_checkpointing_enable,
        adam_offload=args.ds.adam_offload,
        lora_rank=args.ds.lora.rank,
        max_len=args.data.max_len,
        output=args.ckpt.output_dir,
        checkpoints=args.ckpt.path,
        kept=args.ckpt.max_num if args.ckpt.save_steps > 0 else 0,
        **more,
    )


def check_batch(args: Any, gpus: int) -> None:
    """Raise UserError unless a batch is a whole number of micro batches on every GPU, as DeepSpeed asserts."""
    split = args.ds.ring_attn_size * args.ds.tensor_parallel_size  # GPUs that share a micro batch
    whole, micro = args.train.batch_size * split, args.train.micro_batch_size * gpus
    if whole < 1 or micro < 1 or whole % micro:
        shared = f" / {split} that share each" if split > 1 else ""
        raise UserError(
            f"--train.batch_size {args.train.batch_size} must be a multiple of --train.micro_batch_size "
            f"{args.train.micro_batch_size} x {gpus} training GPUs{shared}"
        )


def read_team(path: str) -> list[Agent]:
    """The agents of a team file; none when an earlier command is to write it."""
    return load_team(path) if path and Path(path).exists() else []


def engines_of(team: list[Agent], path: str) -> list[EngineNeed]:
    """The vLLM engines of a team."""
    return [
        EngineNeed(f"agent {a.name}", a.model, a.engine_args, f"team file {path}, agent {a.name}: engine_args")
        for a in team
        if a.runs_vllm
    ]
