#!/usr/bin/env bash
# Serve the agents of a team file, one `vllm serve` each on GPUs of its own, and write the team file that asks them.
#
#   SERVE_GPUS="4 5 6" bash recipes/serve_team.sh                          # until Ctrl-C
#   SERVE_GPUS="4,5 6,7 3" bash recipes/serve_team.sh --dry-run            # the commands, judged by vLLM's own parser
#   CUDA_VISIBLE_DEVICES=0,1,2,3 ray start --head                          # meanwhile, on the other GPUs
#   TASK=math ROUNDS=2 TEAM_ENDPOINTS=runs/team_endpoints.yaml GPUS=4 bash recipes/train_mlpo.sh
#
# Agents get the groups of SERVE_GPUS in the order of the team file; a group's GPUs work together (tensor parallelism).
#
# Settings (environment): TEAM=recipes/team_paper.yaml, SERVE_GPUS="0 1 2" (a group for each agent), SERVE_PORT=8100 (the
# first agent's, counted up), TEAM_ENDPOINTS=runs/team_endpoints.yaml (the file to write).
#
# Hardware: for the paper's team a GPU with 32 GB or more for each agent (Gemma does not fit 24 GB; see openrlhf_mlpo.cli.doctor).
#
# Deviations from the paper (arXiv 2507.08960): it has no team in training, so none is served there.
set -euo pipefail
. "$(dirname "$0")/common.sh"

SERVE_GPUS=${SERVE_GPUS:-0 1 2} SERVE_PORT=${SERVE_PORT:-8100}
TEAM_ENDPOINTS=$(realpath -m "${TEAM_ENDPOINTS:-runs/team_endpoints.yaml}")
endpoints=$TEAM_ENDPOINTS
[[ -z $DRY_RUN ]] || endpoints=/dev/null
commands=$(python3 -m openrlhf_mlpo.cli.serve_team --team "$TEAM" --gpus "$SERVE_GPUS" --port "$SERVE_PORT" \
  --endpoints "$endpoints")
echo "$commands"
[[ -z $DRY_RUN ]] || exit 0

trap 'kill 0' EXIT INT TERM
while read -r command; do bash -c "$command" </dev/null & done <<<"$commands"
echo "$TEAM_ENDPOINTS asks these servers; Ctrl-C ends them"
wait -n || true
fail "a server ended; its own words stand above"
