# shellcheck shell=bash disable=SC2034
# MATH: trained on its 7,500 training questions, tested on MATH-500.
set -euo pipefail
TRAIN_DATA=${TRAIN_DATA:-EleutherAI/hendrycks_math} TRAIN_SPLIT=${TRAIN_SPLIT-train}
TEST_DATA=${TEST_DATA:-HuggingFaceH4/MATH-500} TEST_SPLIT=${TEST_SPLIT-test}
EPISODES=${EPISODES:-3}
