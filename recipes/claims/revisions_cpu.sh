#!/usr/bin/env bash
# A team of which only the revision is right (recipes/claims/revising_agents.py): can a leader learn to follow it?
#
#   bash recipes/claims/revisions_cpu.sh --of runs/claims100  # after the stage sft of claims_cpu.sh or quickstart_cpu.sh
#
# Trains the warm-started leader of that run with two rounds, --episodes 12, and with round 0 alone on as many outputs, and
# evaluates both and the leader before, greedily. Results are in revisions/ of that run.
#
# Hardware: 2 cores, 8 GB of memory. Wall time: half an hour.
set -euo pipefail
OF="" SEED=0 EPISODES=12 VALUES="of episodes"
RECIPE=recipes/claims/revisions_cpu.sh
. "$(dirname "$0")/../common.sh"
[[ -n $OF ]] || fail "--of takes the folder of a run of claims_cpu.sh or quickstart_cpu.sh"
[[ -d $OF/leaders/sft || -n $DRY_RUN ]] || fail "$OF/leaders/sft: no such folder; it is written by the stage sft"
DIR=$OF/revisions SAMPLES=1 ROLLOUT_PROMPTS=32 GROUP=8 START=../../leaders/sft
. recipes/claims/stages.sh

if [[ -z $DRY_RUN ]]; then
  mkdir -p "$DIR/leaders"
  head -n 600 "$OF/train.jsonl" > "$DIR/train.jsonl"
  {
    echo "agents:"
    for agent in ann bob cyd; do echo "  - {name: $agent, engine: callable, model: $Q/revising_agents.py:answer}"; done
  } > "$DIR/team.yaml"
fi
pool
train rounds_2 "$START" "$EPISODES" --mlpo.rounds 2 --mlpo.team "$DIR/team.yaml"
TWO=("${COMMAND[@]}")
train rounds_1 "$START" $((2 * EPISODES))
stage rounds_2+rounds_1 "${TWO[@]}" --and "${COMMAND[@]}"
LEADERS=()
for name in rounds_2 rounds_1 "$START"; do LEADERS+=(--leader "$(basename "$name")=$DIR/leaders/$name"); done
stage evaluate "$PY" eval/evaluate.py "${LEADERS[@]}" --team "$DIR/team.yaml" --task bbh --questions "$OF/test.jsonl" \
  --limit 300 --rounds 3 --methods leader_team,majority_vote --template compact --max_new_tokens "$MAX_NEW_TOKENS" \
  --out "$DIR/eval"
[[ -n $DRY_RUN ]] || $PY eval/report.py "$DIR/eval" --out "$DIR/report"
