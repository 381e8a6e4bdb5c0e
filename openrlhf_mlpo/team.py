"""Team files: which frozen agents answer, on which engine, with which settings.

defaults: {engine: vllm, sampling: {temperature: 1.0, max_tokens: 1024}}   # optional, for every agent
agents:
  - {name: qwen, model: Qwen/Qwen2.5-7B-Instruct}
  - name: llama
    model: meta-llama/Llama-3.1-8B-Instruct
    engine: openai
    engine_args: {base_url: "http://localhost:8000/v1"}
    sampling: {temperature: 0.7, top_p: null}   # null: not sent, for endpoints that refuse it
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openrlhf_mlpo.engines import ENGINES, Sampling, check_engine
from openrlhf_mlpo.engines.base import refuse_secrets
from openrlhf_mlpo.engines.python_function import source_digest
from openrlhf_mlpo.errors import UserError, errors_at
from openrlhf_mlpo.files import read_yaml

# Settings that say where and how fast an agent runs, not what it answers: they may change when a run is resumed.
OPERATIONAL = frozenset(
    "base_url api_key_env concurrency timeout max_retries actors batch_size gpus_per_actor cpus_per_actor threads "
    "tensor_parallel_size pipeline_parallel_size data_parallel_size gpu_memory_utilization max_num_seqs "
    "max_num_batched_tokens enable_prefix_caching enforce_eager disable_log_stats swap_space download_dir".split()
)


@dataclass(frozen=True)
class Agent:
    """One agent. `sampling` holds the file's settings (see `engines.Sampling`); `prompt` names a template
    ("" : the run's), `system` a system message ("" : none); `engine_args` go to the engine."""

    name: str
    model: str
    engine: str = "vllm"
    sampling: dict = field(default_factory=dict)
    engine_args: dict = field(default_factory=dict)
    prompt: str = ""
    system: str = ""

    @property
    def runs_vllm(self) -> bool:
        """Whether vLLM runs its model for us, in this process or in Ray actors."""
        return self.engine in ("vllm", "ray") and self.engine_args.get("engine", "vllm") == "vllm"

    def identity(self) -> dict[str, Any]:
        """What decides this agent's answers, JSON-ready: stored with a pool and compared when it is resumed."""
        settings = {name: value for name, value in self.engine_args.items() if name not in OPERATIONAL}
        return {
            "name": self.name,
            "model": self.model,
            "files": files_state(self, settings),
            "sampling": Sampling.from_dict(self.sampling).as_dict(),
            "engine_args": settings,
            "prompt": self.prompt,
            "system": self.system,
        }


def files_state(agent: Agent, settings: dict[str, Any]) -> str:
    """A digest of the local files that decide an agent's answers: of a model, named in `settings`, of a function."""
    if "callable" in (agent.engine, settings.get("engine")):
        return source_digest(agent.model)
    own = model_state(agent.model)
    others = [state for value in settings.values() if isinstance(value, str) and (state := model_state(value))]
    return digest(json.dumps([own, *others])) if others else own


def model_state(model: str) -> str:
    """A digest of names, sizes and times of a local model's files; "" for a name of the hub.

    A model that was trained again into the same folder is another model: its answers must not be mixed with the old.
    """
    root = Path(model).expanduser()
    try:
        paths = [root] if root.is_file() else sorted(root.iterdir())
    except (OSError, ValueError):  # not there, or no path at all
        return ""
    kept = (".json", ".safetensors", ".bin", ".jinja", ".model", ".txt")
    stats = [(path.name, path.stat()) for path in paths if path == root or path.suffix in kept]
    return digest(json.dumps([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]))


def digest(text: str) -> str:
    """16 hex digits of a text's hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_TEXTS = ("name", "model", "engine", "prompt", "system")
_MAPS = ("sampling", "engine_args")


def load_team(path: str | Path) -> list[Agent]:
    """The agents of a YAML team file, in order.

    All agents are checked, types, ranges, folders, files and API keys too, without starting or asking anything. Raises
    UserError naming the file and, for every agent with a mistake, the mistake and the fix.
    """
    where = f"team file {path}"
    content = read_yaml(Path(path), where)
    if not isinstance(content, dict) or not isinstance(content.get("agents"), list) or not content["agents"]:
        raise UserError(f"{where}: needs a list under `agents:`, each with a name and a model")
    refuse_secrets(content, where)  # first: no later error may show one
    if unknown := sorted(set(map(str, content)) - {"agents", "defaults"}):
        raise UserError(f"{where}: unknown key {unknown[0]!r}; the keys are agents and defaults")
    with errors_at(f"{where}, defaults: "):
        defaults = _checked(content.get("defaults") or {})
    agents: list[Agent] = []
    mistakes = []
    for number, entry in enumerate(content["agents"], 1):
        try:
            agent = _agent(entry, defaults)
            if any(agent.name == other.name for other in agents):
                raise UserError(f"the name {agent.name!r} is taken; give each agent its own")
            agents.append(agent)
        except UserError as error:
            mistakes.append(f"agent {number}: {error}")
    if mistakes:
        raise UserError(f"{where}, {'; '.join(mistakes)}")
    return agents


def _agent(entry: Any, defaults: dict) -> Agent:
    """One checked agent of the file."""
    entry = _checked(entry)
    merged: dict[str, Any] = {**defaults, **entry}
    for key in _MAPS:
        merged[key] = {**defaults.get(key, {}), **entry.get(key, {})}
    for key in ("name", "model"):
        if not merged.get(key):
            raise UserError(f"has no {key}")
    agent = Agent(**merged)
    Sampling.from_dict(agent.sampling)
    if agent.sampling.get("max_tokens", 0) is None:  # left out, as 0 is: others count with a number
        agent.sampling["max_tokens"] = 0
    check_engine(agent.model, agent.engine, agent.engine_args)
    return agent


def _checked(entry: Any) -> dict:
    """A mapping with known keys and values of the right kind."""
    if not isinstance(entry, dict):
        raise UserError(f"must be a mapping with name and model, not a {type(entry).__name__}")
    entry = {key: value for key, value in entry.items() if value is not None}
    for key, value in entry.items():
        if key not in (*_TEXTS, *_MAPS):
            raise UserError(f"unknown key {key!r}; the keys are {', '.join((*_TEXTS, *_MAPS))}")
        if key in _MAPS and not (isinstance(value, dict) and all(isinstance(name, str) for name in value)):
            raise UserError(f"{key} must be a mapping of settings, not a {type(value).__name__}")
        if key in _TEXTS and not isinstance(value, str):
            raise UserError(f"{key} must be a text, not {value!r}; put it in quotes")
    return entry


def split_engine(model: str) -> tuple[str, str]:
    """`openai:MODEL`, `ray:MODEL` and `callable:FILE.py:FUNCTION` name an engine; anything else is vLLM's."""
    engine, colon, rest = model.partition(":")
    return (engine, rest) if colon and engine in ENGINES else ("vllm", model)


def check_endpoint(agent: Agent, where: str) -> None:
    """Raise UserError unless it is known where a leader on the `openai` engine is served."""
    known = agent.engine_args.get("base_url") or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY")
    if agent.engine == "openai" and not (known or agent.engine_args.get("api_key_env")):
        raise UserError(
            f"{where}: where is it served? Give --engine_args "
            f'\'{agent.name}={{"base_url": "http://HOST:PORT/v1"}}\', or set OPENAI_API_KEY for OpenAI\'s own'
        )
