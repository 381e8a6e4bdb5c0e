"""The doctor: estimates, findings of plans on made-up machines, exit status. Nothing is downloaded or started."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from openrlhf_mlpo import cpu
from openrlhf_mlpo.cli import doctor
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.preflight import machine, memory
from openrlhf_mlpo.preflight.machine import FATAL, NOTE, OK, WARNING, Finding, Machine
from openrlhf_mlpo.preflight.memory import GIB, Training
from openrlhf_mlpo.preflight.plan import Plan
from openrlhf_mlpo.preflight.requirements import Requirements
from openrlhf_mlpo.team import load_team
from openrlhf_mlpo.train import seams
from tests.conftest import ROOT
from tests.recipes.test_recipes import commands
from tests.small import make_pool
from tests.tiny import make_tiny_model

QWEN = memory.PAPER["Qwen/Qwen2.5-7B-Instruct"]
NODE = Machine(8, 80 * GIB)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """In the repository, without a Ray cluster, with an empty hub cache and all the disk there is."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(machine, "check_ray", lambda address: Finding(OK, f"Ray at {address}"))
    monkeypatch.setattr(machine, "in_hub_cache", lambda name: True)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000 * GIB))


def findings(name: str, node: Machine = NODE, **settings: str) -> list[Finding]:
    plan = Plan(node, "Qwen/Qwen2.5-7B-Instruct", load_team(ROOT / "recipes/team_paper.yaml"))
    return list(plan.check_commands(commands(name, **settings)))


def texts(found: list[Finding], level: str) -> str:
    return "\n".join(finding.text for finding in found if finding.level == level)


def test_training_memory_is_the_documented_formula():
    parts = memory.training_memory(QWEN, Training("x", gpus=8, zero_stage=3, train_tokens=10240, rollout_tokens=20480))
    n = QWEN.parameters
    assert parts["weights"] == 2 * n / 8
    assert parts["gradients"] == 2 * n / 8
    assert parts["optimizer"] == 12 * n / 8
    assert parts["activations"] == 2 * 10240 * 3584 * (28 + 40)
    assert parts["logits"] == 12 * 10240 * 152064
    plain = Training("x", gpus=8, zero_stage=2, train_tokens=1, reference=True, adam_offload=True)
    two = memory.training_memory(QWEN, plain)
    assert (two["weights"], two["reference"], two["optimizer"]) == (2 * n, 2 * n, 0)
    lora = memory.training_memory(QWEN, Training("x", gpus=1, zero_stage=2, train_tokens=1, lora_rank=64))
    assert lora["optimizer"] < 0.03 * 12 * n
    # A group of 8 and the half of another, whose prompts are computed once: two prompts, logits of 12 outputs.
    assert memory.shared_tokens(12, 8, 10240, 2048) == (2 * 8192 + 12 * 2048, 12 * 2048)
    shared = memory.training_memory(QWEN, Training("x", gpus=1, zero_stage=2, train_tokens=40960, logit_tokens=24576))
    assert shared["activations"] == 2 * 40960 * 3584 * (28 + 40)
    assert shared["logits"] == 12 * 24576 * 152064
    assert sum(memory.vllm_memory(QWEN, max_len=10240).values()) == 2 * n + 4 * 28 * 512 * 10240 + 4 * GIB


def test_a_model_on_this_machine_is_read(tmp_path):
    model = memory.find_model(str(make_tiny_model(tmp_path / "model", layers=2, hidden=64, max_len=256)))
    assert (model.layers, model.hidden, model.kv_width, model.context) == (2, 64, 64, 256)
    assert 50_000 < model.parameters < 200_000
    assert memory.find_model(str(tmp_path / "none")) is None


@pytest.mark.slow
@pytest.mark.parametrize("task", ["math", "bbh", "mmlu"])
def test_the_paper_fits_eight_gpus_of_80_gib(task):
    found = findings("run_all.sh", TASK=task)
    assert {finding.level for finding in found} == {OK}, [f for f in found if f.level != OK]
    assert "3 responses of up to 2048 tokens take 7168 of a prompt's 8192" in texts(found, OK)
    assert texts(found, OK).count("an engine for agent") == 3


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["hybrid", "separate", "async", "dynamic", "lora"])
def test_every_variant_fits(variant):
    assert not texts(findings("train_mlpo.sh", VARIANT=variant), FATAL)


@pytest.mark.slow
def test_too_few_and_too_small_gpus():
    found = findings("train_mlpo.sh", Machine(4, 24 * GIB))
    assert "needs 8 GPUs, there are 4" in texts(found, FATAL)
    assert "training Qwen/Qwen2.5-7B-Instruct on 8 GPUs: about 41 of 24 GiB" in texts(found, FATAL)
    assert "an engine for the rollouts" in texts(found, FATAL)
    assert all(finding.fix for finding in found if finding.level in (FATAL, WARNING))
    assert not texts(findings("train_mlpo.sh", Machine(8, 80 * GIB, nodes=2), NODES="2"), FATAL)
    assert "needs 16 GPUs" in texts(findings("train_mlpo.sh", NODES="2"), FATAL)


@pytest.mark.slow
def test_colocated_without_sleep_needs_both():
    line = commands("train_mlpo.sh")[0].replace("--vllm.enable_sleep ", "")
    found = list(Plan(NODE, "Qwen/Qwen2.5-7B-Instruct").check_commands([line]))
    assert "vLLM 48" in texts(found, FATAL)


@pytest.mark.slow
def test_context_budget():
    """A leader's prompt that is too short, one that cannot be, and a length beyond the model's context."""
    short = findings("train_mlpo.sh", MAX_LEN="8192")
    assert "3 responses of up to 2048 tokens take 7168 of a prompt's 6144" in texts(short, WARNING)
    assert "--data.max_len 9216" in next(f.fix for f in short if f.level == WARNING)
    assert "of a prompt's 952" in texts(findings("train_mlpo.sh", MAX_LEN="3000"), FATAL)
    assert "has a context of 32768" in texts(findings("train_mlpo.sh", MAX_LEN="40000"), FATAL)
    assert "evaluation: question, 3 responses of up to 2048 tokens, last output of 2048" in texts(
        findings("evaluate.sh", MAX_LEN="8192"), WARNING
    )


@pytest.mark.slow
def test_agents_beyond_their_context(tmp_path):
    text = (ROOT / "recipes/team_paper.yaml").read_text()
    (tmp_path / "long.yaml").write_text(text.replace("max_model_len: 8192", "max_model_len: 16384"))
    assert "google/gemma-2-9b-it has a context of 8192" in texts(
        findings("sample_team.sh", TEAM=str(tmp_path / "long.yaml")), FATAL
    )
    (tmp_path / "wordy.yaml").write_text(text.replace("max_tokens: 2048", "max_tokens: 4096"))
    assert "agent gemma: a later round takes 11264" in texts(
        findings("evaluate.sh", TEAM=str(tmp_path / "wordy.yaml")), WARNING
    )


@pytest.mark.slow
def test_a_team_that_revises_takes_gpus_of_its_own(tmp_path):
    """Agents with engines on this cluster are counted, those behind endpoints are not, and the servers alone are."""
    text = (ROOT / "recipes/team_paper.yaml").read_text()
    (tmp_path / "small.yaml").write_text(text.replace("actors: 8", "actors: 2"))
    assert "needs 14 GPUs, there are 8" in texts(
        findings("train_mlpo.sh", ROUNDS="2", TEAM=str(tmp_path / "small.yaml")), FATAL
    )
    served = "agents: [{name: far, model: m, engine: openai, engine_args: {base_url: 'http://127.0.0.1:1/v1'}}]"
    (tmp_path / "served.yaml").write_text(served)
    found = findings("train_mlpo.sh", ROUNDS="2", TEAM_ENDPOINTS=str(tmp_path / "served.yaml"))
    assert not texts(found, FATAL)
    assert "last output of 2048 take 9216 of a prompt's 10240" in texts(found, OK)
    servers = findings("serve_team.sh", Machine(3, 24 * GIB), SERVE_GPUS="0,1,2,3 4 5")
    assert "the server of Qwen/Qwen2.5-7B-Instruct: needs 4 GPUs, there are 3" in texts(servers, FATAL)
    assert "an engine for the server of google/gemma-2-9b-it: about 24 of 22 GiB" in texts(servers, FATAL)


@pytest.mark.slow
def test_a_pool_that_is_there_is_measured(tmp_path):
    make_pool(tmp_path / "pool")
    text = texts(findings("train_mlpo.sh", OUT=str(tmp_path)), OK)
    assert "3 responses of up to 6 tokens" in text


@pytest.mark.slow
def test_disk_and_downloads(monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=200 * GIB))
    monkeypatch.setattr(machine, "in_hub_cache", lambda name: False)
    found = findings("run_all.sh")
    assert "200 GiB free" in texts(found, FATAL)
    assert texts(found, NOTE).count("is not in the hub cache yet") == 3
    assert "hf download google/gemma-2-9b-it" in "\n".join(finding.fix for finding in found)


@pytest.mark.slow
def test_a_wrong_flag_is_a_finding_and_the_rest_is_looked_at():
    good = commands("train_mlpo.sh")[0]
    found = list(Plan(NODE, "Qwen/Qwen2.5-7B-Instruct").check_commands([good.replace("--ds.", "--dss.", 1), good]))
    assert "unrecognized arguments" in texts(found, FATAL)
    assert "training Qwen/Qwen2.5-7B-Instruct" in texts(found, OK)


def test_ray_that_is_not_there(monkeypatch):
    monkeypatch.undo()
    assert machine.check_ray("http://127.0.0.1:9").level == FATAL
    nothing = Requirements(address="http://127.0.0.1:9")
    assert [finding.level for finding in Plan(NODE).check(nothing)] == [FATAL]


def test_versions_and_seams_of_this_environment():
    found = list(machine.check_versions())
    assert not texts(found, FATAL) and "places where OpenRLHF is extended are there" in texts(found, OK)


def test_another_openrlhf(monkeypatch):
    real = seams.importlib.metadata.version
    monkeypatch.setattr(seams.importlib.metadata, "version", lambda n: "0.11.0" if n == "openrlhf" else real(n))
    (finding,) = machine.check_versions()
    assert finding.level == FATAL
    assert finding.fix == f"pip install openrlhf=={seams.TESTED_VERSION}"


def test_a_pin_that_is_not_kept(monkeypatch):
    real = machine.installed_version
    monkeypatch.setattr(
        machine, "installed_version", lambda name: {"ray": "2.40.0", "deepspeed": None}.get(name, real(name))
    )
    found = {finding.text.split(":")[0]: finding for finding in machine.check_versions()}
    assert (found["ray"].level, found["deepspeed"].level) == (WARNING, FATAL)
    assert found["ray"].fix.startswith('pip install "ray==')


def test_a_seam_that_moved(monkeypatch):
    monkeypatch.setitem(seams.SEAMS, ("openrlhf.trainer.ppo_trainer", "NoTrainer"), "looked up by nobody")
    (finding,) = machine.check_versions()
    assert finding.level == FATAL
    assert "openrlhf.trainer.ppo_trainer has no NoTrainer" in finding.text


def test_wrong_use():
    with pytest.raises(UserError, match="no such recipe"):
        doctor.main(["recipes/none.sh"])
    with pytest.raises(UserError, match="one recipe at a time"):
        doctor.main(["recipes/sft.sh", "recipes/evaluate.sh"])


@pytest.mark.slow
def test_from_the_shell():
    """Exit status 1 for a fatal finding, 0 for none; the recipe's own error is passed on."""

    def run(*args, **settings):
        command = [sys.executable, "-m", "openrlhf_mlpo.cli.doctor", *args]
        env = {name: value for name, value in os.environ.items() if name != cpu.ENV_SWITCH}  # set by other tests
        return subprocess.run(command, capture_output=True, text=True, env={**env, **settings})

    sound = run()
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert sound.stdout.splitlines()[-1].startswith("0 fatal")
    wrong = run("recipes/train_mlpo.sh", VARIANT="hybird")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    bad = run("--gpus", "4", "recipes/train_mlpo.sh", RAY_JOBS="http://127.0.0.1:9")
    assert bad.returncode == 1, bad.stderr
    assert "needs 8 GPUs, there are 4" in bad.stdout and "no Ray cluster takes jobs" in bad.stdout
