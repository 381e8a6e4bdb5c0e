#!/usr/bin/env bash
# Trains agents from the base model with OpenRLHF's SFT, one after the other; one that is there is left as it is.
#
#   KINDS="object_counting colored_objects" bash recipes/claims/agents.sh DIR ROWS SEED AGENT…
set -euo pipefail
DIR=$1 ROWS=$2 SEED=$3
shift 3
. recipes/claims/stages.sh

for agent in "$@"; do
  [[ ! -f $DIR/agents/agent_$agent/done ]] || continue
  # shellcheck disable=SC2086 # several words
  $PY $Q/agent_rows.py --model "$DIR/models/base" --agent "$agent" --n "$ROWS" --seed "$SEED" --kinds $KINDS \
    --out "$DIR/agent_$agent.jsonl"
  sft "agents/agent_$agent" models/base "$DIR/agent_$agent.jsonl" 8 2e-3
  "${COMMAND[@]}"
  touch "$DIR/agents/agent_$agent/done"
done
