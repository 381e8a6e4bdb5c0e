#!/usr/bin/env bash
# Train the leader with MLPO on the pool: one draw of the team's responses per prompt, 8 outputs, Dr. GRPO advantages.
#
#   ray start --head                                          # once, and `ray start --address HEAD:6379` on other nodes
#   TASK=math bash recipes/train_mlpo.sh                      # writes OUT/mlpo/model; TensorBoard in OUT/tensorboard
#   TASK=math VARIANT=separate,dynamic bash recipes/train_mlpo.sh --dry-run
#
# VARIANT, one layout and any of the options, with commas:
#   hybrid     (default) training and vLLM take turns on all GPUs: --train.colocate_all, both sleep while the other works
#   separate   half of each node's GPUs train, as many vLLM engines run on the others
#   async      separate, and the next batch is sampled while this one is trained on; corrected by importance sampling
#   dynamic    micro batches by number of tokens instead of samples
#   lora       adapters of rank LORA_RANK=64 on all linear layers instead of all weights, at 10 times the learning rate, with
#              ZeRO-2; they are merged into OUT/mlpo/model in the end
# Several nodes: NODES=2 (recipes/slurm.sh starts Ray on them).
#
# ROUNDS=2 or more trains on later rounds too: the team revises meanwhile, behind the endpoints of TEAM_ENDPOINTS (a team
# file, such as recipes/serve_team.sh writes), else as TEAM says, on GPUs of this Ray cluster beside those of GPUS. Prompts
# may then be NEW_TOKENS longer. LATER_SHARE and CARRY: see --mlpo.later_share and --mlpo.carry.
#
# Settings (environment): TASK, LEADER_0=OUT/leader_0 (OUT from recipes/sft.sh), NAME=mlpo, SOLO_FRACTION=0.1, LR=1e-6,
# EPISODES (recipes/tasks), ROLLOUT_PROMPTS=64, GROUP=8, KL=0, REWARD=reward_fns/auto_reward.py
# (a file, or addresses of reward servers with commas between them), MLPO_FORMAT_WEIGHT=0, OUT, NODES, GPUS, SEED,
# MAX_LEN, NEW_TOKENS, TEAM, ROUNDS=1, TEAM_ENDPOINTS, LATER_SHARE, CARRY, MICRO_BATCH=4. Stopped, the same
# command goes on from the last checkpoint.
#
# Watch: mlpo/accuracy_team, mlpo/accuracy_solo and mlpo/overrides_wrong_majority rise.
#
# Hardware: 8 GPUs with 80 GB and 512 GB of host memory. Expected per GPU, 7.6 billion parameters with ZeRO-3: 15 GB of
# weights, gradients and optimizer (31 GB in `separate`), some 23 GB for logits and activations of 4 outputs and the prompt
# that they share (models of a family that cannot share it need MICRO_BATCH=1: see --mlpo.share_prompt); vLLM takes 48 GB while
# it is awake. Each checkpoint is 107 GB. `python3 -m openrlhf_mlpo.cli.doctor recipes/train_mlpo.sh` compares this with
# your machine.
#
# Deviations from the paper (arXiv 2507.08960):
#   1. Learning rate, group size G, batch sizes and number of steps are not stated there; ours.
#   2. A tenth of the prompts is solo, so that the leader stays able to work alone.
#   3. No KL term (KL=1e-3 adds one with a reference model).
set -euo pipefail
. "$(dirname "$0")/common.sh"

NAME=${NAME:-mlpo}
SOLO_FRACTION=${SOLO_FRACTION:-0.1}
LEADER_0=$(path "${LEADER_0:-$OUT/leader_0}")
GROUP=${GROUP:-8} ROLLOUT_PROMPTS=${ROLLOUT_PROMPTS:-64} ROUNDS=${ROUNDS:-1}

MLPO=(--mlpo.pool "$OUT/pool" --mlpo.solo_fraction "$SOLO_FRACTION" --mlpo.drop_correct 0.75 --mlpo.loss_norm constant)
if [[ $ROUNDS != 1 ]]; then
  MLPO+=(--mlpo.rounds "$ROUNDS" --mlpo.team "$(realpath -m "${TEAM_ENDPOINTS:-$TEAM}")")
  MAX_LEN=$CONTEXT # as in the evaluation: a prompt of a later round holds the leader's last output too
fi
[[ -z ${LATER_SHARE-} ]] || MLPO+=(--mlpo.later_share "$LATER_SHARE")
[[ -z ${CARRY-} ]] || MLPO+=(--mlpo.carry "$CARRY")
MODEL=(--actor.model_name_or_path "$LEADER_0" --reward.remote_url "$REWARD" --actor.gradient_checkpointing_enable)
LENGTHS=(--data.max_len "$MAX_LEN" --rollout.max_new_tokens "$NEW_TOKENS")
ROLLOUT=(--rollout.batch_size "$ROLLOUT_PROMPTS" --rollout.n_samples_per_prompt "$GROUP" --rollout.micro_batch_size "$((2 * ${MICRO_BATCH:-4}))"
  --rollout.temperature 1.0 --vllm.enable_prefix_caching --vllm.tensor_parallel_size 1 --vllm.sync_backend nccl)
# Two optimizer steps per rollout batch: the second is what the clipping is for.
UPDATE=(--train.batch_size $((ROLLOUT_PROMPTS * GROUP / 2)) --train.micro_batch_size "${MICRO_BATCH:-4}" --train.max_epochs 1
  --train.num_episodes "$EPISODES" --actor.eps_clip 0.2
  --algo.kl.init_coef "${KL:-0}" --train.seed "$SEED")
DEEPSPEED=(--ds.param_dtype bf16 --ds.packing_samples)
OUTPUT=(--ckpt.path "$OUT/ckpt/$NAME" --ckpt.load_enable --ckpt.save_steps 20
  --ckpt.max_num 1 --logger.tensorboard_dir "$OUT/tensorboard/$NAME" --logger.wandb.run_name "${NAME}_$TASK")

layout=hybrid lora=""
options=()
for variant in $(tr , ' ' <<<"${VARIANT:-hybrid}"); do
  case $variant in
    hybrid | separate | async) layout=$variant ;;
    dynamic)
      options+=(--train.dynamic_batch_enable --train.max_tokens_per_gpu $((2 * MAX_LEN))
        --rollout.max_tokens_per_gpu $((4 * MAX_LEN))) ;;
    lora) lora=1 ;;
    *) fail "VARIANT=$variant: choose from hybrid, separate, async, dynamic, lora" ;;
  esac
done
if [[ -n $lora ]]; then
  options+=(--ds.lora.rank "${LORA_RANK:-64}" --ds.lora.alpha "${LORA_RANK:-64}" --ds.zero_stage 2
    --actor.adam.lr "${LR:-1e-5}" --ckpt.output_dir "$OUT/$NAME/adapter")
else
  options+=(--ds.zero_stage 3 --actor.adam.lr "${LR:-1e-6}" --ckpt.output_dir "$OUT/$NAME/model")
fi
if [[ $layout == hybrid ]]; then
  LAYOUT=(--train.colocate_all --vllm.enable_sleep --ds.enable_sleep --vllm.gpu_memory_utilization 0.6)
  trainers=$GPUS engines=$((NODES * GPUS))
else
  ((GPUS % 2 == 0)) || fail "GPUS=$GPUS: VARIANT=$layout gives half of them to training; use an even number"
  LAYOUT=(--train.colocate_actor_ref --vllm.gpu_memory_utilization 0.9)
  trainers=$((GPUS / 2)) engines=$((NODES * GPUS / 2))
fi
LAYOUT+=(--vllm.num_engines "$engines" --actor.num_nodes "$NODES" --actor.num_gpus_per_node "$trainers"
  --ref.num_nodes "$NODES" --ref.num_gpus_per_node "$trainers")
if [[ $layout == async ]]; then
  # The policy that sampled is one batch older than the one that is trained: token-wise importance weights, cut at 2.
  LAYOUT+=(--train.async_enable --train.async_queue_size 1 --algo.advantage.is_correction_level token
    --algo.advantage.is_correction_mode clip --algo.advantage.is_correction_threshold 0 2)
fi

job python3 -m openrlhf_mlpo.cli.train_mlpo_ray "${MLPO[@]}" "${MODEL[@]}" "${LENGTHS[@]}" "${ROLLOUT[@]}" \
  "${UPDATE[@]}" "${DEEPSPEED[@]}" "${LAYOUT[@]}" "${options[@]}" "${OUTPUT[@]}"
if [[ -n $lora ]]; then
  run python3 -m openrlhf.cli.lora_combiner --model_path "$LEADER_0" --lora_path "$OUT/$NAME/adapter" \
    --output_path "$OUT/$NAME/model"
fi
