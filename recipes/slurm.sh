#!/usr/bin/env bash
#SBATCH --job-name=mlpo --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --exclusive --mem=0
# Start Ray on all nodes of a SLURM job and run a recipe there.
#
#   TASK=math sbatch --nodes=2 recipes/slurm.sh                       # recipes/run_all.sh on 2 nodes
#   TASK=math JOB=train_mlpo.sh VARIANT=async sbatch recipes/slurm.sh
#   TASK=math NODES=2 bash recipes/slurm.sh --dry-run                 # no SLURM needed
#
# The repository, OUT and the hub cache must be on a file system that all nodes share, with the same environment active. A
# job that ran out of time is simply submitted again: the recipes go on where they were.
#
# Settings (environment): JOB=run_all.sh, PORT=6379, and those of the recipe. In recipes/team_paper.yaml set `actors` to
# the number of GPUs of all nodes.
#
# Hardware: that of the recipe, per node. Training is sharded over all nodes, so each GPU needs less than on one.
#
# Deviations from the paper (arXiv 2507.08960): those of the recipe that is run.
set -euo pipefail
export NODES=${NODES:-${SLURM_JOB_NUM_NODES:-2}}
# sbatch runs a copy of this file from its spool folder.
[[ -z ${SLURM_JOB_ID:-} ]] || cd "$SLURM_SUBMIT_DIR"
RECIPE=recipes/slurm.sh
. "$(if [[ -n ${SLURM_JOB_ID:-} ]]; then echo recipes; else dirname "$0"; fi)/common.sh"

JOB=${JOB:-run_all.sh} PORT=${PORT:-6379}
[[ -f recipes/$JOB && $JOB != slurm.sh ]] || fail "JOB=$JOB: name one of the recipes, such as train_mlpo.sh"
head=${SLURMD_NODENAME:-$(hostname)} # a batch script runs on the first node of its job

run ray start --head --port "$PORT" --num-gpus "$GPUS"
[[ -n $DRY_RUN ]] || trap 'ray stop' EXIT
if ((NODES > 1)); then
  run srun --nodes=$((NODES - 1)) --ntasks=$((NODES - 1)) --exclude="$head" \
    ray start --address "$head:$PORT" --num-gpus "$GPUS" --block &
  # The recipe's line must not come before this one in a dry run, and its job not before the GPUs are there.
  if [[ -n $DRY_RUN ]]; then wait; else
    for ((waited = 0; waited < 300; waited += 5)); do
      there=$(python3 -c 'import ray; ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
print(int(ray.cluster_resources().get("GPU", 0)))')
      ((there < NODES * GPUS)) || break
      sleep 5
    done
    ((there >= NODES * GPUS)) || fail "only $there of $((NODES * GPUS)) GPUs joined Ray within 5 minutes; see srun's messages"
  fi
fi
RECIPE=recipes/$JOB bash "recipes/$JOB"
