"""Check the commands of a recipe, every flag and combination, without a GPU, a download or anything being started.

    bash recipes/train_mlpo.sh --dry-run                       # what the recipes use this for
    python3 -m openrlhf_mlpo.cli.dry_run -- python3 -m openrlhf_mlpo.cli.train_mlpo_ray --mlpo.pool pool …
    bash recipes/quickstart_cpu.sh --dry-run | OPENRLHF_MLPO_CPU=1 python3 -m openrlhf_mlpo.cli.dry_run

Takes one command, or a command per line on standard input, and prints each. A command is run as it stands, in this
process, up to the point where it would open data or start Ray: its own parser and checks judge it, then OpenRLHF's
checks in `train()`, DeepSpeed's of the batch sizes, and vLLM's of its engine arguments. `ray` and `deepspeed` are asked
about the flags in front. A mistake is one line, `error: RECIPE: …`, and exit status 2.

Files that an earlier command would write, such as a pool, are not needed; whether prompts fit is for
openrlhf_mlpo.cli.doctor. Commands are judged as on a GPU, or with OPENRLHF_MLPO_CPU=1 as for the CPU runtime.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import io
import json
import os
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from openrlhf_mlpo import cpu, register
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.team import Agent

# Programs that have more checks behind their parser, and stop at one of the places in `_stops`. Any other program is
# stopped as soon as its parser is done: nothing is known of what it does next.
CHECKS_MORE = ("train_ppo_ray", "train_sft", "train_mlpo_ray", "run_openrlhf", "sample_team", "build_sft", "evaluate")
# Arguments of our own Ray and vLLM engines, which vLLM does not know (openrlhf_mlpo/engines).
OWN_ENGINE_ARGS = ("actors", "batch_size", "gpus_per_actor", "cpus_per_actor", "engine", "chat_template_kwargs")


class Enough(BaseException):
    """Ends a program that has nothing more to be checked. No `except Exception` may stop it."""


@dataclass
class Checked:
    """A command that passed: its program, what was parsed (nested for OpenRLHF's), its team, GPUs and actor classes."""

    words: list[str]
    program: str = ""
    args: Any = None
    team: list[Agent] = field(default_factory=list)
    gpus: int = 0
    address: str = ""
    on_cpu: bool = False
    actors: list[type] = field(default_factory=list)


def check_command(line: str, on_cpu: bool = False) -> Checked:
    """Check a command as a shell would read it, for a GPU or for the CPU runtime. Raises UserError."""
    words = shlex.split(line)
    found = Checked(words[:], on_cpu=on_cpu)
    while words:
        name = Path(words[0]).name
        if re.match(r"[A-Za-z_]\w*=", words[0]):  # VARIABLE=value in front of a command
            words.pop(0)
        elif name == "srun" and "ray" in words:
            words = words[words.index("ray") :]
        elif name == "ray":
            words = _check_ray(words[1:], found)
        elif name == "deepspeed":
            words = ["python3", *_check_deepspeed(words[1:], found)]
        elif re.match(r"python[\d.]*$", name):
            _check_python(words[1:], found)
            break
        elif name == "bash" and len(words) > 1:
            if not Path(words[1]).is_file():
                raise UserError(f"bash {words[1]}: no such file")
            break
        else:
            raise UserError(f"{words[0]}: not a command that can be checked (python3, ray, deepspeed, srun, bash)")
    return found


def _check_ray(words: list[str], found: Checked) -> list[str]:
    """Have Ray's command line judge its flags; returns the command that a job runs, if it is one."""
    import click
    from ray.scripts.scripts import cli as command

    path = ["ray"]
    try:
        while isinstance(command, click.Group):
            if not words or words[0] not in command.commands:
                raise UserError(f"{' '.join(path)}: no command {words[0] if words else ''!r}")
            path.append(words[0])
            command, words = command.commands[words[0]], words[1:]
        params = command.make_context(path[-1], list(words)).params
        if params.get("runtime_env_json"):
            json.loads(params["runtime_env_json"])
    except click.ClickException as error:
        raise UserError(f"{' '.join(path)}: {error.format_message()}") from None
    except ValueError as error:
        raise UserError(f"{' '.join(path)}: --runtime-env-json is not JSON: {error}") from None
    found.address = params.get("address") or ""
    return list(params.get("entrypoint", ()))


def _check_deepspeed(words: list[str], found: Checked) -> list[str]:
    from deepspeed.launcher.runner import parse_args

    with _quiet() as printed:
        try:
            args = parse_args(words)
        except SystemExit:
            raise UserError(f"deepspeed: {_last_error(printed)}") from None
    found.gpus = max(args.num_gpus, 1) * max(args.num_nodes, 1)
    return [*(["-m"] if args.module else []), args.user_script, *args.user_args]


def _check_python(words: list[str], found: Checked) -> None:
    if words[:1] == ["-m"] and len(words) > 1:
        found.program, argv = words[1], words[2:]
        try:
            known = importlib.util.find_spec(found.program)
        except ModuleNotFoundError:
            known = None
        if known is None:
            raise UserError(f"python3 -m {found.program}: no such module")
    elif words and not words[0].startswith("-"):
        found.program, argv = words[0], words[1:]
        if not Path(found.program).is_file():
            raise UserError(f"python3 {found.program}: no such file")
    else:
        raise UserError(f"python3 {' '.join(words[:2])}: only modules (-m) and scripts can be checked")
    name = Path(found.program).stem if found.program.endswith(".py") else found.program.rpartition(".")[2]
    try:
        _run(found, words[:1] == ["-m"], argv, name in CHECKS_MORE)
        for text in filter(None, [getattr(found.args, "engine_args", None)]):
            check_engine_args(json.loads(text) if isinstance(text, str) else text, "--engine_args")
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _run(found: Checked, is_module: bool, argv: list[str], checks_more: bool) -> None:
    """Run a program until `Enough`, with everything in place that stops it."""
    if importlib.util.find_spec("flash_attn") is None:
        cpu.activate()  # OpenRLHF does not even import without it
    folder = [] if is_module else [str(Path(found.program).parent)]  # as `python3 SCRIPT` does
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {cpu.ENV_SWITCH: str(int(found.on_cpu))}))
        stack.enter_context(mock.patch.object(sys, "argv", [found.program, *argv]))
        stack.enter_context(mock.patch.object(sys, "path", [*folder, *sys.path]))
        printed = stack.enter_context(_quiet())
        for patch in _stops(found, checks_more, "train" in found.program or "run_openrlhf" in found.program):
            stack.enter_context(patch)
        try:
            if is_module:
                sys.modules.pop(found.program, None)
                runpy.run_module(found.program, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(found.program, run_name="__main__")
        except Enough:
            return
        except SystemExit as end:
            if end.code not in (None, 0):
                raise UserError(_last_error(printed)) from None
        except (AssertionError, AttributeError, ImportError, TypeError, ValueError) as error:
            raise UserError(_one_line(error)) from error


def _stops(found: Checked, checks_more: bool, openrlhf: bool) -> Iterator[Any]:
    """The patches under which a program does no more than judge its command line."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse(self, args=None, namespace=None):
        found.args = parse_args(self, args, namespace)
        if not checks_more:
            raise Enough
        return found.args

    yield mock.patch.object(argparse.ArgumentParser, "parse_args", parse)
    # Where our own programs begin to read data. A team file may be one that an earlier command writes.
    enough = mock.Mock(side_effect=Enough)
    yield mock.patch("openrlhf_mlpo.tasks.load_questions", enough)
    yield mock.patch("openrlhf_mlpo.pool.open_pool", enough)
    from openrlhf_mlpo import team

    load_team = team.load_team

    def load(path):
        if not Path(path).exists():
            raise Enough
        found.team = load_team(path)
        for agent in found.team:
            if agent.engine in ("vllm", "ray"):
                check_engine_args(agent.engine_args, f"team file {path}, agent {agent.name}: engine_args")
        return found.team

    yield mock.patch("openrlhf_mlpo.team.load_team", load)
    if openrlhf:
        yield from _openrlhf_stops(found)


def _openrlhf_stops(found: Checked) -> Iterator[Any]:
    """Let OpenRLHF's `train()` run its own checks, with stand-ins for Ray and for all it would start."""
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import openrlhf.trainer.ray.launcher as launcher
    import openrlhf.trainer.ray.ppo_actor as ppo_actor
    import openrlhf.trainer.ray.vllm_engine as vllm_engine
    import openrlhf.utils

    import openrlhf_mlpo.trainer  # noqa: F401 - its classes extend OpenRLHF's own, not the stand-ins

    get_strategy = openrlhf.utils.get_strategy
    nothing = mock.MagicMock()

    def strategy(args):
        found.args, made = args, get_strategy(args)
        trainers = args.actor.num_nodes * args.actor.num_gpus_per_node if hasattr(args, "vllm") else max(found.gpus, 1)
        if not made.use_dynamic_batch:
            check_batch(made.get_ds_train_config(), trainers)
        if not hasattr(args, "vllm"):  # SFT and its like: nothing but training follows
            raise Enough
        found.gpus = gpus_needed(args)
        return made

    class Engine:
        """In place of the Ray actor class `RolloutRayActor`: its own `__init__` builds vLLM's arguments."""

        options = staticmethod(lambda **_: Engine)

        @staticmethod
        def remote(**kwargs):
            real = register.plain_class(rollout_actor)
            quiet = {name: lambda *_, **__: None for name in ("_configure_device_env", "_configure_vllm_env")}
            with mock.patch.multiple(real, **quiet), mock.patch("vllm.AsyncLLMEngine", mock.MagicMock()) as engine:
                engine.from_engine_args.return_value.is_sleeping = mock.AsyncMock()
                # A model that exists, as vLLM may look it up on the hub; no reward file, as it may start workers.
                kwargs |= {"model": ".", "remote_rm_url": None, "agent_func_path": None}
                asyncio.run(real.__init__(object.__new__(real), **kwargs))
            return nothing

    def actor_group(_nodes, _gpus, actor_class, **_):
        found.actors.append(register.plain_class(actor_class))
        return nothing

    def registered():
        really_register()
        ppo_trainer.PPOTrainer = ppo_trainer_async.PPOTrainerAsync = stop

    really_register, rollout_actor = register.register, vllm_engine.RolloutRayActor
    stop = mock.Mock()
    stop.remote.side_effect = Enough
    for target, stand_in in (
        ("openrlhf.utils.get_strategy", strategy),
        ("openrlhf_mlpo.register._check_pools", nothing),
        ("openrlhf_mlpo.register.register", registered),
        ("ray.is_initialized", lambda: True),
        ("ray.get", nothing),
        ("ray.util.placement_group.placement_group", nothing),
        ("openrlhf.trainer.ray.launcher.RayActorGroup", actor_group),
        ("openrlhf.trainer.ray.vllm_engine.placement_group", nothing),
        ("openrlhf.trainer.ray.vllm_engine.get_bundle_indices", lambda *_: [0]),
        ("openrlhf.trainer.ray.vllm_engine.batch_vllm_engine_call", nothing),
        ("openrlhf.trainer.ray.vllm_engine.RolloutRayActor", Engine),
        ("openrlhf.trainer.ray.ppo_actor.PolicyModelActor", ppo_actor.PolicyModelActor),  # put back in the end
        ("openrlhf.trainer.ray.launcher.ReferenceModelActor", launcher.ReferenceModelActor),
        ("openrlhf.trainer.ppo_trainer.PPOTrainer", stop),
        ("openrlhf.trainer.ppo_trainer_async.PPOTrainerAsync", stop),
    ):
        yield mock.patch(target, stand_in)


def gpus_needed(args) -> int:
    """GPUs that `train_ppo_ray` reserves, for its nested arguments."""
    trainers = args.actor.num_nodes * args.actor.num_gpus_per_node
    engines = (args.vllm.num_engines or 0) * args.vllm.tensor_parallel_size
    colocated = args.train.colocate_all and not args.train.async_enable
    shared = args.train.colocate_all or args.train.colocate_actor_ref
    reference = 0 if shared or not args.algo.kl.init_coef else args.ref.num_nodes * args.ref.num_gpus_per_node
    return trainers + reference + (0 if colocated else engines)


def check_batch(config: dict, world_size: int) -> None:
    """Have DeepSpeed judge the batch sizes of its configuration for so many GPUs. Raises UserError."""
    from deepspeed.runtime.config import DeepSpeedConfig

    sizes = {name: config[name] for name in ("train_batch_size", "train_micro_batch_size_per_gpu")}
    ranks = mock.Mock(get_data_parallel_world_size=lambda: world_size)
    with mock.patch("deepspeed.comm.get_rank", lambda *_: 0):
        try:
            DeepSpeedConfig(sizes, ranks)
        except AssertionError as error:
            raise UserError(
                f"--train.batch_size {sizes['train_batch_size']} must be a multiple of --train.micro_batch_size "
                f"{sizes['train_micro_batch_size_per_gpu']} x {world_size} training GPUs ({_one_line(error)})"
            ) from None


def check_engine_args(settings: dict, where: str) -> None:
    """Have vLLM judge the arguments of one engine. Raises UserError that starts with `where`."""
    import inspect

    import vllm

    ours = {*OWN_ENGINE_ARGS, *inspect.signature(vllm.LLM.__init__).parameters} - {"model"}
    known = inspect.signature(vllm.EngineArgs).parameters
    try:
        vllm.EngineArgs(model=".", **{k: v for k, v in settings.items() if k in known or k not in ours})
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {_one_line(error)}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Nothing printed; yields what goes to standard error."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield printed


def _last_error(printed: io.StringIO) -> str:
    """The message of the last `error: …` line, argparse's or ours."""
    lines = [line for line in printed.getvalue().splitlines() if "error: " in line]
    return lines[-1].split("error: ", 1)[1] if lines else "ended with an error and no message"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m openrlhf_mlpo.cli.dry_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="", help="name that stands before an error (default: the command's own)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and a command (default: read standard input)")
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    lines = [shlex.join(command)] if command else [line.strip() for line in sys.stdin if line.strip()]
    if not lines:
        raise UserError("no command to check: give one after --, or one per line on standard input")
    register.check_version()
    on_cpu = os.environ.get(cpu.ENV_SWITCH) == "1"
    try:
        for line in lines:
            print(line, flush=True)
            check_command(line, on_cpu)
    except UserError as error:
        raise UserError(f"{args.recipe}: {error}" if args.recipe else str(error)) from None
    import vllm

    print(f"{len(lines)} commands pass the checks of OpenRLHF {register.OPENRLHF_VERSION} and vLLM {vllm.__version__}")
    return 0


if __name__ == "__main__":
    run_cli(main)
