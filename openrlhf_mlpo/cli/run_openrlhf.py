"""Run one of OpenRLHF's own entry points, on a machine without a GPU too.

    python3 -m openrlhf_mlpo.cli.run_openrlhf openrlhf.cli.train_sft --model.model_name_or_path …

With a GPU this is `python3 -m MODULE …` and nothing more. Without one, the CPU runtime is put in place first.
"""

from __future__ import annotations

import argparse
import os
import runpy
import socket
import sys
from collections.abc import Callable, Sequence

from openrlhf_mlpo import cpu
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.train import flags, seams


def run_module(
    module: str, argv: list[str], *, extend: Sequence[Callable] = (), check: Sequence[Callable] = ()
) -> None:
    """Run `python3 -m module argv…` in this process; `extend` and `check`: see `seams.extend_parsers`."""
    if cpu.use_cpu():
        cpu.activate()
        extend, check = [cpu.extend_parser, *extend], [*check, _check_on_cpu]
        if not module.endswith("_ray"):
            _single_process_environment()
    seams.extend_parsers(extend, check)
    sys.argv = [module, *argv]
    # What `python3 -m` does: an already imported copy of the module would be run a second time otherwise.
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _check_on_cpu(_parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    cpu.check_arguments(vars(parsed))
    if "vllm.num_engines" in vars(parsed):
        cpu.init_ray()


def _single_process_environment() -> None:
    """DeepSpeed's rendezvous variables for one process, which its launcher would set."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    defaults = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def parse_args(argv: list[str]) -> tuple[str, list[str]]:
    """The entry point of OpenRLHF and what follows it. Raises UserError when it is none."""
    if not argv or not argv[0].startswith("openrlhf.cli."):
        named = argv[0] if argv else ""
        raise UserError(f"{named!r} is not an entry point of OpenRLHF; give one such as openrlhf.cli.train_sft")
    return argv[0], argv[1:]


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        return
    module, argv = parse_args(sys.argv[1:])
    flags.check_openrlhf()
    run_module(module, argv)


if __name__ == "__main__":
    run_cli(main)
