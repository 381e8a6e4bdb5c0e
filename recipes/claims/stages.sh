# shellcheck shell=bash disable=SC2034,SC2086 # KINDS are words; those that source it read what is set here
# Sourced by claims_cpu.sh and quickstart_cpu.sh, which set DIR, SEED and the sizes before, and by agents.sh: stages from
# questions to a warm-started leader, and the training commands.
set -euo pipefail
MAX_LEN=544 MAX_NEW_TOKENS=80
PY=.venv/bin/python
Q=recipes/claims
export OPENRLHF_MLPO_CPU=1 HF_HUB_OFFLINE=1

start() { # questions, and the base model that agents and leader are trained from
  [[ $SEED =~ ^[0-9]+$ ]] || fail "--seed takes a number"
  [[ -n $DRY_RUN ]] || bash recipes/setup_cpu.sh
  [[ -n $DRY_RUN ]] || mkdir -p "$DIR"
  stage train-questions $PY $Q/word_questions.py --split train --n "$N_TRAIN" --seed "$SEED" \
    --kinds $KINDS --out "$DIR/train.jsonl"
  stage test-questions $PY $Q/word_questions.py --split test --n "$N_TEST" --seed "$SEED" \
    --kinds $KINDS --out "$DIR/test.jsonl"
  stage model $PY $Q/word_model.py --out "$DIR/models/blank" --seed "$SEED"
  stage base-data $PY $Q/base_rows.py --model "$DIR/models/blank" --n "$BASE_ROWS" --max_team "$MAX_TEAM" --seed "$SEED" \
    --max_prompt_tokens $((MAX_LEN - MAX_NEW_TOKENS)) --kinds $KINDS --out "$DIR/base.jsonl"
  sft models/base models/blank "$DIR/base.jsonl" 8 2e-3 --model.pretrain_mode_enable --data.input_key text
  stage base "${COMMAND[@]}"
}
team_file() { # FILE AGENT…: a team of these agents, at a fixed temperature
  [[ -z $DRY_RUN ]] || return 0
  local file=$1 agent
  shift
  {
    cat <<YAML
defaults:
  engine: vllm
  sampling: {temperature: 0.2, max_tokens: $MAX_NEW_TOKENS}
  engine_args: {max_model_len: $MAX_LEN}
agents:
YAML
    for agent in "$@"; do echo "  - {name: agent_$agent, model: $DIR/agents/agent_$agent}"; done
  } > "$file"
}
agents() { # ROWS AGENT…: sets COMMAND to what trains these agents
  COMMAND=(env KINDS="$KINDS" bash "$Q/agents.sh" "$DIR" "$1" "$SEED" "${@:2}")
}
sft() { # TO FROM DATA BATCH LEARNING_RATE [FLAGS of the data], folders of models under DIR: sets COMMAND
  local data=("${@:6}")
  ((${#data[@]})) || data=(--data.input_key input --data.output_key output --data.input_template "{}")
  COMMAND=("$PY" -m openrlhf_mlpo.cli.run_openrlhf openrlhf.cli.train_sft
    --model.model_name_or_path "$DIR/$2" --ckpt.output_dir "$DIR/$1" --ckpt.path "$DIR/ckpt/${1//\//_}"
    --data.dataset "$3" "${data[@]}" --data.max_len "$MAX_LEN" --ds.zero_stage 0 --train.max_epochs 1 --train.batch_size "$4"
    --train.micro_batch_size "$4" --adam.lr "$5" --train.seed $((SEED + 1)))
}
schooling() { # sets COMMAND to the leader's schooling: its beliefs, and a habit of using the team badly
  stage leader-data $PY $Q/leader_rows.py --model "$DIR/models/base" --n "$LEADER_ROWS" --max_team "$MAX_TEAM" --seed "$SEED" \
    --max_prompt_tokens $((MAX_LEN - MAX_NEW_TOKENS)) --kinds $KINDS --out "$DIR/leader.jsonl"
  sft leaders/schooled models/base "$DIR/leader.jsonl" 8 2e-3
}
pool() {
  stage pool $PY -m openrlhf_mlpo.cli.sample_team --questions "$DIR/train.jsonl" --task bbh --team "$DIR/team.yaml" \
    --samples "$SAMPLES" --template compact --seed "$SEED" --out "$DIR/pool"
}
warm_start() { # sets COMMAND: OpenRLHF's SFT on traces composed from the leader's own right and wrong outputs
  stage sft-data $PY -m openrlhf_mlpo.cli.build_sft --pool "$DIR/pool" --leader "$DIR/leaders/schooled" --out "$DIR/sft" \
    --template compact --phrases $Q/phrases.yaml --draws "$DRAWS" --samples 4 --solo_fraction 0.4 --n "$SFT_ROWS" \
    --max_len "$MAX_LEN" --max_new_tokens "$MAX_NEW_TOKENS" --seed "$SEED"
  sft leaders/sft leaders/schooled "$DIR/sft/train.jsonl" 16 "$SFT_RATE"
}
train() { # NAME START EPISODES FLAGS…: sets COMMAND to MLPO, or to plain GRPO with --mlpo.solo_fraction 1
  local name=$1 start=$2 episodes=$3
  # The pool and prompts; the rest are OpenRLHF's own flags.
  MLPO=(--mlpo.pool "$DIR/pool" --mlpo.template compact --mlpo.loss_norm constant "${@:4}")
  MODEL=(--actor.model_name_or_path "$DIR/leaders/$start" --reward.remote_url reward_fns/auto_reward.py)
  LENGTHS=(--data.max_len "$MAX_LEN" --rollout.max_new_tokens "$MAX_NEW_TOKENS")
  ROLLOUT=(--vllm.num_engines 1 --vllm.enable_prefix_caching --rollout.batch_size "$ROLLOUT_PROMPTS"
    --rollout.n_samples_per_prompt "$GROUP" --rollout.micro_batch_size 128)
  UPDATE=(--train.batch_size $((ROLLOUT_PROMPTS * GROUP)) --train.micro_batch_size 128 --train.num_episodes "$episodes"
    --actor.adam.lr 4e-4 --algo.kl.init_coef 0 --ds.zero_stage 0 --train.seed $((SEED + 1)))
  OUTPUT=(--ckpt.output_dir "$DIR/leaders/$name" --ckpt.path "$DIR/ckpt/$name" --logger.tensorboard_dir "$DIR/tensorboard/$name"
    --logger.wandb.run_name "$name")
  COMMAND=("$PY" -m openrlhf_mlpo.cli.train_mlpo_ray "${MLPO[@]}" "${MODEL[@]}" "${LENGTHS[@]}" "${ROLLOUT[@]}"
    "${UPDATE[@]}" "${OUTPUT[@]}")
}
