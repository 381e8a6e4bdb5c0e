"""The extension inside the real stack: Ray, vLLM and DeepSpeed on the CPU, models of a hundred thousand parameters."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openrlhf_mlpo import cpu
from tests.conftest import ROOT
from tests.small import make_pool
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.skipif(not cpu.use_cpu(), reason="written for the CPU runtime"),
]

# A reward anybody might write: by length, and telling a file which prompts came by.
REWARD = """
import json, os, torch

def reward_func(queries, prompts, labels):
    with open(os.environ["PROMPT_LOG"], "a") as log:
        log.write(json.dumps({"prompt": prompts[0], "label": labels[0]}) + "\\n")
    reward = float(len(queries[0]) % 7) / 7
    return {"rewards": torch.tensor([reward]), "scores": torch.tensor([reward]), "extra_logs": {}}
"""
FLAGS = (
    "--vllm.num_engines 1 --data.max_len 256 --rollout.max_new_tokens 16 --rollout.batch_size 8 --train.batch_size 16 "
    "--train.micro_batch_size 8 --rollout.micro_batch_size 8 --rollout.n_samples_per_prompt 2 --algo.kl.init_coef 0 "
    "--actor.adam.lr 1e-3"
).split()
STEP = re.compile(r"Global step (\d+): (\{.*\})")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("stack")
    make_tiny_model(tmp / "model", max_len=256)
    make_pool(tmp / "pool", n=16)
    make_pool(tmp / "eval", n=4, seed=9)
    (tmp / "reward.py").write_text(REWARD)
    rows = [{"input": f"not ( True ) {'and ' * n}is", "label": "True"} for n in range(8)]
    (tmp / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp


def start(module: str, places: Path, name: str, *flags: str) -> subprocess.Popen:
    command = [
        *[sys.executable, "-m", *module.split(), *FLAGS],
        *["--actor.model_name_or_path", str(places / "model"), "--reward.remote_url", str(places / "reward.py")],
        *["--ckpt.output_dir", str(places / name / "model"), "--ckpt.path", str(places / name / "ckpt"), *flags],
    ]
    (places / name).mkdir(exist_ok=True)
    env = {**os.environ, "PROMPT_LOG": str(places / name / "prompts.jsonl"), "OPENRLHF_MLPO_CPU": "1"}
    with open(places / name / "log.txt", "a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(process: subprocess.Popen, places: Path, name: str, timeout: int = 600) -> list[dict]:
    """Wait for success and return the metrics logged per step."""
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        status = f"no end within {timeout} s"
    log = (places / name / "log.txt").read_text(errors="replace")
    assert status == 0, log[-4000:]
    return steps(log)


def steps(log: str) -> list[dict]:
    found = {int(n): eval(metrics, {"inf": float("inf"), "nan": float("nan")}) for n, metrics in STEP.findall(log)}
    return [found[n] for n in sorted(found)]


def prompts_seen(places: Path, name: str, skip: int = 0) -> list[dict]:
    lines = (places / name / "prompts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[skip:]]


MLPO = "openrlhf_mlpo.cli.train_mlpo_ray"
STOCK = "openrlhf_mlpo.cli.run_openrlhf openrlhf.cli.train_ppo_ray"


def test_without_a_pool_losses_are_those_of_stock_openrlhf(places):
    """Two steps over all prompts, two epochs each, sampled greedily.

    So nothing hangs on what OpenRLHF leaves unseeded: the order of prompts, and that in which samples come back.
    """
    flags = (
        "--data.input_key input --data.label_key label --data.apply_chat_template --rollout.top_p 1e-6 "
        "--rollout.n_samples_per_prompt 1 --train.batch_size 8 --train.num_episodes 2 --train.max_epochs 2 "
        "--algo.advantage.estimator reinforce"
    ).split()
    runs = {}
    for name, module in (("stock", STOCK), ("ours", MLPO)):
        process = start(module, places, name, "--data.prompt_dataset", str(places / "prompts.jsonl"), *flags)
        runs[name] = finish(process, places, name)
    assert len(runs["stock"]) == 2
    compared = [
        [{k: step[k] for k in ("policy_loss", "actor_grad_norm", "reward")} for step in run] for run in runs.values()
    ]
    assert abs(compared[0][1]["policy_loss"]) > 1e-3, "two losses of nothing would always be equal"
    for stock, ours in zip(*compared):
        assert ours == pytest.approx(stock, rel=1e-3, abs=1e-6)
    assert not any(key.startswith("mlpo/") for step in runs["ours"] for key in step)


def test_killed_run_resumes_with_the_same_prompts(places):
    """Two episodes of two steps: killed in the first, resumed through into the second."""
    flags = ["--mlpo.pool", str(places / "pool"), "--mlpo.template", "compact", "--mlpo.drop_correct", "2"]
    flags += ["--mlpo.solo_fraction", "0.25", "--train.num_episodes", "2", "--ckpt.save_steps", "1"]
    whole = finish(start(MLPO, places, "whole", *flags), places, "whole")
    assert len(whole) == 4

    process = start(MLPO, places, "killed", *flags)
    tag = places / "killed" / "ckpt" / "_actor" / "latest"
    deadline = time.time() + 300
    while not (tag.exists() and tag.read_text() == "global_step1" and len(prompts_seen(places, "killed")) > 16):
        assert process.poll() is None, (places / "killed" / "log.txt").read_text(errors="replace")[-4000:]
        assert time.time() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    resumed_from = int(tag.read_text().removeprefix("global_step"))
    time.sleep(5)  # Ray's own processes notice and end
    before = len(prompts_seen(places, "killed"))
    resumed = finish(start(MLPO, places, "killed", *flags, "--ckpt.load_enable"), places, "killed")
    assert len(resumed) == 4

    def pairs(rows):
        return sorted((row["prompt"], row["label"]) for row in rows)

    # 8 prompts a step, 2 samples of each, in the order in which samples came back.
    expected = pairs(prompts_seen(places, "whole", 16 * resumed_from))
    assert pairs(prompts_seen(places, "killed", before)) == expected
    first, second = (pairs(prompts_seen(places, "whole")[n : n + 32]) for n in (0, 32))
    assert first != second, "the second episode has draws of its own"


def test_async_training_with_evaluation_and_kl(places):
    """Asynchronous rollouts, a reference model, team and solo accuracy logged apart, metrics in TensorBoard's files."""
    flags = ["--mlpo.pool", str(places / "pool"), "--mlpo.template", "compact", "--mlpo.drop_correct", "2"]
    flags += ["--train.async_enable", "--algo.kl.init_coef", "0.01", "--algo.kl.use_loss", "--algo.kl.estimator", "k3"]
    flags += ["--eval.dataset", str(places / "eval"), "--eval.steps", "1", "--eval.n_samples_per_prompt", "1"]
    flags += ["--ckpt.best_metric_key", "none"]
    logged = finish(start(MLPO, places, "async", *flags), places, "async")
    assert len(logged) == 2
    assert all("mlpo/accuracy_team" in step and "kl" in step for step in logged)
    log = (places / "async" / "log.txt").read_text(errors="replace")
    assert "eval_bbh_team_pass1" in log
    assert "eval_bbh_solo_pass1" in log
    assert (places / "async" / "model" / "config.json").exists()
