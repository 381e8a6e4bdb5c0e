#!/usr/bin/env bash
# Runs several commands at once, one thread each: on two cores that beats two threads for one small model after another.
#
#   bash recipes/quickstart/side_by_side.sh COMMAND… -- COMMAND… [-- COMMAND…]
#
# The first one that fails ends the others, and its exit status is the script's.
set -euo pipefail
export OMP_NUM_THREADS=1 OPENRLHF_MLPO_TRAIN_THREADS=1

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
while (($#)); do
  command=()
  while (($#)) && [[ $1 != -- ]]; do command+=("$1"); shift; done
  (($#)) && shift
  "${command[@]}" &
  pids+=($!)
done
for _ in "${pids[@]}"; do wait -n; done
