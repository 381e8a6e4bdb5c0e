"""Starting training on the real stack in tests, and reading what it logged."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.small import make_pool
from tests.tiny import make_tiny_model

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
SAMPLES_A_STEP = 16
STEP = re.compile(r"Global step (\d+): (\{.*\})")
MLPO = "openrlhf_mlpo.cli.train_mlpo_ray"
STOCK = "openrlhf_mlpo.cli.run_openrlhf openrlhf.cli.train_ppo_ray"


def make_places(folder: Path) -> Path:
    """A model, pools, a reward file and a prompt file in `folder`."""
    make_tiny_model(folder / "model", max_len=256)
    make_pool(folder / "pool", n=16)
    make_pool(folder / "eval", n=4, seed=9)
    (folder / "reward.py").write_text(REWARD)
    rows = [{"input": f"not ( True ) {'and ' * n}is", "label": "True"} for n in range(8)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def start(module: str, places: Path, name: str, *flags: str) -> subprocess.Popen:
    """Start a run in a session of its own; its log goes to places/name/log.txt, behind what is there."""
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


def wait(process: subprocess.Popen, timeout: int = 600) -> int | None:
    """The exit status; None when the run had not ended in time and was killed."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def finish(process: subprocess.Popen, places: Path, name: str, timeout: int = 600) -> list[dict]:
    """Wait for success and return the metrics logged per step."""
    status = wait(process, timeout)
    log = log_of(places, name)
    assert status == 0, log[-4000:]
    return steps(log)


def log_of(places: Path, name: str) -> str:
    return (places / name / "log.txt").read_text(errors="replace")


def steps(log: str) -> list[dict]:
    """The metrics of each step in a log, in order; of a step that was repeated, the last ones."""
    found = {int(n): eval(metrics, {"inf": float("inf"), "nan": float("nan")}) for n, metrics in STEP.findall(log)}
    return [found[n] for n in sorted(found)]


def saved_step(places: Path, name: str) -> int:
    """The step a resumed run would go on from; 0 when nothing was saved."""
    tag = places / name / "ckpt" / "_actor" / "latest"
    return int(tag.read_text().removeprefix("global_step")) if tag.exists() else 0


def prompts_seen(places: Path, name: str, skip: int = 0) -> list[dict]:
    """Prompts and labels in the order in which the reward function was asked."""
    file = places / name / "prompts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()[skip:]] if file.exists() else []


def pairs(rows: list[dict]) -> list[tuple[str, str]]:
    """Prompts and labels without their order, which is that in which samples came back."""
    return sorted((row["prompt"], row["label"]) for row in rows)


def wait_until(reached, process: subprocess.Popen, places: Path, name: str, timeout: int = 300) -> None:
    """Until `reached()`, while the run goes on."""
    deadline = time.time() + timeout
    while not reached():
        assert process.poll() is None, log_of(places, name)[-4000:]
        assert time.time() < deadline
        time.sleep(0.02)
