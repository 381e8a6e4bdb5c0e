#!/usr/bin/env bash
# Trains agents from the base model with OpenRLHF's SFT, one after the other; one that is there is left as it is.
#
#   KINDS="object_counting colored_objects" bash recipes/claims/agents.sh DIR ROWS MAX_LEN SEED AGENT…
set -euo pipefail
DIR=$1 ROWS=$2 MAX_LEN=$3 SEED=$4
shift 4
PY=.venv/bin/python

for agent in "$@"; do
  [[ ! -f $DIR/agents/agent_$agent/done ]] || continue
  # shellcheck disable=SC2086 # several words
  $PY recipes/claims/agent_rows.py --model "$DIR/models/base" --agent "$agent" --n "$ROWS" --seed "$SEED" \
    --kinds $KINDS --out "$DIR/agent_$agent.jsonl"
  $PY -m openrlhf_mlpo.cli.run_openrlhf openrlhf.cli.train_sft \
    --model.model_name_or_path "$DIR/models/base" --ckpt.output_dir "$DIR/agents/agent_$agent" \
    --ckpt.path "$DIR/ckpt/sft_$agent" --data.dataset "$DIR/agent_$agent.jsonl" --data.input_key input \
    --data.output_key output --data.input_template "{}" --data.max_len "$MAX_LEN" --ds.zero_stage 0 \
    --train.max_epochs 1 --train.batch_size 8 --train.micro_batch_size 8 --adam.lr 2e-3 --train.seed $((SEED + 1))
  touch "$DIR/agents/agent_$agent/done"
done
