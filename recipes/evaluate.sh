#!/usr/bin/env bash
# Evaluate four leaders with the team over 5 rounds and alone, and the baselines; then write the report.
#
#   TASK=math bash recipes/evaluate.sh [--dry-run]    # writes OUT/eval and OUT/report (report.md, report.html)
#
# Leaders: mlpo (OUT/mlpo/model), untrained (OUT/leader_0: after the warm start, before MLPO), base (LEADER: before the
# warm start) and grpo (OUT/grpo/model; alone only).
#
# Settings (environment): TASK, TEST_DATA and TEST_SPLIT (recipes/tasks), COLUMNS, TEAM, LEADER, METHODS, BUDGET, ROUNDS=5,
# TEMPERATURE=0 of the leaders, OUT, SEED, LIMIT, LEADER_ENGINE of all leaders, and what one of them has beside that or
# otherwise: MLPO_ENGINE, UNTRAINED_ENGINE, BASE_ENGINE, GRPO_ENGINE, such as '{"tensor_parallel_size": 2}'. Stopped, the
# same command goes on.
#
# Expect: leader_team of mlpo above majority_vote, best_agent and leader_team of untrained. The paper reports 0.882 on BBH,
# 0.762 on MMLU and 0.762 on MATH after 5 rounds; we have not run this size.
#
# Hardware: GPUs with 40 GB, one engine each; models are opened one after the other, in every round again.
#
# Deviations from the paper (arXiv 2507.08960): greedy decoding of the leaders is ours; BBH is tested on a fifth of it.
set -euo pipefail
. "$(dirname "$0")/common.sh"

LEADERS=(--leader "mlpo=ray:$OUT/mlpo/model" --leader "untrained=ray:$OUT/leader_0" --leader "base=ray:$LEADER"
  --leader "grpo=ray:$OUT/grpo/model" --leader_methods grpo=leader_solo)
QUESTIONS=(--questions "$TEST_DATA" --task "$TASK" --limit "$LIMIT" --skip_bad_rows --drop_long
  "${COLUMN_NAMES[@]}")
[[ -z $TEST_SPLIT ]] || QUESTIONS+=(--split "$TEST_SPLIT")
ENGINES=(--engine_args "$LEADER_ENGINE")
for name in mlpo untrained base grpo; do
  engine=${name^^}_ENGINE
  [[ -z ${!engine-} ]] || ENGINES+=(--engine_args "$name=${!engine}")
done
METHOD=(--methods "${METHODS:-leader_team,leader_solo,leader_vote,agent,majority_vote,best_agent,oracle}"
  --rounds "${ROUNDS:-5}" --temperature "${TEMPERATURE:-0}" --max_new_tokens "$NEW_TOKENS" --seed "$SEED")
[[ -z ${BUDGET-generations} ]] || METHOD+=(--budget "${BUDGET-generations}")

job python3 "$ROOT/eval/evaluate.py" "${LEADERS[@]}" --team "$TEAM" "${QUESTIONS[@]}" "${METHOD[@]}" \
  "${ENGINES[@]}" --pool "$OUT/pool" --label "$TASK" --out "$OUT/eval"
run python3 eval/report.py "$OUT/eval" --training "mlpo=$OUT/tensorboard/mlpo" --training "grpo=$OUT/tensorboard/grpo" \
  --out "$OUT/report"
