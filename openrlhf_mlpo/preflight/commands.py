"""Commands of a recipe, judged by the parsers and checks that they meet when they run; nothing is started.

`ray` and `deepspeed` judge the flags in front of a program, the program's own parser those behind it. Of OpenRLHF's
entry points everything runs but `train()`, of which only the assertions about flags are left.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from openrlhf_mlpo import cpu
from openrlhf_mlpo.engines.ray import OWN_ARGS
from openrlhf_mlpo.errors import UserError, errors_at, one_line
from openrlhf_mlpo.preflight import requirements
from openrlhf_mlpo.preflight.requirements import EngineNeed, Requirements
from openrlhf_mlpo.train import flags, seams

# Our programs, each with a `parse_args(argv)` that checks what it parses, and what they need.
OURS = {
    "openrlhf_mlpo.cli.sample_team": requirements.of_sampling,
    "openrlhf_mlpo.cli.build_sft": requirements.of_sft_data,
    "openrlhf_mlpo.cli.serve": requirements.of_serving,
}
SFT, MLPO, WRAPPER = "openrlhf.cli.train_sft", "openrlhf_mlpo.cli.train_mlpo_ray", "openrlhf_mlpo.cli.run_openrlhf"


class Stop(BaseException):
    """The end of a program in its parser, with the parser's refusal if there is one. No `except Exception` stops it."""


def recipe_commands(recipe: str) -> list[str]:
    """The commands a recipe would run with the settings of this environment. Raises UserError."""
    if not Path(recipe).is_file():
        raise UserError(f"{recipe}: no such recipe")
    env = {**os.environ, "DRY_RUN": "print"}
    done = subprocess.run(["bash", recipe, "--dry-run"], env=env, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{recipe} failed without a message"]
        raise UserError(lines[-1].removeprefix("error: "))
    return [line for line in done.stdout.splitlines() if line.strip()]


def check_command(line: str, on_cpu: bool = False) -> Requirements:
    """What a command, as a shell reads it, needs on a GPU or on the CPU runtime. Raises UserError for a mistake."""
    words, gpus, address = shlex.split(line), 1, ""
    while words:
        name = Path(words[0]).name
        if name == "env" or re.match(r"[A-Za-z_]\w*=", words[0]):  # VARIABLE=value in front of a command
            words = words[1:]
        elif name == "srun" and "ray" in words:
            words = words[words.index("ray") :]
        elif name == "ray":
            address, words = check_ray(words[1:])
        elif name == "deepspeed":
            gpus, words = check_deepspeed(words[1:])
        elif re.match(r"python[\d.]*$", name):
            return replace(check_python(words[1:], gpus, on_cpu), address=address, on_cpu=on_cpu)
        elif name == "vllm":
            return Requirements(engines=[check_vllm(words[1:])], address=address, on_cpu=on_cpu)
        elif name == "bash" and len(words) > 1:
            if not Path(words[1]).is_file():
                raise UserError(f"bash {words[1]}: no such file")
            break
        else:
            raise UserError(
                f"{words[0]}: not a command that can be checked (python3, ray, deepspeed, vllm, srun, bash)"
            )
    return Requirements(address=address, on_cpu=on_cpu)


def check_ray(words: Sequence[str]) -> tuple[str, list[str]]:
    """Have Ray's command line judge its flags. Returns its --address and the command that a job runs, if it is one."""
    import click
    from ray.scripts.scripts import cli

    command: click.Command = cli
    path = ["ray"]
    try:
        while isinstance(command, click.Group):
            name, chosen, words = command.resolve_command(click.Context(command), list(words) or ["(none)"])
            assert name and chosen, "None is for the completion of words"
            command, path = chosen, [*path, name]
        params = command.make_context(path[-1], list(words)).params
        json.loads(params.get("runtime_env_json") or "{}")
    except click.ClickException as error:
        raise UserError(f"{' '.join(path)}: {error.format_message()}") from None
    except ValueError as error:
        raise UserError(f"{' '.join(path)}: --runtime-env-json is not JSON: {error}") from None
    return params.get("address") or "", list(params.get("entrypoint", ()))


def check_deepspeed(words: list[str]) -> tuple[int, list[str]]:
    """Have DeepSpeed's launcher judge its flags. Returns the GPUs it takes and the command it runs on each."""
    from deepspeed.launcher.runner import parse_args

    with errors_at("deepspeed: "), parsing("deepspeed", []):
        args = parse_args(words)
    module = ["-m"] if args.module else []
    return max(args.num_gpus, 1) * max(args.num_nodes, 1), ["python3", *module, args.user_script, *args.user_args]


def check_vllm(words: list[str]) -> EngineNeed:
    """Have vLLM's own parser judge `serve MODEL …`. Returns the engine of that server."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    if words[:1] != ["serve"]:
        raise UserError(f"vllm {' '.join(words[:1])}: only vllm serve can be checked")
    with errors_at("vllm serve: "), parsing("vllm serve", []):
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(words[1:])
        validate_parsed_serve_args(args)
    model = args.model_tag or args.model
    names = ("tensor_parallel_size", "gpu_memory_utilization", "max_model_len")
    settings = {name: value for name in names if (value := getattr(args, name)) is not None}
    return EngineNeed(f"the server of {model}", model, settings, f"vllm serve {model}")


def check_python(words: list[str], gpus: int, on_cpu: bool) -> Requirements:
    """What `python3 words…` needs, once the program's own checks and vLLM's of its engines have passed."""
    if words[:1] == ["-m"] and len(words) > 1:
        program, argv = words[1], words[2:]
        if not source(program):
            raise UserError(f"python3 -m {program}: no such module")
    elif words and not words[0].startswith("-"):
        path, argv = Path(words[0]).resolve(), words[1:]
        if not path.is_file():
            raise UserError(f"python3 {words[0]}: no such file")
        program = str(path)
    else:
        raise UserError(f"python3 {' '.join(words[:2])}: only modules (-m) and scripts can be checked")
    name = Path(program).stem if program.endswith(".py") else program.rpartition(".")[2]
    with errors_at(f"{name}: "):
        if program == WRAPPER:
            program, argv = importlib.import_module(program).parse_args(argv)
        elif program != MLPO:
            on_cpu = False  # stock OpenRLHF knows nothing of the CPU runtime
        needs = requirements_of(program, argv, gpus, on_cpu)
        for engine in needs.engines:
            check_engine(engine)
        return needs


def requirements_of(program: str, argv: list[str], gpus: int, on_cpu: bool) -> Requirements:
    """Have a program judge its flags, up to where it would read data or start anything."""
    if program in OURS:
        with parsing(program, argv):
            args = importlib.import_module(program).parse_args(argv)
        return OURS[program](args)
    if program.endswith("/eval/evaluate.py"):
        with parsing(program, argv):
            sys.path[0] = str(Path(program).parents[1])  # as the script does
            options = importlib.import_module("eval.options")
            args = options.parse_args("", argv)
            leaders, _, _ = options.check(args)
        return requirements.of_evaluation(args, leaders)
    extend = [cpu.extend_parser] if on_cpu else []
    check = [lambda _, parsed: cpu.check_arguments(vars(parsed))] if on_cpu else []
    if program == MLPO:
        args = run_main(seams.TRAIN_MODULE, argv, [*extend, flags.add_arguments], [flags.check_arguments, *check])
        return requirements.of_mlpo(args)
    if program == seams.TRAIN_MODULE:
        return requirements.of_ppo(run_main(program, argv, extend, check))
    if program == SFT:
        return requirements.of_sft(run_main(program, argv, extend, check), gpus)

    def stop(_parser, _parsed) -> None:
        raise Stop

    run_main(program, argv, check=[stop])  # nothing is known of what it does after its parser
    return Requirements()


def source(program: str) -> str:
    """The file of a module, or a script itself; "" when there is none."""
    if program.endswith(".py"):
        return program
    try:
        spec = importlib.util.find_spec(program)
    except ModuleNotFoundError:  # its package
        return ""
    return (spec.origin or "") if spec else ""


@contextlib.contextmanager
def parsing(
    program: str, argv: list[str], extend: Sequence[Callable] = (), check: Sequence[Callable] = ()
) -> Generator:
    """For the code within, `program argv…` is the command line, and a refusal of it is a UserError; nothing is printed.

    `extend` and `check`: see `seams.extend_parsers`.
    """

    def refuse(message: str) -> NoReturn:
        raise Stop(message)

    def refuse_mistakes(parser: argparse.ArgumentParser) -> None:
        parser.error = refuse

    before, path, parse_args = sys.argv, sys.path[:], argparse.ArgumentParser.parse_args
    sys.argv = [program, *argv]
    sys.path[:0] = [str(Path(program).parent)] if program.endswith(".py") else []  # as `python3 SCRIPT` does
    seams.extend_parsers([refuse_mistakes, *extend], check)
    quiet = (contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()))
    try:
        with quiet[0], quiet[1], warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Stop as stop:
        if stop.args:
            raise UserError(f"{stop}") from None
    except (AssertionError, AttributeError, ImportError, TypeError, ValueError) as error:
        raise UserError(one_line(error)) from error
    except SystemExit as end:
        raise UserError(f"ends at once, with exit status {end.code}") from None
    finally:
        sys.argv, sys.path[:], argparse.ArgumentParser.parse_args = before, path, parse_args


def run_main(program: str, argv: list[str], extend: Sequence[Callable] = (), check: Sequence[Callable] = ()) -> Any:
    """Run a program as `python3` does, but for its `train()`; returns the nested arguments that it would hand to that.

    Of `train()` only the assertions about flags are left. `argv`, `extend` and `check` are those of `parsing`.
    """
    if importlib.util.find_spec("flash_attn") is None:
        cpu.stub_flash_attn()  # OpenRLHF does not even import without it
    path = source(program)
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "train":
            node.body = assertions(node.body) or [ast.Pass()]
    names: dict[str, Any] = {"__name__": "__main__", "__file__": path}
    with parsing(program, argv, extend, check):
        exec(compile(ast.fix_missing_locations(tree), path, "exec"), names)
        if program in (seams.TRAIN_MODULE, SFT):
            names["get_strategy"](names["args"])  # what train() begins with; it has assertions too
    return names.get("args")


def assertions(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """The assertions about `args` alone among statements, with the conditions about `args` that they stand under."""

    def judged(test: ast.expr) -> bool:
        return {node.id for node in ast.walk(test) if isinstance(node, ast.Name)} <= {"args"}

    kept: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.Assert) and judged(node.test):
            kept.append(node)
        elif isinstance(node, ast.If) and judged(node.test):
            then, other = assertions(node.body), assertions(node.orelse)
            kept += [ast.If(node.test, then or [ast.Pass()], other)] if then or other else []
    return kept


def check_engine(need: EngineNeed) -> None:
    """Have vLLM judge the arguments of an engine. Raises UserError that begins with the flag or file."""
    import vllm

    # What our own Ray and vLLM engines take, and vLLM's `LLM` itself, `EngineArgs` need not know.
    ours = {*OWN_ARGS, "chat_template_kwargs", *inspect.signature(vllm.LLM.__init__).parameters} - {"model"}
    known = inspect.signature(vllm.EngineArgs).parameters
    try:
        vllm.EngineArgs(model=".", **{k: v for k, v in need.settings.items() if k in known or k not in ours})
    except (TypeError, ValueError) as error:
        raise UserError(f"{need.flag}: {one_line(error)}") from None
