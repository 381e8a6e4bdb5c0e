#!/usr/bin/env bash
# Warm-start the leader on the traces of recipes/build_sft.sh, with OpenRLHF's own SFT.
#
#   TASK=math bash recipes/sft.sh [--dry-run]    # writes OUT/leader_0
#
# Settings (environment): TASK, LEADER=Qwen/Qwen2.5-7B-Instruct, SFT_DATA, SFT_LR=5e-6, SFT_EPOCHS=2, OUT, GPUS, SEED,
# MAX_LEN. It uses one machine, outside Ray: let no Ray job run at the same time. Stopped, the same command goes on from
# the last checkpoint.
#
# Hardware: 8 GPUs with 80 GB. Expected per GPU, 7.6 billion parameters with ZeRO-3: 15 GB of weights, gradients and
# optimizer, and up to 20 GB for logits and activations of one row of 10,240 tokens.
#
# Deviations from the paper (arXiv 2507.08960): learning rate, epochs and batch size are not stated there; ours.
set -euo pipefail
. "$(dirname "$0")/common.sh"

MODEL=(--model.model_name_or_path "$LEADER" --model.gradient_checkpointing_enable)
DATA=(--data.dataset "${SFT_DATA:-$OUT/sft/train.jsonl}" --data.input_key input --data.output_key output
  --data.input_template "{}" --data.max_len "$MAX_LEN")
UPDATE=(--train.batch_size 64 --train.micro_batch_size 1 --train.max_epochs "${SFT_EPOCHS:-2}" --adam.lr "${SFT_LR:-5e-6}"
  --train.seed "$SEED")
DEEPSPEED=(--ds.zero_stage 3 --ds.param_dtype bf16 --ds.packing_samples)
OUTPUT=(--ckpt.output_dir "$OUT/leader_0" --ckpt.path "$OUT/ckpt/sft" --ckpt.load_enable --ckpt.save_steps 50
  --ckpt.max_num 1 --logger.tensorboard_dir "$OUT/tensorboard/sft" --logger.wandb.run_name "sft_$TASK")

run deepspeed --num_gpus "$GPUS" --module openrlhf.cli.train_sft \
  "${MODEL[@]}" "${DATA[@]}" "${UPDATE[@]}" "${DEEPSPEED[@]}" "${OUTPUT[@]}"
