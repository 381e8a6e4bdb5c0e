#!/usr/bin/env bash
# Trains one of the quickstart's agents with OpenRLHF's SFT.
#
#   bash recipes/quickstart/agent.sh DIR ROWS MAX_LEN SEED AGENT
set -euo pipefail
DIR=$1 ROWS=$2 MAX_LEN=$3 SEED=$4 AGENT=$5
PY=.venv/bin/python

$PY recipes/quickstart/agent_data.py --agent "$AGENT" --n "$ROWS" --seed "$SEED" --out "$DIR/agent_$AGENT.jsonl"
exec $PY -m openrlhf_mlpo.cli.run_openrlhf openrlhf.cli.train_sft \
  --model.model_name_or_path "$DIR/models/agent_$AGENT" --ckpt.output_dir "$DIR/agents/agent_$AGENT" \
  --ckpt.path "$DIR/ckpt/sft_$AGENT" --data.dataset "$DIR/agent_$AGENT.jsonl" --data.input_key input \
  --data.output_key output --data.apply_chat_template --data.max_len "$MAX_LEN" --ds.zero_stage 0 \
  --train.max_epochs 1 --train.batch_size 32 --train.micro_batch_size 32 --adam.lr 4e-3 --train.seed $((SEED + 1))
