# shellcheck shell=bash disable=SC2034
# Your own questions, verified by exact match. TRAIN_DATA is a .jsonl or .parquet file, a folder of them or a data set of the
# hub, COLUMNS its names, as question=prompt,answer=gold. Without TEST_DATA a fifth of it, chosen by a hash of each
# question's content, is tested on and not trained on.
set -euo pipefail
[[ -n ${TRAIN_DATA-} ]] || fail "TASK=exact: set TRAIN_DATA to your questions, and COLUMNS to the names of their columns"
if [[ -n ${TEST_DATA-} ]]; then
  TRAIN_SPLIT=${TRAIN_SPLIT-} TEST_SPLIT=${TEST_SPLIT-}
else
  TEST_DATA=$TRAIN_DATA TRAIN_SPLIT=${TRAIN_SPLIT-train} TEST_SPLIT=${TEST_SPLIT-test}
fi
EPISODES=${EPISODES:-3}
