"""The CPU runtime: when it is used, what it refuses, and that it stays away from GPU users."""

import argparse
import signal
import subprocess
import sys

import pytest

from openrlhf_mlpo import cpu
from openrlhf_mlpo.errors import UserError


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False)])
def test_the_environment_decides(monkeypatch, value, expected):
    monkeypatch.setenv(cpu.ENV_SWITCH, value)
    assert cpu.use_cpu() is expected


def test_a_wrong_value_is_one_clear_line(monkeypatch):
    monkeypatch.setenv(cpu.ENV_SWITCH, "yes")
    with pytest.raises(UserError, match="must be 1"):
        cpu.use_cpu()


def test_with_a_gpu_nothing_is_changed(monkeypatch):
    monkeypatch.setenv(cpu.ENV_SWITCH, "0")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    cpu.prepare_vllm()
    assert cpu.vllm_engine_args() == {}
    assert "VLLM_CPU_KVCACHE_SPACE" not in cpu.os.environ


@pytest.mark.slow
def test_gpu_path_touches_neither_torch_nor_openrlhf():
    """With the runtime off, running an entry point leaves torch.cuda and flash_attn alone."""
    code = (
        "import sys, torch; before = torch.cuda.current_device\n"
        "from openrlhf_mlpo.cli.run_openrlhf import run_module\n"
        "sys.modules.pop('flash_attn', None)\n"
        "try: run_module('json.tool', ['--help'])\n"
        "except SystemExit: pass\n"
        "assert torch.cuda.current_device is before and 'flash_attn' not in sys.modules\n"
    )
    env = {**cpu.os.environ, cpu.ENV_SWITCH: "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_lock_of_a_killed_process_holds_no_other_up(tmp_path):
    """torch's own is a file, which stays when its process is killed while it loads an operator."""
    lock = tmp_path / "lock"
    lock.touch()
    take = (
        "import os, signal, sys; from openrlhf_mlpo import cpu; cpu.activate()\n"
        "from torch.utils.cpp_extension import FileBaton\n"
        "batons = [FileBaton(sys.argv[1]) for _ in range(2)]\n"
        "print(*(baton.try_acquire() for baton in batons), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", take, str(lock)], capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ("True False\n", -signal.SIGKILL), done.stderr


@pytest.mark.parametrize(
    ("args", "flag"),
    [
        ({"train.colocate_all": True}, "--train.colocate_all"),
        ({"vllm.enable_sleep": True}, "--vllm.enable_sleep"),
        ({"ds.packing_samples": True}, "--ds.packing_samples"),
        ({"train.dynamic_batch_enable": True}, "--train.dynamic_batch_enable"),
        ({"ds.attn_implementation": "flash_attention_2"}, "--ds.attn_implementation"),
        ({"vllm.sync_backend": "nccl"}, "--vllm.sync_backend"),
    ],
)
def test_what_needs_a_gpu_is_refused_by_name(args, flag):
    with pytest.raises(UserError, match=flag):
        cpu.check_arguments(args)


def test_parser_defaults_fit_a_cpu():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ds.param_dtype", choices=["bf16", "fp16"], default="bf16")
    parser.add_argument("--ds.attn_implementation", default="flash_attention_2")
    cpu.extend_parser(parser)
    assert vars(parser.parse_args([])) == {"ds.param_dtype": "fp32", "ds.attn_implementation": "sdpa"}
    assert vars(parser.parse_args(["--ds.param_dtype", "bf16"]))["ds.param_dtype"] == "bf16"
    cpu.check_arguments(vars(parser.parse_args([])))
