#!/usr/bin/env bash
# Trains some of the quickstart's agents side by side with OpenRLHF's SFT; on two cores that takes half as long.
#
#   bash recipes/quickstart/agents.sh DIR ROWS MAX_LEN SEED AGENT…
set -euo pipefail
DIR=$1 ROWS=$2 MAX_LEN=$3 SEED=$4
shift 4
PY=.venv/bin/python
export OMP_NUM_THREADS=1  # several processes on few cores

train() {
  local agent=$1
  $PY recipes/quickstart/agent_data.py --agent "$agent" --n "$ROWS" --seed "$SEED" --out "$DIR/agent_$agent.jsonl"
  $PY -m openrlhf_mlpo.cli.run_openrlhf openrlhf.cli.train_sft \
    --model.model_name_or_path "$DIR/models/agent_$agent" --ckpt.output_dir "$DIR/agents/agent_$agent" \
    --ckpt.path "$DIR/ckpt/sft_$agent" --data.dataset "$DIR/agent_$agent.jsonl" --data.input_key input \
    --data.output_key output --data.apply_chat_template --data.max_len "$MAX_LEN" --ds.zero_stage 0 \
    --train.max_epochs 1 --train.batch_size 32 --train.micro_batch_size 32 --adam.lr 4e-3 --train.seed $((SEED + 1))
}

pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
for agent in "$@"; do
  train "$agent" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
