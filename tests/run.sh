#!/usr/bin/env bash
# Runs the checks, setting up what they need first (see recipes/setup_cpu.sh). Each tier stops at its first failing check.
#
#   bash tests/run.sh                  # everything, the real stack included: about 40 minutes on 2 cores
#   bash tests/run.sh lint             # ruff, ty, shellcheck, import-linter: seconds
#   bash tests/run.sh unit             # tests without engines: a minute
#   bash tests/run.sh stack            # the rest: vLLM, Ray, DeepSpeed, whole recipes
#   bash tests/run.sh unit -k verify   # what follows a tier goes to pytest, as does anything that is no tier
set -euo pipefail
cd "$(dirname "$0")/.."
bash recipes/setup_cpu.sh
bin=$PWD/.venv/bin

lint() {
  "$bin/ruff" check .
  "$bin/ruff" format --check .
  "$bin/ty" check --python .venv
  "$bin/shellcheck" --external-sources --source-path=SCRIPTDIR .ci/run tests/run.sh recipes/*.sh recipes/*/*.sh
  PYTHONPATH=. "$bin/lint-imports"
}
run_pytest() { "$bin/python" -m pytest "$@"; }
fast=(-m "not slow and not stack" --numprocesses 2) real=(-m "slow or stack")

case ${1:-all} in
  lint) lint ;;
  unit) run_pytest "${fast[@]}" "${@:2}" ;;
  stack) run_pytest "${real[@]}" "${@:2}" ;;
  all) lint; run_pytest "${fast[@]}"; run_pytest "${real[@]}" ;;
  *) run_pytest "$@" ;;
esac
