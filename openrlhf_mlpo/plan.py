"""What stands between a recipe's commands and this machine: GPUs, memory, context, models, disk, Ray.

`Plan` is given the commands one by one as openrlhf_mlpo.cli.dry_run parsed them: a recipe needs no second description.
"""

from __future__ import annotations

import functools
import json
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openrlhf_mlpo import memory
from openrlhf_mlpo.memory import GIB

if TYPE_CHECKING:
    from openrlhf_mlpo.cli.dry_run import Checked
    from openrlhf_mlpo.team import Agent

# Tokens that a leader's prompt holds beside the responses: a long question, the template's texts, the chat frame.
QUESTION_TOKENS = 1024
OK, NOTE, WARNING, FATAL = "ok", "note", "warning", "FATAL"
find_model = functools.cache(memory.find_model)


@dataclass(frozen=True)
class Finding:
    """One thing found: how bad it is, what it is, and what to do about it ("" if nothing)."""

    level: str
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Machine:
    """The GPUs a plan may use: how many on each of how many nodes, and bytes of memory on each."""

    gpus: int
    memory: float
    nodes: int = 1


class Plan:
    """The commands of a recipe against a machine. `leader` and `team` stand in for models and a pool that are not there
    yet and that no command of the recipe makes."""

    def __init__(self, machine: Machine, leader: str = "", team: list[Agent] | None = None):
        self.machine, self.leader, self.team = machine, leader, team
        self.origin: dict[str, str] = {}  # folder that a command trains a model into -> the model it begins with
        self.teams: dict[str, list[Agent]] = {}  # pool -> the agents that are to fill it
        self.disk: dict[Path, float] = {}  # folder that exists -> bytes that the commands write there
        self.told: set[Finding] = set()

    def check(self, command: Checked) -> Iterator[Finding]:
        """Findings of one command that passed the dry run, without those that were there before."""
        for finding in self._check(command):
            if finding not in self.told:
                self.told.add(finding)
                yield finding

    def check_disk(self) -> Iterator[Finding]:
        """What all commands together write, per file system."""
        devices: dict[int, tuple[Path, float]] = {}
        for folder, size in self.disk.items():
            device = folder.stat().st_dev
            first, before = devices.get(device, (folder, 0))
            devices[device] = (first, before + size)
        for folder, size in devices.values():
            free = shutil.disk_usage(folder).free
            text = f"disk at {folder}: {free / GIB:.0f} GiB free, about {size / GIB:.0f} GiB to be written"
            fix = "free some, set OUT or HF_HOME to another disk, or lower --ckpt.max_num"
            yield Finding(OK, text) if size <= free else Finding(FATAL, text, fix)

    def _check(self, command: Checked) -> Iterator[Finding]:
        args = command.args
        if command.team and hasattr(args, "samples"):
            self.teams[args.out] = command.team
        if not command.on_cpu:
            if hasattr(args, "ds"):
                model = args.actor if hasattr(args, "rollout") else args.model
                yield from self._training(args, model.model_name_or_path, command.gpus)
            yield from self._agents(command.team, getattr(args, "max_new_tokens", 2048))
            if leaders := getattr(args, "leader", None):
                yield from self._leaders(args, [leaders] if isinstance(leaders, str) else leaders, command.team)
        if getattr(getattr(args, "mlpo", None), "pool", None):
            yield from self._pool(args)
        if command.address.startswith("http"):
            yield check_ray_jobs(command.address)

    def _model(self, name: str) -> tuple[str, memory.Model | None]:
        """The model that `name` is, or begins with, and what is known of it."""
        name = self.origin.get(name, name)
        found = find_model(name)
        if found is None and self.leader and _is_path(name):
            name, found = self.leader, find_model(self.leader)
        return name, found

    def _training(self, args, path: str, gpus: int) -> Iterator[Finding]:
        name, model = self._model(path)
        self.origin[args.ckpt.output_dir] = name
        yield from self._gpus(f"training {name}", gpus)
        if model is None:
            yield Finding(NOTE, f"{name}: not on this machine and not known, so its memory and context are not judged")
            return
        yield from self._context(name, model, args.data.max_len, "--data.max_len")
        rollouts = getattr(args, "rollout", None)  # none in SFT
        dynamic = rollouts and args.train.dynamic_batch_enable
        longest = args.train.max_tokens_per_gpu if dynamic else args.train.micro_batch_size * args.data.max_len
        sampled, logits = 0, None
        if rollouts:
            sampled = rollouts.max_tokens_per_gpu if dynamic else rollouts.micro_batch_size * args.data.max_len
            if not dynamic and getattr(getattr(args, "mlpo", None), "share_prompt", "off") != "off":
                sizes = rollouts.n_samples_per_prompt, args.data.max_len, rollouts.max_new_tokens
                longest, logits = memory.shared_tokens(args.train.micro_batch_size, *sizes)
                _, sampled = memory.shared_tokens(rollouts.micro_batch_size, *sizes)
        split = args.ds.ring_attn_size * args.ds.tensor_parallel_size
        trainers = args.actor.num_nodes * args.actor.num_gpus_per_node if rollouts else gpus
        parts = memory.training_memory(
            model,
            gpus=trainers,
            zero_stage=args.ds.zero_stage,
            train_tokens=longest // split,
            rollout_tokens=sampled // split,
            logit_tokens=logits,
            checkpointing=(args.actor if rollouts else args.model).gradient_checkpointing_enable,
            adam_offload=args.ds.adam_offload,
            reference=bool(rollouts) and args.algo.kl.init_coef > 0 and not args.ref.offload,
            lora_rank=args.ds.lora.rank,
        )
        if rollouts and args.vllm.num_engines:
            engine = args.vllm.gpu_memory_utilization * self.machine.memory
            if args.train.colocate_all and not args.train.async_enable:
                parts["vLLM"] = GIB if args.vllm.enable_sleep else engine  # asleep it keeps about 1 GiB
            parallel = args.vllm.tensor_parallel_size
            needed = memory.vllm_memory(model, max_len=args.data.max_len, tensor_parallel=parallel)
            fix = "raise --vllm.gpu_memory_utilization or --vllm.tensor_parallel_size"
            yield self._memory(f"a vLLM engine for rollouts of {name}", needed, engine, fix)
        fix = "use more GPUs, --ds.zero_stage 3, a smaller micro batch or --data.max_len, or --ds.adam_offload"
        yield self._memory(f"training {name} on {trainers} GPUs", parts, self.machine.memory, fix)
        if args.ckpt.save_steps > 0:
            self._writes(args.ckpt.path, args.ckpt.max_num * 14 * model.parameters)
        self._writes(args.ckpt.output_dir, 2 * model.parameters)

    def _agents(self, team: list[Agent], leader_tokens: int) -> Iterator[Finding]:
        """A team's engines, one after the other, and whether an agent's prompt fits in rounds after the first."""
        for agent in team:
            if agent.engine not in ("vllm", "ray"):
                continue
            yield from self._engine(f"agent {agent.name}", agent.model, agent.engine_args)
            own, (_, model) = agent.sampling.get("max_tokens", 1024), self._model(agent.model)
            context = agent.engine_args.get("max_model_len") or (model.context if model else 0)
            needed = QUESTION_TOKENS + 2 * own + leader_tokens
            if 0 < context < needed:
                yield Finding(
                    WARNING,
                    f"agent {agent.name}: a later round takes {needed} tokens (question {QUESTION_TOKENS}, its last "
                    f"response {own}, the leader's output {leader_tokens}, a new one {own}), its context is {context}",
                    "lower the agent's max_tokens in the team file, or the leader's --max_new_tokens",
                )

    def _leaders(self, args, leaders: list[str], team: list[Agent]) -> Iterator[Finding]:
        """The leaders of an evaluation, or the one of the warm-start data."""
        settings = json.loads(args.engine_args) if isinstance(args.engine_args, str) else args.engine_args
        for text in leaders:
            model = text.partition("=")[2] or text
            if not model.startswith(("openai:", "callable:")):
                yield from self._engine("the leader", model.removeprefix("ray:").removeprefix("vllm:"), settings)
        if team and (room := settings.get("max_model_len")):
            longest = max(agent.sampling.get("max_tokens", args.max_new_tokens) for agent in team)
            needed = QUESTION_TOKENS + len(team) * longest + 2 * args.max_new_tokens
            text = f"evaluation: question, {len(team)} responses, last output and answer take {needed} of {room} tokens"
            fix = f"max_model_len {needed} in --engine_args; else long responses lose their beginning"
            yield Finding(OK, text) if needed <= room else Finding(WARNING, text, fix)

    def _engine(self, who: str, path: str, settings: dict) -> Iterator[Finding]:
        """An engine of team file or evaluation: its GPUs, memory and context, and whether its model is here."""
        parallel = settings.get("tensor_parallel_size", 1)
        yield from self._gpus(who, settings.get("actors", 1) * parallel)
        name, model = self._model(path)
        if model:
            length = settings.get("max_model_len") or model.context
            yield from self._context(name, model, length, f"{who}: max_model_len")
            parts = memory.vllm_memory(model, max_len=length, tensor_parallel=parallel)
            share = settings.get("gpu_memory_utilization", 0.9) * self.machine.memory
            yield self._memory(f"an engine for {who}", parts, share, "raise tensor_parallel_size in its engine_args")
        if not _is_path(name) and not _in_hub_cache(name):
            size = f"{2 * model.parameters / GIB:.0f} GiB" if model else "of unknown size"
            gated = "; accept its licence on its hub page first" if name.startswith(("meta-llama/", "google/")) else ""
            finding = Finding(NOTE, f"{name} ({size}) is not in the hub cache yet", f"hf download {name}{gated}")
            if model and finding not in self.told:
                self._writes(_hub_cache(), 2 * model.parameters)
            yield finding

    def _pool(self, args) -> Iterator[Finding]:
        """Whether a leader's prompt holds K responses: of the pool if it is there, else as long as agents may write."""
        path = args.mlpo.pool.split(",")[0].strip()
        if Path(path).is_dir():
            from openrlhf_mlpo.pool import open_pool

            pool = open_pool(path)
            responses = [r for row in pool.select(range(min(len(pool), 500))) for r in row["responses"]]
            agents = len({response["agent"] for response in responses})
            longest = max((response["completion_tokens"] for response in responses), default=0)
        elif team := self.teams.get(path, self.team):
            agents = len(team)
            longest = max(agent.sampling.get("max_tokens", 1024) for agent in team)
        else:
            yield Finding(NOTE, f"{path}: no such pool yet, so it is not known whether its responses fit a prompt")
            return
        k, room = args.mlpo.team_size or agents, args.data.max_len - args.rollout.max_new_tokens
        needed = QUESTION_TOKENS + k * longest
        text = f"training: question and {k} responses of up to {longest} tokens take {needed} of a prompt's {room}"
        fix = f"--data.max_len {needed + args.rollout.max_new_tokens}; else long responses lose their beginning"
        if needed <= room:
            yield Finding(OK, text)
        else:  # a prompt that cannot even hold the ends of the responses stops the run
            yield Finding(WARNING if QUESTION_TOKENS + 16 * k <= room else FATAL, text, fix)

    def _gpus(self, who: str, needed: int) -> Iterator[Finding]:
        there = self.machine.gpus * self.machine.nodes
        if needed > there:
            nodes = f" on {self.machine.nodes} nodes" if self.machine.nodes > 1 else ""
            fix = "lower GPUS (recipes), `actors` (team file) or the GPU flags to what is there"
            yield Finding(FATAL, f"{who}: needs {needed} GPUs, there are {there}{nodes}", fix)

    def _context(self, name: str, model: memory.Model, length: int, flag: str) -> Iterator[Finding]:
        if 0 < model.context < length:
            text = f"{flag} is {length}, but {name} has a context of {model.context}"
            yield Finding(FATAL, text, f"lower it to {model.context}")

    def _memory(self, what: str, parts: dict[str, float], limit: float, fix: str) -> Finding:
        total = sum(parts.values())
        shown = ", ".join(f"{name} {size / GIB:.0f}" for name, size in parts.items() if size >= GIB / 2)
        text = f"{what}: about {total / GIB:.0f} of {limit / GIB:.0f} GiB a GPU ({shown})"
        if total > limit:
            return Finding(FATAL, text, fix)
        return Finding(WARNING, f"{text}: tight", fix) if total > 0.9 * limit else Finding(OK, text)

    def _writes(self, path: str | Path, size: float) -> None:
        folder = Path(path).absolute()
        while not folder.exists():
            folder = folder.parent
        self.disk[folder] = self.disk.get(folder, 0) + size


def check_ray_jobs(address: str) -> Finding:
    """Whether a Ray cluster takes jobs at `address`."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=3):
            return Finding(OK, f"Ray takes jobs at {address}")
    except (OSError, ValueError):
        return Finding(FATAL, f"no Ray cluster takes jobs at {address}", "ray start --head, or RAY_JOBS=its address")


def _is_path(name: str) -> bool:
    return Path(name).is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return HF_HUB_CACHE


def _in_hub_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)
