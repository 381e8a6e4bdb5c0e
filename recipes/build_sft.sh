#!/usr/bin/env bash
# Build the leader's warm-start data from its own outputs over the pool: traces that doubt, go back and end right.
#
#   TASK=math bash recipes/build_sft.sh [--dry-run]    # after recipes/sample_team.sh; writes OUT/sft
#
# Settings (environment): TASK, LEADER=Qwen/Qwen2.5-7B-Instruct, SFT_SAMPLES=8 outputs a prompt, OUT, SEED, MAX_LEN,
# NEW_TOKENS, LEADER_ENGINE (JSON for the Ray engine). Stopped, the same command goes on.
#
# Hardware: GPUs with 40 GB, one engine each: 15 GB of weights in bf16, the rest is KV cache.
#
# Deviations from the paper (arXiv 2507.08960): it does not state how its traces were made, nor how many there are; ours
# are composed of the leader's own right and wrong outputs. OUT/sft/card.md counts them.
set -euo pipefail
. "$(dirname "$0")/common.sh"

LENGTHS=(--max_len "$MAX_LEN" --max_new_tokens "$NEW_TOKENS")
ENGINE=(--engine ray --engine_args "$LEADER_ENGINE")

job python3 -m openrlhf_mlpo.cli.build_sft --pool "$OUT/pool" --leader "$LEADER" --samples "${SFT_SAMPLES:-8}" \
  --seed "$SEED" "${LENGTHS[@]}" "${ENGINE[@]}" --out "$OUT/sft"
