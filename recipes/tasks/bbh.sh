# shellcheck shell=bash disable=SC2034
# BIG-Bench Hard has no training split: 80 % of its 6,511 questions, chosen by a hash of their content, are trained on and
# the rest is tested on, so the figures are not those of the whole benchmark.
set -euo pipefail
TRAIN_DATA=${TRAIN_DATA:-lukaemon/bbh} TRAIN_SPLIT=${TRAIN_SPLIT-train}
TEST_DATA=${TEST_DATA:-lukaemon/bbh} TEST_SPLIT=${TEST_SPLIT-test}
EPISODES=${EPISODES:-4}
