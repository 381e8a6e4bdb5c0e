"""OpenRLHF's `train_ppo_ray` with MLPO registered in it.

    python3 -m openrlhf_mlpo.cli.train_mlpo_ray --mlpo.pool POOL --reward.remote_url reward_fns/auto_reward.py …

Takes every flag of `openrlhf.cli.train_ppo_ray` unchanged, and `--mlpo.*`. Without `--mlpo.pool` it is stock OpenRLHF.
"""

from __future__ import annotations

import argparse
import sys

from openrlhf_mlpo.cli.run_openrlhf import run_module
from openrlhf_mlpo.errors import run_cli
from openrlhf_mlpo.train import flags, seams


def main() -> None:
    flags.check_openrlhf()

    def check(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
        if args := flags.check_arguments(parser, parsed):
            from openrlhf_mlpo.train import inputs, trainer  # take seconds to import

            inputs.check_files(args, vars(parsed))
            trainer.register()

    run_module(seams.TRAIN_MODULE, sys.argv[1:], extend=[flags.add_arguments], check=[check])


if __name__ == "__main__":
    run_cli(main)
