#!/usr/bin/env bash
# Runs all tests, setting up what they need first (see recipes/setup_cpu.sh).
#
#   bash tests/run.sh                    # everything, the real stack included: about 30 minutes on 2 cores
#   bash tests/run.sh -m "not slow and not stack"   # unit tests only, under a minute
set -euo pipefail
cd "$(dirname "$0")/.."
bash recipes/setup_cpu.sh
exec .venv/bin/python -m pytest "$@"
