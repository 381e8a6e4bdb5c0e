#!/usr/bin/env bash
# The baseline: plain GRPO from the same leader, on the same questions, objective, number of rollouts and steps as MLPO.
#
#   TASK=math bash recipes/train_grpo.sh [--dry-run]    # writes OUT/grpo/model
#
# It is recipes/train_mlpo.sh with --mlpo.solo_fraction 1: no prompt carries a team. Settings, VARIANT and hardware are
# those of that recipe (its --help) but for ROUNDS; prompts are shorter, so it is faster. Where MLPO has ROUNDS=2, an episode
# holds twice the rollouts (--mlpo.later_share 0.5): give this one twice the EPISODES.
#
# Deviations from the paper (arXiv 2507.08960): as there. Both train with Dr. GRPO's advantages and constant normaliser.
set -euo pipefail
export RECIPE=recipes/train_grpo.sh NAME=${NAME:-grpo} SOLO_FRACTION=1.0 ROUNDS=1
unset LATER_SHARE CARRY
. "$(dirname "$0")/train_mlpo.sh"
