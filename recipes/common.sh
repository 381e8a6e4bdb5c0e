#!/usr/bin/env bash
# Sourced by the recipes: --help, --dry-run and the stage runner; for those that need GPUs also the settings they share.
# Every setting is an environment variable.
set -euo pipefail
shopt -u checkwinsize # it would set COLUMNS to the width of the terminal
RECIPE=${RECIPE:-recipes/$(basename "$0")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
# DRY_RUN=print: write the commands and do nothing. --dry-run also has them checked, but in a recipe for the CPU, whose
# environment may not be there yet.
export DRY_RUN=${DRY_RUN:-}
# Python, ray and deepspeed come from the environment that is active, else from the one that recipes/setup_cpu.sh makes.
python3 -c 'import importlib.util as u, sys; sys.exit(u.find_spec("openrlhf") is None)' 2>/dev/null ||
  PATH=$ROOT/.venv/bin:$PATH

fail() { echo "error: $RECIPE: $*" >&2; exit 2; }
show() { # COMMAND…: print it as it can be typed
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}
run() { # COMMAND…: print it, and run it unless this is a dry run
  show "$@"
  [[ -n $DRY_RUN ]] || "$@"
}
stage() { # NAME COMMAND… [--and COMMAND…]: run what is not done yet (recipes/stage.py, in DIR), or print it
  local name=$1 word words=()
  shift
  if [[ -z $DRY_RUN ]]; then "${PY:-python3}" recipes/stage.py --dir "${DIR:?}" --name "$name" -- "$@"; return; fi
  for word in "$@" --and; do
    if [[ $word == --and ]]; then show "${words[@]}"; words=(); else words+=("$word"); fi
  done
}

# A recipe names options of its own in VALUES and FLAGS: --dir FOLDER sets DIR, --smoke sets SMOKE to 1.
while (($#)); do
  case $1 in
    --dry-run)
      if [[ $RECIPE != *_cpu.sh && $DRY_RUN != print ]]; then
        commands=$(DRY_RUN=print bash "$RECIPE") || exit
        exec python3 -m openrlhf_mlpo.cli.dry_run --recipe "$RECIPE" <<<"$commands"
      fi
      DRY_RUN=print; shift ;;
    -h | --help) sed -n '2,/^set -euo/p' "$RECIPE" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
    *)
      name=${1#--}
      if [[ " ${FLAGS-} " == *" $name "* ]]; then
        printf -v "${name^^}" 1
        shift
      elif [[ " ${VALUES-} " == *" $name "* ]]; then
        [[ -n ${2-} ]] || fail "--$name takes a value"
        printf -v "${name^^}" %s "$2"
        shift 2
      else
        fail "unknown option $1; see --help. Settings are environment variables"
      fi ;;
  esac
done
[[ $RECIPE != *_cpu.sh ]] || return 0

# A machine without a GPU is a mistake here, not a reason to fall back to the CPU runtime.
export OPENRLHF_MLPO_CPU=${OPENRLHF_MLPO_CPU:-0}

TASK=${TASK:-math}
[[ -f recipes/tasks/$TASK.sh ]] || fail "TASK=$TASK: choose from $(cd recipes/tasks && echo *.sh | sed 's/\.sh//g')"
# shellcheck source=recipes/tasks/math.sh
. "recipes/tasks/$TASK.sh"

# A Ray job does not start in this folder, so every path is made absolute; names of the hub stay as they are.
path() { if [[ -e $1 || $1 == /* || $1 == ./* || $1 == ../* ]]; then realpath -m "$1"; else echo "$1"; fi; }
rewards() { # files, made absolute, or addresses, with commas between them
  local item items=() IFS=,
  read -ra items <<<"$1"
  for item in "${!items[@]}"; do
    [[ ${items[item]} == *://* ]] || items[item]=$(realpath -m "${items[item]}")
  done
  echo "${items[*]}"
}
LEADER=$(path "${LEADER:-Qwen/Qwen2.5-7B-Instruct}")
TEAM=$(realpath -m "${TEAM:-recipes/team_paper.yaml}")
OUT=$(realpath -m "${OUT:-runs/$TASK}")
REWARD=$(rewards "${REWARD:-reward_fns/auto_reward.py}")
TRAIN_DATA=$(path "$TRAIN_DATA") TEST_DATA=$(path "$TEST_DATA")
# Names of your columns, as question=prompt,answer=gold; anything else is the width of a terminal.
# shellcheck disable=SC2034
COLUMN_NAMES=()
# shellcheck disable=SC2034
[[ ${COLUMNS-} != *=* ]] || COLUMN_NAMES=(--columns "$COLUMNS")

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

key_names() { # environment variables that are set and hold a key: the usual ones, KEYS, and those that the team names
  local name team=()
  mapfile -t team < <(cat "$TEAM" "${TEAM_ENDPOINTS:-/dev/null}" 2>/dev/null |
    sed -n "s/.*api_key_env: *[\"']\{0,1\}\([A-Za-z_][A-Za-z0-9_]*\).*/\1/p")
  for name in OPENAI_API_KEY HF_TOKEN WANDB_API_KEY ${KEYS-} "${team[@]}"; do
    [[ -z ${!name-} ]] || echo "$name"
  done | sort -u
}
runtime_env() { # names|values NAME…: RUNTIME_ENV with these variables, as $NAME or with what they hold
  python3 -c 'import json, os, sys
env, names = json.loads(sys.argv[1]), sys.argv[3:]
values = {name: os.environ[name] if sys.argv[2] == "values" else "$" + name for name in names}
print(json.dumps({**env, "env_vars": {**env.get("env_vars", {}), **values}}))' "$RUNTIME_ENV" "$@" 2>/dev/null ||
    fail "RUNTIME_ENV is not a JSON object"
}
job() { # COMMAND…: submit it to Ray, with the keys of this environment, of which the names alone are printed
  local keys env
  mapfile -t keys < <(key_names)
  env=$(runtime_env names "${keys[@]}")
  printf -v env '%q' "--runtime-env-json=$env"
  echo "ray job submit $(show "--address=$RAY_JOBS") ${env//\\\$/\$} -- $(show "$@")"
  [[ -n $DRY_RUN ]] ||
    ray job submit --address="$RAY_JOBS" --runtime-env=<(runtime_env values "${keys[@]}") -- "$@"
}
