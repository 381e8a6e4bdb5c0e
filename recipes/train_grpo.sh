#!/usr/bin/env bash
# The baseline: plain GRPO from the same leader, on the same questions, objective, number of rollouts and steps as MLPO.
#
#   TASK=math bash recipes/train_grpo.sh [--dry-run]    # writes OUT/grpo/model
#
# It is recipes/train_mlpo.sh with --mlpo.solo_fraction 1: no prompt carries a team. Settings, VARIANT and hardware are
# those of that recipe (its --help); prompts are shorter, so it is faster. Where MLPO has ROUNDS=2 or more, an episode of it
# holds more outputs, by the groups of later rounds (LATER_SHARE): this one then has as many EPISODES more.
#
# Deviations from the paper (arXiv 2507.08960): as there. Both train with Dr. GRPO's advantages and constant normaliser.
set -euo pipefail
export RECIPE=recipes/train_grpo.sh NAME=${NAME:-grpo} SOLO_FRACTION=1.0
. "$(dirname "$0")/common.sh"
if [[ ${ROUNDS:-1} != 1 ]]; then
  more='import math, sys; print(math.ceil(int(sys.argv[1]) / (1 - float(sys.argv[2])) - 1e-9))'
  episodes=$(python3 -c "$more" "$EPISODES" "${LATER_SHARE:-0.5}" 2>/dev/null) ||
    fail "EPISODES=$EPISODES is no whole number, or LATER_SHARE=${LATER_SHARE-} no share below 1"
  EPISODES=$episodes
fi
ROUNDS=1
unset LATER_SHARE CARRY
. "$(dirname "$0")/train_mlpo.sh"
