#!/usr/bin/env bash
# The whole of MLPO at the paper's size: team's pool, warm-start data, SFT, MLPO, plain GRPO, evaluation, report.
#
#   ray start --head                        # once, on the machine with the GPUs
#   TASK=math bash recipes/run_all.sh       # math, bbh, mmlu or exact; everything in OUT (default runs/TASK)
#   TASK=math bash recipes/run_all.sh --dry-run
#   TASK=math LIMIT=64 EPISODES=1 OUT=runs/trial bash recipes/run_all.sh     # the same path in a few steps
#
# Begins with the doctor (DOCTOR=0 leaves it out). A stage that has finished is not run again; one that was stopped goes on
# where it was. A stage whose commands have changed since it began stops with an error: its results would be mixed. What
# a stage prints is in OUT/logs.
#
# Settings (environment): those of the recipes it runs, see their --help: sample_team.sh, build_sft.sh, sft.sh,
# train_mlpo.sh (VARIANT), train_grpo.sh, evaluate.sh. One setting holds for all of them.
#
# Hardware: 8 GPUs with 80 GB, 512 GB of host memory, 500 GB of disk. Wall time: not measured by us at this size.
#
# Deviations from the paper (arXiv 2507.08960): in the head of each of these recipes.
set -euo pipefail
. "$(dirname "$0")/common.sh"

stage_of() { # NAME RECIPE: a recipe as a stage; the commands that it would run are what must not change
  local recipe=recipes/$2 commands
  commands=$(RECIPE=$recipe DRY_RUN=print bash "$recipe")
  if [[ -n $DRY_RUN ]]; then echo "$commands"; return; fi
  python3 recipes/stage.py --dir "$OUT" --name "$1" --text "$commands" -- env RECIPE="$recipe" bash "$recipe"
}

unset NAME # it would send MLPO and its baseline to one folder
if [[ -z $DRY_RUN && ${DOCTOR:-1} == 1 ]]; then
  python3 -m openrlhf_mlpo.cli.doctor "$RECIPE" || fail "fix what the doctor found, or set DOCTOR=0"
fi
stage_of pool sample_team.sh
stage_of sft-data build_sft.sh
stage_of sft sft.sh
stage_of mlpo train_mlpo.sh
stage_of grpo train_grpo.sh
stage_of evaluate evaluate.sh
