#!/usr/bin/env bash
# The whole of MLPO on a laptop without a GPU: questions, team, pool, warm start, MLPO, evaluation, report.
#
#   bash recipes/quickstart_cpu.sh              # some 10 minutes on 2 cores, after a set-up of 5 minutes the first time
#   bash recipes/quickstart_cpu.sh --smoke      # the same path in a few steps; its accuracies mean nothing
#   bash recipes/quickstart_cpu.sh --seed 1 --dir runs/seed1
#   bash recipes/quickstart_cpu.sh --dry-run    # prints the commands
#
# Watch: "reward" beside the mlpo bar, the share of the leader's answers that are right. Expect: a small table at the end,
# and DIR/report/report.md. Stopped, the same command goes on after the last finished stage. A stage whose command has
# changed stops with an error: take another --dir. With the same seed, questions, models and order of training are the
# same; the last digits are not, as vLLM batches requests as they come.
#
# Hardware: 2 cores, 8 GB of memory, 5 GB of disk. Real vLLM, Ray and DeepSpeed throughout; nothing is downloaded but
# packages. The task is that of recipes/claims_cpu.sh, which trains longer and tests the claims; here everything is smaller.
#
# Deviations from the paper (arXiv 2507.08960):
#   1. Models of 0.7 million parameters, trained here on generated questions in the form of a BBH task: first a base model,
#      then from it three agents and the leader, each believing something false about other words.
#   2. The leader is trained with two rounds (--mlpo.rounds 2); a share of its prompts is solo (--mlpo.solo_fraction), so
#      that a leader this small stays able to work alone.
#   3. Learning rate, group size and batch sizes are ours.
set -euo pipefail
SEED=0 DIR="" SMOKE=0
VALUES="seed dir" FLAGS=smoke
. "$(dirname "$0")/common.sh"
DIR=${DIR:-runs/quickstart$( ((SMOKE)) && echo _smoke || true)}
if ((SMOKE)); then
  N_TRAIN=40 N_TEST=40 BASE_ROWS=320 AGENT_ROWS=160 LEADER_ROWS=160 SFT_ROWS=32 SFT_RATE=2e-4 EPISODES=1
  ROLLOUT_PROMPTS=32 GROUP=4 ROUNDS=2 SAMPLES=1
else
  N_TRAIN=560 N_TEST=300 BASE_ROWS=7200 AGENT_ROWS=2400 LEADER_ROWS=3600 SFT_ROWS=240 SFT_RATE=2e-4 EPISODES=1
  ROLLOUT_PROMPTS=32 GROUP=8 ROUNDS=3 SAMPLES=2
fi
DRAWS=1 MAX_TEAM=3 KINDS=object_counting
. recipes/claims/stages.sh

start
team_file "$DIR/team.yaml" 1 2 3
schooling
SCHOOLING=("${COMMAND[@]}")
agents "$AGENT_ROWS" 1 2 3
stage schooling+agents "${SCHOOLING[@]}" --and "${COMMAND[@]}"
pool
warm_start
stage sft "${COMMAND[@]}"
train mlpo sft "$EPISODES" --mlpo.rounds 2 --mlpo.team "$DIR/team.yaml" --mlpo.solo_fraction 0.3
stage mlpo "${COMMAND[@]}"
# 'untrained' is the leader after SFT, before MLPO. Leaders are decoded greedily, agents at temperature 0.2.
stage evaluate "$PY" eval/evaluate.py --leader mlpo="$DIR/leaders/mlpo" --leader untrained="$DIR/leaders/sft" \
  --team "$DIR/team.yaml" --task bbh --questions "$DIR/test.jsonl" --rounds "$ROUNDS" --pool "$DIR/pool" \
  --methods leader_team,team_vote,leader_solo,agent,majority_vote,best_agent,router,oracle \
  --template compact --max_new_tokens "$MAX_NEW_TOKENS" --seed "$SEED" --label quickstart --out "$DIR/eval"
stage report $PY eval/report.py "$DIR/eval" --training "$DIR/tensorboard" --out "$DIR/report"
if [[ -z $DRY_RUN ]]; then
  $PY recipes/results.py --brief "$DIR/report/report.csv"
  $PY recipes/stage.py --dir "$DIR" --times
  echo "report: $DIR/report/report.md, and report.html with every transcript"
fi
