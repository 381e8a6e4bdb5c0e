"""A recipe's commands against a machine: number and memory of GPUs, context, prompts, models, disk, Ray."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.preflight import machine as here
from openrlhf_mlpo.preflight import memory
from openrlhf_mlpo.preflight.commands import check_command
from openrlhf_mlpo.preflight.machine import FATAL, NOTE, OK, WARNING, Finding, Machine
from openrlhf_mlpo.preflight.memory import GIB
from openrlhf_mlpo.preflight.requirements import EngineNeed, PromptNeed, Requirements
from openrlhf_mlpo.team import Agent

# Tokens that a leader's prompt holds beside the responses: a long question, the template's texts, the chat frame.
QUESTION_TOKENS = 1024
find_model = functools.cache(memory.find_model)


class Plan:
    """The commands of a recipe against a machine.

    `leader` and `team` stand in for models and a pool that are not there yet and that no command of the recipe makes.
    """

    def __init__(self, machine: Machine, leader: str = "", team: list[Agent] | None = None):
        self.machine, self.leader, self.team = machine, leader, team
        self.origin: dict[str, str] = {}  # folder that a command trains a model into -> the model it begins with
        self.teams: dict[str, list[Agent]] = {}  # pool -> the agents that are to fill it
        self.disk: dict[Path, float] = defaultdict(float)  # folder -> bytes that the commands write there
        self.downloads: set[str] = set()  # models that are not here yet

    def check_commands(self, lines: Sequence[str], on_cpu: bool = False) -> Iterator[Finding]:
        """Findings of commands in their order, each once, and of the disk they fill together."""
        seen: set[Finding] = set()
        for line in lines:
            try:
                findings = list(self.check(check_command(line, on_cpu)))
            except UserError as error:
                findings = [Finding(FATAL, str(error), "see --help of the recipe and of the program")]
            yield from (finding for finding in dict.fromkeys(findings) if finding not in seen)
            seen.update(findings)
        yield from here.check_disk(self.disk)

    def check(self, needs: Requirements) -> Iterator[Finding]:
        """Findings of one command."""
        if needs.fills:
            self.teams[needs.fills] = needs.team
        if not needs.on_cpu:
            if needs.training:
                yield from self._training(needs.training, needs.gpus)
            for engine in needs.engines:
                yield from self._engine(engine)
            if needs.leader_tokens:
                yield from self._later_rounds(needs)
        if needs.prompt:
            yield self._prompt(needs.prompt, needs.team)
        if needs.address.startswith("http"):
            yield here.check_ray(needs.address)

    def _training(self, need: memory.Training, gpus: int) -> Iterator[Finding]:
        name, model = self._model(need.model)
        self.origin[need.output] = name
        yield from self._gpus(f"training {name}", gpus)
        if model is None:
            yield Finding(NOTE, f"{name}: not on this machine and not known, so its memory and context are not judged")
            return
        yield from self._context(name, model, need.max_len, "--data.max_len")
        parts = memory.training_memory(model, need)
        if need.vllm:  # asleep an engine keeps about 1 GiB
            parts["vLLM"] = GIB if need.asleep else need.vllm * self.machine.memory
        fix = "use more GPUs, --ds.zero_stage 3, a smaller micro batch or --data.max_len, or --ds.adam_offload"
        yield self._memory(f"training {name} on {need.gpus} GPUs", parts, self.machine.memory, fix)
        self.disk[Path(need.checkpoints).absolute()] += need.kept * 14 * model.parameters
        self.disk[Path(need.output).absolute()] += 2 * model.parameters

    def _engine(self, need: EngineNeed) -> Iterator[Finding]:
        """GPUs, memory and context of engines, and whether their model is here."""
        yield from self._gpus(need.who, need.gpus)
        name, model = self._model(need.model)
        if model:
            length = need.length or model.context
            yield from self._context(name, model, length, need.length_flag or f"{need.who}: max_model_len")
            parts = memory.vllm_memory(model, max_len=length, tensor_parallel=need.parallel)
            share = need.settings.get("gpu_memory_utilization", 0.9) * self.machine.memory
            fix = "raise gpu_memory_utilization or tensor_parallel_size of its engine"
            yield self._memory(f"an engine for {need.who}", parts, share, fix)
        if not is_path(name) and not here.in_hub_cache(name):
            size = f"{2 * model.parameters / GIB:.0f} GiB" if model else "of unknown size"
            gated = "; accept its licence on its hub page first" if name.startswith(("meta-llama/", "google/")) else ""
            yield Finding(NOTE, f"{name} ({size}) is not in the hub cache yet", f"hf download {name}{gated}")
            if model and name not in self.downloads:
                self.downloads.add(name)
                self.disk[Path(HF_HUB_CACHE)] += 2 * model.parameters

    def _later_rounds(self, needs: Requirements) -> Iterator[Finding]:
        """Whether an agent's prompt, with its own last response and the leader's output, fits its context."""
        for agent in needs.team:
            own, (_, model) = agent.sampling.get("max_tokens", 1024), self._model(agent.model)
            context = agent.engine_args.get("max_model_len") or (model.context if model else 0)
            needed = QUESTION_TOKENS + 2 * own + needs.leader_tokens
            if agent.runs_vllm and 0 < context < needed:
                text = f"agent {agent.name}: a later round takes {needed} tokens (question {QUESTION_TOKENS}, its last "
                text += f"response {own}, the leader's output {needs.leader_tokens}, a new one {own}), "
                fix = "lower the agent's max_tokens in the team file, or the leader's --max_new_tokens"
                yield Finding(WARNING, f"{text}its context is {context}", fix)

    def _prompt(self, need: PromptNeed, team: list[Agent]) -> Finding:
        """Whether a leader's prompt holds K responses: of the pool if it is there, else as long as agents may write."""
        team = self.teams.get(need.pool, self.team or []) if need.pool else team
        agents, longest = len(team), max((agent.sampling.get("max_tokens", 1024) for agent in team), default=0)
        if need.pool and Path(need.pool).is_dir():
            from openrlhf_mlpo.pool.format import open_pool

            pool = open_pool(need.pool)
            responses = [r for row in pool.select(range(min(len(pool), 500))) for r in row["responses"]]
            agents = len({response["agent"] for response in responses})
            longest = max((response["completion_tokens"] for response in responses), default=0)
        elif not team:
            text = f"{need.pool}: no such pool yet, so it is not known whether its responses fit a prompt"
            return Finding(NOTE, text)
        k, room = need.team_size or agents, need.max_len - need.new_tokens
        needed = QUESTION_TOKENS + k * longest + need.last_output
        last = f", last output of {need.last_output}" if need.last_output else ""
        text = (
            f"{need.what}: question, {k} responses of up to {longest} tokens{last} take {needed} of a prompt's {room}"
        )
        if needed <= room:
            return Finding(OK, text)
        fix = f"{need.flag} {needed + need.new_tokens}; else long responses lose their beginning"
        # A prompt that cannot even hold the ends of the responses stops the run.
        return Finding(WARNING if QUESTION_TOKENS + 16 * k <= room else FATAL, text, fix)

    def _model(self, name: str) -> tuple[str, memory.Model | None]:
        """The model that `name` is, or begins with, and what is known of it."""
        name = self.origin.get(name, name)
        if find_model(name) is None and self.leader and is_path(name):
            name = self.leader
        return name, find_model(name)

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


def is_path(name: str) -> bool:
    """Whether a model's name is a folder's, and not one of the hub."""
    return Path(name).is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1
