#!/usr/bin/env bash
# Sourced by the GPU recipes: settings they share, --help and --dry-run. Every setting is an environment variable.
set -euo pipefail
RECIPE=${RECIPE:-recipes/$(basename "$0")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD

fail() { echo "error: $RECIPE: $*" >&2; exit 2; }
# Python, ray and deepspeed come from the environment that is active, else from the one that recipes/setup_cpu.sh makes.
python3 -c 'import importlib.util as u, sys; sys.exit(u.find_spec("openrlhf") is None)' 2>/dev/null ||
  PATH=$ROOT/.venv/bin:$PATH
# A machine without a GPU is a mistake here, not a reason to fall back to the CPU runtime.
export OPENRLHF_MLPO_CPU=${OPENRLHF_MLPO_CPU:-0}
# DRY_RUN=print: write the commands and do nothing. --dry-run also has them checked.
export DRY_RUN=${DRY_RUN:-}

while (($#)); do
  case $1 in
    --dry-run)
      if [[ $DRY_RUN != print ]]; then
        commands=$(DRY_RUN=print bash "$RECIPE") || exit
        exec python3 -m openrlhf_mlpo.cli.dry_run --recipe "$RECIPE" <<<"$commands"
      fi ;;
    -h | --help) sed -n '2,/^set -euo/p' "$RECIPE" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
    *) fail "unknown option $1; the options are --dry-run and --help, settings are environment variables" ;;
  esac
  shift
done

TASK=${TASK:-math}
[[ -f recipes/tasks/$TASK.sh ]] || fail "TASK=$TASK: choose from $(cd recipes/tasks && echo *.sh | sed 's/\.sh//g')"
. "recipes/tasks/$TASK.sh"

# A Ray job does not start in this folder, so every path is made absolute; names of the hub stay as they are.
path() { if [[ -e $1 || $1 == /* || $1 == ./* || $1 == ../* ]]; then realpath -m "$1"; else echo "$1"; fi; }
LEADER=$(path "${LEADER:-Qwen/Qwen2.5-7B-Instruct}")
TEAM=$(realpath -m "${TEAM:-recipes/team_paper.yaml}")
OUT=$(realpath -m "${OUT:-runs/$TASK}")
REWARD=$(realpath -m "${REWARD:-reward_fns/auto_reward.py}")
TRAIN_DATA=$(path "$TRAIN_DATA") TEST_DATA=$(path "$TEST_DATA")

NODES=${NODES:-1} # machines
GPUS=${GPUS:-8}   # on each
SEED=${SEED:-0}
LIMIT=${LIMIT:-0} # only so many questions, for a trial; 0: all
# Tokens. A leader's training prompt holds a question and 3 responses of 2,048 (recipes/team_paper.yaml); in rounds after
# the first also its own last output. MAX_LEN counts prompt and output, as --data.max_len does.
NEW_TOKENS=${NEW_TOKENS:-2048}
MAX_LEN=${MAX_LEN:-10240}
CONTEXT=$((MAX_LEN + NEW_TOKENS))
LEADER_ENGINE=${LEADER_ENGINE:-"{\"actors\": $((NODES * GPUS)), \"max_model_len\": $CONTEXT, \"enable_prefix_caching\": true}"}

RAY_JOBS=${RAY_JOBS:-http://127.0.0.1:8265}
RUNTIME_ENV=${RUNTIME_ENV:-"{\"env_vars\": {\"OPENRLHF_MLPO_CPU\": \"$OPENRLHF_MLPO_CPU\", \"MLPO_FORMAT_WEIGHT\": \"${MLPO_FORMAT_WEIGHT:-0}\"}}"}

run() { # COMMAND …: print it, and run it unless this is a dry run
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
  [[ -n $DRY_RUN ]] || "$@"
}
job() { run ray job submit --address="$RAY_JOBS" --runtime-env-json="$RUNTIME_ENV" -- "$@"; }
