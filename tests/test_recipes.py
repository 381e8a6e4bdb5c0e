"""Every recipe, task and variant passes OpenRLHF's, vLLM's, DeepSpeed's and Ray's own checks; mistakes are one line.

An OpenRLHF upgrade that renames a flag fails here first. All commands are checked in this process: imports take 10 s.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.preflight.commands import check_command
from openrlhf_mlpo.team import load_team
from tests.conftest import ROOT

RECIPES = {path.name: path for path in sorted((ROOT / "recipes").glob("*.sh")) if "common.sh" in path.read_text()}
RECIPES.pop("common.sh", None)
CPU_RECIPES = [p.name for p in sorted((ROOT / "recipes").glob("*_cpu.sh")) if p.name != "setup_cpu.sh"]
TASKS = sorted(path.stem for path in (ROOT / "recipes/tasks").glob("*.sh"))
VARIANTS = ("hybrid", "separate", "async", "dynamic", "lora", "separate,dynamic", "async,dynamic", "separate,lora")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def recipe(name: str, *options: str, **settings: str) -> subprocess.CompletedProcess:
    """Run a recipe with these settings and no others of the environment; `--dry-run` tools come from this Python."""
    env = {name: os.environ[name] for name in ("HOME", "HF_HUB_OFFLINE") if name in os.environ}
    env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **settings}
    return subprocess.run(["bash", f"recipes/{name}", *options], env=env, cwd=ROOT, capture_output=True, text=True)


def commands(name: str, **settings: str) -> list[str]:
    done = recipe(name, DRY_RUN="print", **settings)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.strip()]


def settings_of(name: str) -> list[dict]:
    every = [{"TASK": task} for task in TASKS]
    if name in ("train_mlpo.sh", "train_grpo.sh"):
        every += [{"VARIANT": variant} for variant in VARIANTS]
        every += [
            {"NODES": "2", "VARIANT": "async"},
            {"KL": "1e-3"},
            {"GPUS": "4", "VARIANT": "separate", "KL": "1e-3"},
        ]
    return every


CASES = [(name, settings) for name in RECIPES for settings in settings_of(name)]


def name_of(value) -> str:
    return " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), CASES, ids=name_of)
def test_every_command_passes(name, settings):
    lines = commands(name, **settings)
    assert lines
    for line in lines:
        check_command(line)


@pytest.mark.slow
@pytest.mark.parametrize("name", CPU_RECIPES)
def test_cpu_recipes_pass(name):
    """They print their commands and no more; these are judged as for the CPU runtime."""
    done = subprocess.run(["bash", f"recipes/{name}", "--dry-run"], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert any("train_mlpo_ray" in line for line in lines)
    for line in lines:
        check_command(line, on_cpu=True)


def first(name: str, **settings: str) -> str:
    return commands(name, **settings)[0]


BROKEN = [
    # what is done to the command of a recipe, and what the message must say
    ("train_mlpo.sh", {}, "--vllm.num_engines 8", "--vllm.num_engin 8 --vllm.nonsense", "--vllm.nonsense"),
    ("train_mlpo.sh", {}, "--rollout.batch_size", "--rollout_batch_size", "--rollout_batch_size"),
    ("train_mlpo.sh", {}, "--vllm.num_engines 8", "--vllm.num_engines 4", "vllm_num_engines"),  # in OpenRLHF's train()
    ("train_mlpo.sh", {"VARIANT": "async"}, "--train.async_queue_size 1", "--vllm.generate 3", "--vllm.generate"),
    (
        "train_mlpo.sh",
        {},
        "--train.colocate_all",
        "--train.colocate_all --train.partial_rollout_enable",
        "async_enable",
    ),
    (
        "train_mlpo.sh",
        {},
        "--train.batch_size 256",
        "--train.batch_size 250",
        "--train.batch_size 250 must be a multiple",
    ),
    ("train_mlpo.sh", {}, "--mlpo.solo_fraction 0.1", "--mlpo.solo_fraction 1.5", "--mlpo.solo_fraction must be"),
    ("train_mlpo.sh", {}, "auto_reward.py", "no_reward.py", "no such file"),
    ("train_mlpo.sh", {}, "job submit", "job sumbit", "ray job: No such command 'sumbit'"),
    ("train_mlpo.sh", {}, "job submit", "job submit --nonsense", "--nonsense"),
    ("train_mlpo.sh", {}, "cli.train_mlpo_ray", "cli.train_mlpo", "no such module"),
    ("train_mlpo.sh", {}, r"-json=\{", "-json=", "not JSON"),
    ("sft.sh", {}, "--num_gpus 8", "--num_gpu_s 8", "deepspeed: "),
    ("sft.sh", {}, "--adam.lr", "--learning_rate", "--learning_rate"),
    ("sft.sh", {}, "--train.batch_size 64", "--train.batch_size 60", "must be a multiple"),
    ("build_sft.sh", {}, "--samples 8", "--sampels 8", "--sampels"),
    ("build_sft.sh", {}, "max_model_len", "max_model_length", "--engine_args: "),
    ("sample_team.sh", {}, "--task math", "--task maths", "maths"),
    ("evaluate.sh", {}, "leader_vote", "leader_votes", "leader_votes"),
    ("evaluate.sh", {}, "--rounds 5", "--rounds 0", "--rounds must be at least 1"),
    ("evaluate.sh", {}, "enable_prefix_caching", "enable_prefix_cashing", "enable_prefix_cashing"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings", "old", "new", "message"), BROKEN, ids=lambda value: str(value)[:40])
def test_a_broken_command_is_one_clear_line(name, settings, old, new, message):
    good = first(name, **settings)
    assert old in good
    with pytest.raises(UserError) as error:
        check_command(good.replace(old, new, 1))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_vllm_knows_what_openrlhf_asks_of_its_engines():
    """OpenRLHF's own actor takes some of the arguments that it is given; vLLM must know the others."""
    import ast
    import inspect

    import vllm
    from openrlhf.trainer.ray import vllm_engine

    tree = ast.parse(inspect.getsource(vllm_engine))
    given = {
        key.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    actor = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "RolloutRayActor")
    own = {node.value for node in ast.walk(actor) if isinstance(node, ast.Constant)}
    own |= {argument.arg for argument in actor.body[1].args.kwonlyargs}
    asked = given - own - {"GPU", "CPU", "image"}
    assert {"max_model_len", "enable_sleep_mode", "gpu_memory_utilization", "worker_extension_cls"} <= asked
    assert not asked - set(inspect.signature(vllm.EngineArgs).parameters)
    (engine,) = check_command(first("train_mlpo.sh")).engines
    assert engine.settings["max_model_len"] == 10240
    assert set(engine.settings) - {"actors"} <= asked


@pytest.mark.slow
def test_a_team_file_is_judged_too(tmp_path):
    team = tmp_path / "team.yaml"
    team.write_text((ROOT / "recipes/team_paper.yaml").read_text().replace("max_model_len", "max_modellen"))
    with pytest.raises(UserError, match="agent qwen: engine_args: .*max_modellen"):
        check_command(first("sample_team.sh", TEAM=str(team)))


@pytest.mark.parametrize("line", ["rm -rf nothing", "python3 -c 'print(1)'", "bash recipes/none.sh", "python3 none.py"])
def test_what_cannot_be_checked_is_refused(line):
    with pytest.raises(UserError):
        check_command(line)


@pytest.mark.slow
def test_dry_run_from_the_shell():
    """The option itself, end to end: exact commands, a count, and for a mistake one line and status 2."""
    good = recipe("train_grpo.sh", "--dry-run")
    assert good.returncode == 0, good.stderr
    assert good.stdout.splitlines()[:-1] == commands("train_grpo.sh")
    assert "1 commands pass" in good.stdout.splitlines()[-1]
    bad = recipe("sft.sh", "--dry-run", SFT_LR="fast")
    assert bad.returncode == 2
    assert bad.stderr.splitlines()[-1].startswith("error: recipes/sft.sh: train_sft: ")
    assert "--adam.lr" in bad.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", RECIPES)
def test_help_is_the_head_of_the_recipe(name):
    shown = recipe(name, "--help")
    assert shown.returncode == 0
    for part in ("Hardware:", "Deviations from the paper", f"recipes/{name}", "Settings"):
        assert part in shown.stdout or name == "train_grpo.sh", part
    assert "set -euo" not in shown.stdout


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"TASK": "gsm8k"}, (), "TASK=gsm8k: choose from bbh math mmlu"),
        ({"VARIANT": "hybird"}, (), "VARIANT=hybird: choose from"),
        ({"VARIANT": "separate", "GPUS": "3"}, (), "GPUS=3"),
        ({}, ("--dryrun",), "unknown option --dryrun"),
    ],
)
def test_wrong_settings_are_one_line(settings, options, message):
    done = recipe("train_mlpo.sh", *options, DRY_RUN="print", **settings)
    assert done.returncode == 2
    assert done.stderr.startswith("error: recipes/train_mlpo.sh: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_run_all_is_all_stages_in_order():
    text = "\n".join(commands("run_all.sh"))
    order = [
        "sample_team",
        "build_sft",
        "train_sft",
        "solo_fraction 0.1",
        "solo_fraction 1.0",
        "evaluate.py",
        "report.py",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_baseline_has_the_same_budget():
    """Plain GRPO differs from MLPO in the share of solo prompts and in where it writes, and in nothing else."""
    ours, plain = (shlex.split(first(name)) for name in ("train_mlpo.sh", "train_grpo.sh"))
    different = {(a, b) for a, b in zip(ours, plain, strict=True) if a != b}
    assert ("0.1", "1.0") in different
    assert all(b == a.replace("mlpo", "grpo") for a, b in different - {("0.1", "1.0")})


def test_settings_reach_the_commands(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "train.jsonl").write_text("")
    text = first("sample_team.sh", TRAIN_DATA=str(tmp_path / "train.jsonl"), TRAIN_SPLIT="", OUT="runs/a b", LIMIT="9")
    words = shlex.split(text)
    assert "--split" not in words
    assert words[words.index("--max-questions") + 1] == "9"
    assert words[-1] == str(ROOT / "runs/a b/pool")
    assert str(tmp_path / "mine") in first("train_mlpo.sh", LEADER_0=str(tmp_path / "mine"))


def test_run_all_skips_what_is_done_and_refuses_changed_settings(tmp_path):
    """With `ray`, `deepspeed` and `python3` that only take notes."""
    tools, out = tmp_path / "bin", tmp_path / "out"
    tools.mkdir()
    for tool in ("ray", "deepspeed", "python3"):
        (tools / tool).write_text(
            f'#!/bin/sh\necho {tool} "$@" >> {tmp_path}/calls\ntest ! -e {tmp_path}/fail-{tool}\n'
        )
        (tools / tool).chmod(0o755)
    settings = {"OUT": str(out), "DOCTOR": "0", "PATH": f"{tools}:{os.environ['PATH']}"}
    (tmp_path / "fail-deepspeed").touch()
    first = recipe("run_all.sh", **settings)
    assert first.returncode == 2
    assert "stage sft failed" in first.stderr.splitlines()[-1]
    (tmp_path / "fail-deepspeed").unlink()
    (tmp_path / "calls").unlink()
    second = recipe("run_all.sh", **settings)
    assert second.returncode == 0, second.stderr
    assert "pool: done before" in second.stdout and "sft-data: done before" in second.stdout
    calls = (tmp_path / "calls").read_text()
    assert "deepspeed" in calls and "cli.sample_team" not in calls and "report.py" in calls
    third = recipe("run_all.sh", SEED="7", **settings)
    assert third.returncode == 2
    assert "stage pool began with other commands" in third.stderr


def test_budgets_fit_the_smallest_context():
    """Gemma-2 has 8,192 tokens; three responses and a question fit the leader's training prompt."""
    words = shlex.split(first("train_mlpo.sh"))
    new, length = (int(words[words.index(f) + 1]) for f in ("--rollout.max_new_tokens", "--data.max_len"))
    team = load_team(ROOT / "recipes/team_paper.yaml")
    own = {agent.sampling["max_tokens"] for agent in team}.pop()
    assert all(agent.engine_args["max_model_len"] <= 8192 for agent in team)
    assert 1024 + own + new + own <= 8192
    assert 1024 + len(team) * own <= length - new
