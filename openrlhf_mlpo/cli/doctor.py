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
import itertools
import os
import shlex
import warnings
from collections.abc import Sequence

from openrlhf_mlpo import cpu
from openrlhf_mlpo.cli.options import Parser
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.preflight import machine
from openrlhf_mlpo.preflight.commands import recipe_commands
from openrlhf_mlpo.preflight.machine import FATAL, WARNING
from openrlhf_mlpo.preflight.memory import PAPER
from openrlhf_mlpo.preflight.plan import Plan
from openrlhf_mlpo.team import load_team


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
        lines = recipe_commands(args.plan[0])
        on_cpu = on_cpu or args.plan[0].endswith("_cpu.sh")
    here = machine.find_machine(args.gpus, args.gpu_memory, args.nodes)
    plan = Plan(here, args.leader, load_team(args.team) if args.team else None)
    levels = []
    steps = (machine.check_versions(), machine.check_machine(here), plan.check_commands(lines, on_cpu))
    for finding in itertools.chain(*steps):
        levels.append(finding.level)
        fix = f"\n{'':<8}fix: {finding.fix}" if finding.fix else ""
        print(f"{finding.level:<8}{finding.text}{fix}", flush=True)
        if finding.level == FATAL and finding.text.startswith("openrlhf"):
            break  # nothing else can be judged without it
    print(f"{levels.count(FATAL)} fatal, {levels.count(WARNING)} warnings")
    return 1 if FATAL in levels else 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python3 -m openrlhf_mlpo.cli.doctor", description=__doc__)
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
