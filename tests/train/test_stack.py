"""The extension inside the real stack: Ray, vLLM and DeepSpeed on the CPU, models of a hundred thousand parameters."""

import os
import signal
import time

import pytest

from openrlhf_mlpo import cpu
from tests.stack import (
    MLPO,
    SAMPLES_A_STEP,
    STOCK,
    finish,
    log_of,
    make_places,
    pairs,
    prompts_seen,
    saved_step,
    start,
    wait_until,
)

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.skipif(not cpu.use_cpu(), reason="written for the CPU runtime"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return make_places(tmp_path_factory.mktemp("stack"))


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
    wait_until(
        lambda: saved_step(places, "killed") == 1 and len(prompts_seen(places, "killed")) > SAMPLES_A_STEP,
        *(process, places, "killed"),
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    resumed_from = saved_step(places, "killed")
    time.sleep(5)  # Ray's own processes notice and end
    before = len(prompts_seen(places, "killed"))
    resumed = finish(start(MLPO, places, "killed", *flags, "--ckpt.load_enable"), places, "killed")
    assert len(resumed) == 4

    expected = pairs(prompts_seen(places, "whole", SAMPLES_A_STEP * resumed_from))
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
    log = log_of(places, "async")
    assert "MLPOPolicyModelActor" in log, "the policy worker is OpenRLHF's own: the loss normaliser does nothing"
    assert "eval_bbh_team_pass1" in log
    assert "eval_bbh_solo_pass1" in log
    assert (places / "async" / "model" / "config.json").exists()
