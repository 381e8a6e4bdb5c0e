#!/usr/bin/env bash
# The whole of MLPO on a laptop without a GPU: questions, team, pool, warm start, MLPO, evaluation, report.
#
#   bash recipes/quickstart_cpu.sh              # some 10 minutes on 2 cores, after a set-up of 5 minutes the first time
#   bash recipes/quickstart_cpu.sh --smoke      # the same path in a few steps; its accuracies mean nothing
#   bash recipes/quickstart_cpu.sh --seed 1 --dir runs/seed1
#   bash recipes/quickstart_cpu.sh --ablations  # also MLPO without SFT: some 4 minutes more
#   bash recipes/quickstart_cpu.sh --dry-run    # prints the commands
#   REAL_ROWS=bbh.jsonl bash recipes/quickstart_cpu.sh  # also on real BBH rows (JSON Lines: task, input, target)
#
# Watch: "reward" beside the mlpo bar, the share of the leader's answers that are right. Expect: DIR/report/report.md, with
# the leader and its team above majority vote, the best agent and the untrained leader in the first round. Stopped, the
# same command goes on after the last finished stage. A stage whose command has changed stops with an error: take another
# --dir.
#
# Hardware: 2 cores, 8 GB of memory, 5 GB of disk. Real vLLM, Ray and DeepSpeed throughout; nothing is downloaded but
# packages.
#
# Deviations from the paper (arXiv 2507.08960):
#   1. Models of 0.1 to 0.3 million parameters trained here, on generated questions in the form of three BBH tasks.
#   2. The leader first learns to speak from made-up rows (recipes/quickstart/leader_data.py), as an instruct model of
#      that size does not exist; its warm start is then built from its own outputs, as in the GPU recipes.
#   3. A share of the training prompts is solo (--mlpo.solo_fraction), so that a leader this small stays able to work
#      alone; the paper does not say whether it does the same.
#   4. Learning rate, group size and batch sizes are ours. Leaders are evaluated as they are trained, sampling at
#      temperature 1.
set -euo pipefail
SEED=0 DIR="" SMOKE=0 ABLATIONS=0
option() { # sets taken, see common.sh
  taken=1
  case $1 in
    --seed) [[ ${2-} =~ ^[0-9]+$ ]] || fail "--seed takes a number"; SEED=$2 taken=2 ;;
    --dir) [[ -n ${2-} ]] || fail "--dir takes a folder"; DIR=$2 taken=2 ;;
    --smoke) SMOKE=1 ;;
    --ablations) ABLATIONS=1 ;;
    *) taken=0 ;;
  esac
}
. "$(dirname "$0")/common.sh"
DIR=${DIR:-runs/quickstart$( ((SMOKE)) && echo _smoke || true)}

if ((SMOKE)); then
  N_TRAIN=96 N_TEST=60 AGENT_ROWS=640 BASE_ROWS=1280 SFT_ROWS=128 SFT_BATCH=4 SFT_EPOCHS=1
  EPISODES=1 ROLLOUT_PROMPTS=32 GROUP=4 ROUNDS=2 SAMPLES=2 UNSEEN_TEST=20 UNSEEN_MODELS=(4 5) UNSEEN_SIZES=(1 3)
else
  N_TRAIN=${N_TRAIN:-1000} N_TEST=${N_TEST:-600} AGENT_ROWS=${AGENT_ROWS:-9600} BASE_ROWS=${BASE_ROWS:-9600}
  SFT_ROWS=${SFT_ROWS:-3200} SFT_BATCH=16 SFT_EPOCHS=2 EPISODES=${EPISODES:-2} ROLLOUT_PROMPTS=32 GROUP=8
  ROUNDS=3 SAMPLES=4 UNSEEN_TEST=150 UNSEEN_MODELS=(4 5 6 7) UNSEEN_SIZES=(1 3 5 8)
fi
REAL_ROWS=${REAL_ROWS:-}
MAX_LEN=448 MAX_NEW_TOKENS=80

PY=.venv/bin/python
[[ -n $DRY_RUN ]] || bash recipes/setup_cpu.sh
export OPENRLHF_MLPO_CPU=1 HF_HUB_OFFLINE=1
Q=recipes/quickstart
[[ -n $DRY_RUN ]] || mkdir -p "$DIR"
agents() { # rows to learn from, agents: sets AGENTS to the commands that train them, --and between
  local rows=$1 agent
  AGENTS=()
  for agent in "${@:2}"; do
    AGENTS+=(${AGENTS[0]+--and} bash "$Q/agent.sh" "$DIR" "$rows" "$MAX_LEN" "$SEED" "$agent")
  done
}

# Questions: the team learns from one split, the leader from another, and neither sees the test.
stage train-questions $PY $Q/questions.py --split train --n "$N_TRAIN" --seed "$SEED" --out "$DIR/train.jsonl"
stage test-questions $PY $Q/questions.py --split test --n "$N_TEST" --seed "$SEED" --out "$DIR/test.jsonl"
stage models $PY $Q/models.py --out "$DIR/models" --agents 7 --seed "$SEED"

# A team of three, each taught another mixture of the tasks; frozen from here on.
agents "$AGENT_ROWS" 1 2 3
stage agents "${AGENTS[@]}"
if [[ -z $DRY_RUN ]]; then
  cat > "$DIR/team.yaml" <<EOF
defaults:
  engine: vllm
  sampling: {temperature: 1.0, max_tokens: $MAX_NEW_TOKENS}
  engine_args: {max_model_len: $MAX_LEN}
agents:
  - {name: agent_1, model: $DIR/agents/agent_1}
  - {name: agent_2, model: $DIR/agents/agent_2}
  - {name: agent_3, model: $DIR/agents/agent_3}
EOF
  {
    sed '/^agents:/q' "$DIR/team.yaml"
    for agent in "${UNSEEN_MODELS[@]}"; do echo "  - {name: agent_$agent, model: $DIR/agents/agent_$agent}"; done
    for agent in "${UNSEEN_MODELS[@]}"; do
      echo "  - {name: agent_${agent}_cool, model: $DIR/agents/agent_$agent, sampling: {temperature: 0.5}}"
    done
  } > "$DIR/team_unseen.yaml"
fi
stage pool $PY -m openrlhf_mlpo.cli.sample_team --questions "$DIR/train.jsonl" --task bbh --team "$DIR/team.yaml" \
  --samples "$SAMPLES" --template compact --seed "$SEED" --out "$DIR/pool"

# The leader learns to speak: the output form, to follow some agent, to work alone. Then its warm start: traces that turn
# back, composed from its own right and wrong outputs, and OpenRLHF's SFT on them.
sft() { # name, model, data, batch size, learning rate, epochs: sets COMMAND
  COMMAND=("$PY" -m openrlhf_mlpo.cli.run_openrlhf openrlhf.cli.train_sft
    --model.model_name_or_path "$2" --ckpt.output_dir "$DIR/leaders/$1" --ckpt.path "$DIR/ckpt/$1"
    --data.dataset "$3" --data.input_key input --data.output_key output --data.input_template "{}"
    --data.max_len "$MAX_LEN" --ds.zero_stage 0 --train.max_epochs "$6" --train.batch_size "$4"
    --train.micro_batch_size "$4" --adam.lr "$5" --train.seed $((SEED + 1)))
}
stage base-data $PY $Q/leader_data.py --pool "$DIR/pool" --model "$DIR/models/leader" --n "$BASE_ROWS" --seed "$SEED" \
  --max_prompt_tokens $((MAX_LEN - MAX_NEW_TOKENS)) --out "$DIR/base.jsonl"
sft base "$DIR/models/leader" "$DIR/base.jsonl" 16 4e-3 1
# Meanwhile, on the other core, half of a team that the leader never sees in training, taught a third as long; the other
# half while the leader learns again.
half=$((${#UNSEEN_MODELS[@]} / 2))
agents $((AGENT_ROWS / 3)) "${UNSEEN_MODELS[@]:0:half}"
stage base+agents "${COMMAND[@]}" --and "${AGENTS[@]}"
stage sft-data $PY -m openrlhf_mlpo.cli.build_sft --pool "$DIR/pool" --leader "$DIR/leaders/base" --out "$DIR/sft" \
  --template compact --phrases $Q/phrases.yaml --draws 3 --samples "$SAMPLES" --solo_fraction 0.4 --n "$SFT_ROWS" \
  --max_len "$MAX_LEN" --max_new_tokens "$MAX_NEW_TOKENS" --seed "$SEED"
sft sft "$DIR/leaders/base" "$DIR/sft/train.jsonl" "$SFT_BATCH" 2e-3 "$SFT_EPOCHS"
agents $((AGENT_ROWS / 3)) "${UNSEEN_MODELS[@]:half}"
stage sft+agents "${COMMAND[@]}" --and "${AGENTS[@]}"

# MLPO, and plain GRPO without a team on the same questions, number of rollouts, objective and settings.
train() { # name, leader to start from, solo fraction: sets COMMAND
  local name=$1 start=$2 solo=$3
  # The pool and prompts; the rest are OpenRLHF's own flags.
  MLPO=(--mlpo.pool "$DIR/pool" --mlpo.template compact --mlpo.solo_fraction "$solo" --mlpo.loss_norm constant)
  MODEL=(--actor.model_name_or_path "$DIR/leaders/$start" --reward.remote_url reward_fns/auto_reward.py)
  LENGTHS=(--data.max_len "$MAX_LEN" --rollout.max_new_tokens "$MAX_NEW_TOKENS")
  ROLLOUT=(--vllm.num_engines 1 --vllm.enable_prefix_caching --rollout.batch_size "$ROLLOUT_PROMPTS"
    --rollout.n_samples_per_prompt "$GROUP" --rollout.micro_batch_size 128)
  UPDATE=(--train.batch_size $((ROLLOUT_PROMPTS * GROUP)) --train.micro_batch_size 128 --train.num_episodes "$EPISODES"
    --actor.adam.lr 5e-4 --algo.kl.init_coef 0 --ds.zero_stage 0 --train.seed $((SEED + 1)))
  OUTPUT=(--ckpt.output_dir "$DIR/leaders/$name" --ckpt.path "$DIR/ckpt/$name" --logger.tensorboard_dir "$DIR/tensorboard/$name"
    --logger.wandb.run_name "$name")
  COMMAND=("$PY" -m openrlhf_mlpo.cli.train_mlpo_ray "${MLPO[@]}" "${MODEL[@]}" "${LENGTHS[@]}" "${ROLLOUT[@]}"
    "${UPDATE[@]}" "${OUTPUT[@]}")
}
train mlpo sft 0.4
MLPO_RUN=("${COMMAND[@]}")
train grpo sft 1.0
stage mlpo+grpo "${MLPO_RUN[@]}" --and "${COMMAND[@]}"
LEADERS=(--leader mlpo="$DIR/leaders/mlpo" --leader untrained="$DIR/leaders/sft")
OTHERS=(--leader base="$DIR/leaders/base" --leader grpo="$DIR/leaders/grpo")
if ((ABLATIONS)); then
  train mlpo_no_sft base 0.4
  stage mlpo_no_sft "${COMMAND[@]}"
  OTHERS+=(--leader mlpo_no_sft="$DIR/leaders/mlpo_no_sft")
fi

# 'untrained' is the leader after SFT, before MLPO; 'base' the one before SFT.
EVALUATE=("$PY" eval/evaluate.py --task bbh --template compact --max_new_tokens "$MAX_NEW_TOKENS" --temperature 1
  --seed "$SEED")
TEST=("${EVALUATE[@]}" "${LEADERS[@]}" "${OTHERS[@]}" --team "$DIR/team.yaml" --questions "$DIR/test.jsonl"
  --rounds "$ROUNDS" --methods "leader_team,leader_solo,agent,majority_vote,best_agent,oracle" --out "$DIR/eval")

# The team that the leader never saw, of 1, 3, 5 and 8 agents: four models, each at two temperatures.
sizes=$(IFS=,; echo "${UNSEEN_SIZES[*]}")
TEST_UNSEEN=("${EVALUATE[@]}" "${LEADERS[@]}" --team "$DIR/team_unseen.yaml" --questions "$DIR/test.jsonl"
  --limit "$UNSEEN_TEST" --rounds 2 --methods "leader_team,agent,majority_vote,best_agent,oracle" --team_size "$sizes"
  --label "unseen team" --out "$DIR/eval_unseen")
EVALUATIONS=("${TEST[@]}" --and "${TEST_UNSEEN[@]}")

# The same leader on real rows of the same tasks, where a file of them is named.
if [[ -n $REAL_ROWS ]]; then
  stage real-rows $PY $Q/real_rows.py --rows "$REAL_ROWS" --out "$DIR/real.jsonl"
  TEST_REAL=("${EVALUATE[@]}" "${LEADERS[@]}" --team "$DIR/team.yaml" --questions "$DIR/real.jsonl"
    --rounds "$ROUNDS" --drop_long --methods "leader_team,leader_solo,agent,majority_vote,best_agent,oracle"
    --label "real BBH rows" --out "$DIR/eval_real")
  EVALUATIONS+=(--and "${TEST_REAL[@]}")
fi
# At once, to save a minute and a half: seconds per question in the report are those of a busy machine.
stage evaluate "${EVALUATIONS[@]}"

REPORTS=("$DIR/eval")
for k in "${UNSEEN_SIZES[@]}"; do REPORTS+=("$DIR/eval_unseen/k$k"); done
stage report $PY eval/report.py "${REPORTS[@]}" --training "$DIR/tensorboard" --out "$DIR/report"
[[ -n $DRY_RUN ]] || $PY $Q/summary.py --dir "$DIR"
