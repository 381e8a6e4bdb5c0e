"""Team files: which frozen agents answer, on which engine, with which settings.

defaults: {engine: vllm, sampling: {temperature: 1.0, max_tokens: 1024}}   # optional, for every agent
agents:
  - {name: qwen, model: Qwen/Qwen2.5-7B-Instruct}
  - name: llama
    model: meta-llama/Llama-3.1-8B-Instruct
    engine: openai
    engine_args: {base_url: "http://localhost:8000/v1"}
    sampling: {temperature: 0.7}
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openrlhf_mlpo.engines import ENGINES, Sampling
from openrlhf_mlpo.errors import UserError

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

    def identity(self) -> dict[str, Any]:
        """What decides this agent's answers, JSON-ready: stored with a pool and compared when it is resumed."""
        return {
            "name": self.name,
            "model": self.model,
            "files": model_state(self.model),
            "sampling": Sampling.from_dict(self.sampling).as_dict(),
            "engine_args": {k: v for k, v in self.engine_args.items() if k not in OPERATIONAL},
            "prompt": self.prompt,
            "system": self.system,
        }


def model_state(model: str) -> str:
    """A digest of names, sizes and times of a local model's files; "" for a name of the hub.

    A model that was trained anew into the same folder is another model: its answers must not be mixed with the old.
    """
    root = Path(model)
    if not root.is_dir():
        return ""
    kept = (".json", ".safetensors", ".bin", ".jinja", ".model", ".txt")
    stats = [(p.name, p.stat()) for p in sorted(root.iterdir()) if p.suffix in kept]
    state = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]


_TEXTS = ("name", "model", "engine", "prompt", "system")
_MAPS = ("sampling", "engine_args")


def load_team(path: str | Path) -> list[Agent]:
    """The agents of a YAML team file, in order. Raises UserError naming the file, the agent and the fix."""
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"team file {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"team file {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("agents"), list) or not content["agents"]:
        raise UserError(f"team file {path}: needs a list under `agents:`, each with a name and a model")
    if unknown := sorted(set(map(str, content)) - {"agents", "defaults"}):
        raise UserError(f"team file {path}: unknown key {unknown[0]!r}; the keys are agents and defaults")
    defaults = _checked(content.get("defaults") or {}, f"team file {path}, defaults")
    agents = []
    for number, entry in enumerate(content["agents"], 1):
        where = f"team file {path}, agent {number}"
        entry = _checked(entry, where)
        merged = {**defaults, **entry}
        for key in _MAPS:
            merged[key] = {**defaults.get(key, {}), **entry.get(key, {})}
        for key in ("name", "model"):
            if not merged.get(key):
                raise UserError(f"{where}: has no {key}")
        if merged.get("engine", "vllm") not in ENGINES:
            raise UserError(f"{where}: unknown engine {merged['engine']!r}; the engines are {', '.join(ENGINES)}")
        if secret := next((key for key in merged["engine_args"] if key in ("api_key", "token", "hf_token")), None):
            raise UserError(
                f"{where}: keys do not belong in a team file; remove {secret}, set an environment variable "
                "and name it in engine_args.api_key_env"
            )
        Sampling.from_dict(merged["sampling"], f"{where}: sampling")
        if any(agent.name == merged["name"] for agent in agents):
            raise UserError(f"{where}: the name {merged['name']!r} is taken; give each agent its own")
        agents.append(Agent(**merged))
    return agents


def _checked(entry: Any, where: str) -> dict:
    """A mapping with known keys and values of the right kind."""
    if not isinstance(entry, dict):
        raise UserError(f"{where}: must be a mapping with name and model, not {entry!r}")
    for key, value in entry.items():
        if key not in (*_TEXTS, *_MAPS):
            raise UserError(f"{where}: unknown key {key!r}; the keys are {', '.join((*_TEXTS, *_MAPS))}")
        if key in _MAPS and not (isinstance(value, dict) and all(isinstance(name, str) for name in value)):
            raise UserError(f"{where}: {key} must be a mapping of settings, not {value!r}")
        if key in _TEXTS and not isinstance(value, str):
            raise UserError(f"{where}: {key} must be a text, not {value!r}; put it in quotes")
    return dict(entry)
