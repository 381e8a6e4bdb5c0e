#!/usr/bin/env bash
# Serve a trained leader with its team behind one OpenAI-compatible endpoint.
#
#   SERVE_GPUS="1 2 3" bash recipes/serve_team.sh &       # the agents, each on GPUs of its own; or endpoints you have
#   CUDA_VISIBLE_DEVICES=0 TASK=math bash recipes/serve.sh # the leader here, in this process, until Ctrl-C
#   TASK=math bash recipes/serve.sh --dry-run             # the command, judged by its own parser
#
# Settings (environment): TASK (in which form answers are compared), OUT=runs/TASK, SERVE_LEADER=OUT/mlpo/model (a folder, or
# openai:NAME with its address in SERVE_ENGINE), TEAM_ENDPOINTS=runs/team_endpoints.yaml (a team file), ROUNDS=5,
# SERVE_HOST=127.0.0.1, SERVE_PORT=8000, SERVE_KEY_ENV (the variable that holds the clients' key; needed where
# SERVE_HOST is not this machine), SERVE_ENGINE (engine arguments of the leader), NEW_TOKENS, MAX_LEN.
#
# See docs/serving.md for clients, limits and metrics.
#
# Hardware: a GPU with 24 GB for a leader of 7 billion parameters, beside those of the team.
#
# Deviations from the paper (arXiv 2507.08960): it serves nothing; rounds end early once the leader's answer repeats.
set -euo pipefail
. "$(dirname "$0")/common.sh"

ENGINE=${SERVE_ENGINE:-"{\"max_model_len\": $CONTEXT, \"enable_prefix_caching\": true}"}
SERVE=(python3 -m openrlhf_mlpo.cli.serve --leader "$(path "${SERVE_LEADER:-$OUT/mlpo/model}")"
  --team "$(realpath -m "${TEAM_ENDPOINTS:-runs/team_endpoints.yaml}")" --rounds "${ROUNDS:-5}" --task "$TASK"
  --max_new_tokens "$NEW_TOKENS" --engine_args "$ENGINE" --host "${SERVE_HOST:-127.0.0.1}"
  --port "${SERVE_PORT:-8000}" --seed "$SEED")
[[ -z ${SERVE_KEY_ENV-} ]] || SERVE+=(--api_key_env "$SERVE_KEY_ENV")
run "${SERVE[@]}"
