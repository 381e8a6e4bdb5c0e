#!/usr/bin/env bash
# Let the team of three answer every training question four times and store the verified responses as a pool.
#
#   ray start --head                               # once
#   TASK=math bash recipes/sample_team.sh          # math, bbh or mmlu; writes OUT/pool (default runs/TASK)
#   TASK=math bash recipes/sample_team.sh --dry-run
#   TASK=exact TRAIN_DATA=mine.jsonl COLUMNS=question=prompt,answer=gold bash recipes/sample_team.sh    # your own
#
# Settings (environment): TASK, TRAIN_DATA and TRAIN_SPLIT (recipes/tasks), COLUMNS, TEAM (recipes/team_paper.yaml),
# SAMPLES=4, OUT, SEED, LIMIT. API keys: OPENAI_API_KEY, HF_TOKEN, WANDB_API_KEY, those that the team file names
# (api_key_env) and those of KEYS="NAME NAME" reach the Ray job; only their names are printed. Stopped, the same command
# goes on.
#
# Hardware: any number of GPUs with 40 GB; one engine each (`actors` in the team file). The largest agent takes 18.5 GB in
# bf16, the rest of a GPU is KV cache. Llama and Gemma are gated: accept their licences and log in to the hub.
#
# Deviations from the paper (arXiv 2507.08960): sampling temperature 0.7 and 2,048 tokens a response are ours.
set -euo pipefail
. "$(dirname "$0")/common.sh"

QUESTIONS=(--questions "$TRAIN_DATA" --task "$TASK" --max-questions "$LIMIT" --skip-bad-rows
  "${COLUMN_NAMES[@]}")
[[ -z $TRAIN_SPLIT ]] || QUESTIONS+=(--split "$TRAIN_SPLIT")
SAMPLING=(--team "$TEAM" --samples "${SAMPLES:-4}" --seed "$SEED")

job python3 -m openrlhf_mlpo.cli.sample_team "${QUESTIONS[@]}" "${SAMPLING[@]}" --out "$OUT/pool"
