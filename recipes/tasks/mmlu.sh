# shellcheck shell=bash disable=SC2034
# MMLU: trained on its 1,531 validation questions, tested on the 14,042 of its test split. The 99,842 questions of
# TRAIN_SPLIT=auxiliary_train come from other benchmarks and stand in order of source: shuffle them before a LIMIT.
set -euo pipefail
TRAIN_DATA=${TRAIN_DATA:-cais/mmlu:all} TRAIN_SPLIT=${TRAIN_SPLIT-validation}
TEST_DATA=${TEST_DATA:-cais/mmlu:all} TEST_SPLIT=${TEST_SPLIT-test}
EPISODES=${EPISODES:-10}
