"""Every recipe, task and variant passes OpenRLHF's, vLLM's, DeepSpeed's and Ray's own checks; mistakes are one line.

An OpenRLHF upgrade that renames a flag fails here first. All commands are checked in this process: imports take 10 s.
"""

import json
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

SCRIPTS = sorted({path.name for path in (ROOT / "recipes").glob("*.sh")} - {"common.sh", "setup_cpu.sh"})
CPU_RECIPES = [name for name in SCRIPTS if name.endswith("_cpu.sh")]
RECIPES = [name for name in SCRIPTS if name not in CPU_RECIPES]
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


OWN = {"TASK": "exact", "TRAIN_DATA": "mine.jsonl", "COLUMNS": "question=prompt,answer=gold"}


def settings_of(name: str) -> list[dict]:
    if name == "serve_team.sh":
        return [{}, {"SERVE_GPUS": "4,5 6,7 3"}]
    if name == "serve.sh":
        return [{}, {"TASK": "bbh", "SERVE_LEADER": "openai:boss", "SERVE_HOST": "0.0.0.0", "SERVE_KEY_ENV": "MY_KEY"}]
    every = [OWN if task == "exact" else {"TASK": task} for task in TASKS]
    if name in ("train_mlpo.sh", "train_grpo.sh"):
        every += [{"VARIANT": variant} for variant in VARIANTS]
        every += [
            {"NODES": "2", "VARIANT": "async"},
            {"KL": "1e-3"},
            {"GPUS": "4", "VARIANT": "separate", "KL": "1e-3"},
            {"ROUNDS": "2"},
            {"ROUNDS": "3", "TEAM_ENDPOINTS": "not/written/yet.yaml", "LATER_SHARE": "0.4", "CARRY": "sampled"},
            {"REWARD": "http://one:8000/get_reward,http://two:8000/get_reward"},
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
    ("train_mlpo.sh", {}, "--ds.param_dtype bf16", "--ds.param_dtype fp16 --ds.tensor_parallel_size 2", "BF16 is req"),
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
    ("train_mlpo.sh", {"ROUNDS": "2"}, "--mlpo.rounds 2", "--mlpo.rounds 0", "--mlpo.rounds must be at least 1"),
    ("serve_team.sh", {}, "--max-model-len", "--max-modellen", "vllm serve: unrecognized arguments: --max-modellen"),
    ("serve_team.sh", {}, "--port 8100", "--port x", "vllm serve: argument --port"),
    ("serve.sh", {}, "--rounds 5", "--rounds 0", "--rounds must be at least 1"),
    ("serve.sh", {}, "max_model_len", "max_model_length", "--engine_args: "),
    ("sample_team.sh", {}, "--task math", "--task maths", "maths"),
    ("evaluate.sh", {"GRPO_ENGINE": '{"actors": "two"}'}, "--rounds 5", "--rounds 5", "actors must be a whole number"),
    ("evaluate.sh", {"GRPO_ENGINE": "{"}, "--rounds 5", "--rounds 5", "--engine_args of grpo {: not a JSON object"),
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


@pytest.mark.parametrize("before", ["", "KINDS=two\\ words ", "env ", "env KINDS=two\\ words DIR=runs "])
def test_variables_may_stand_in_front_of_a_command(before):
    check_command(f"{before}bash recipes/setup_cpu.sh")
    with pytest.raises(UserError, match="rm: not a command"):
        check_command(f"{before}rm -rf nothing")


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
        ({"TASK": "gsm8k"}, (), "TASK=gsm8k: choose from bbh exact math mmlu"),
        ({"TASK": "exact"}, (), "TASK=exact: set TRAIN_DATA"),
        ({"RUNTIME_ENV": "{"}, (), "RUNTIME_ENV is not a JSON object"),
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


def test_rounds_and_the_team_reach_the_command():
    assert "--mlpo.rounds" not in first("train_mlpo.sh", TEAM_ENDPOINTS="unused.yaml")
    endpoints = {"TEAM_ENDPOINTS": "runs/served.yaml"}
    words = shlex.split(first("train_mlpo.sh", ROUNDS="2", LATER_SHARE="0.4", CARRY="sampled", **endpoints))
    given = dict(zip(words, words[1:]))
    assert (given["--mlpo.rounds"], given["--mlpo.team"]) == ("2", str(ROOT / "runs/served.yaml"))
    assert (given["--mlpo.later_share"], given["--mlpo.carry"]) == ("0.4", "sampled")
    assert given["--data.max_len"] == "12288", "2,048 more for the last output"
    assert f"--mlpo.team {ROOT}/recipes/team_paper.yaml" in first("train_mlpo.sh", ROUNDS="2")
    plain = first("train_grpo.sh", ROUNDS="2", CARRY="sampled")
    assert "--mlpo.rounds" not in plain and "--train.num_episodes 6" in plain, "no team, and as many outputs"


def test_served_agents_are_served_on_their_gpus():
    lines = commands("serve_team.sh", SERVE_GPUS="4,5 6,7 3", SERVE_PORT="9000")
    assert [line.split()[0] for line in lines] == [f"CUDA_VISIBLE_DEVICES={gpus}" for gpus in ("4,5", "6,7", "3")]
    assert [shlex.split(line)[shlex.split(line).index("--port") + 1] for line in lines] == ["9000", "9001", "9002"]
    few = recipe("serve_team.sh", SERVE_GPUS="0 1", DRY_RUN="print")
    assert few.returncode == 2 and few.stderr.startswith("error: --gpus '0 1': 2 groups for the 3 agents")


def test_rewards_columns_and_engines_reach_the_commands():
    words = shlex.split(first("train_mlpo.sh", REWARD="http://one/get,reward_fns/bbh_reward.py"))
    assert words[words.index("--reward.remote_url") + 1] == f"http://one/get,{ROOT}/reward_fns/bbh_reward.py"
    words = shlex.split(first("sample_team.sh", **OWN))
    assert words[words.index("--columns") + 1] == "question=prompt,answer=gold"
    assert words[words.index("--split") + 1] == "train"
    assert "--columns" not in first("sample_team.sh", COLUMNS="120"), "the width of a terminal"
    words = shlex.split(first("evaluate.sh", **OWN, BASE_ENGINE='{"tensor_parallel_size": 2}'))
    assert words[words.index("--columns") + 1] == "question=prompt,answer=gold"
    assert words[words.index("--questions") + 1 :][:1] == ["mine.jsonl"]
    assert words[words.index("--split") + 1] == "test"
    assert 'base={"tensor_parallel_size": 2}' in words
    assert "--split" not in first("evaluate.sh", **OWN, TEST_DATA="other.jsonl")


def tools(folder: Path) -> str:
    """A PATH on which `ray`, `deepspeed` and this package only take notes, in FOLDER/calls."""
    (folder / "bin").mkdir()
    note = f'echo "$0" "$@" >> {folder}/calls\ntest ! -e {folder}/fail-$(basename "$0")\n'
    for tool in ("ray", "deepspeed"):
        (folder / "bin" / tool).write_text(f"#!/bin/bash\n{note}")
    keep = f'for word; do [[ $word != --runtime-env=* ]] || cat "${{word#*=}}" > {folder}/runtime_env; done'
    (folder / "bin/ray").write_text(f"#!/bin/bash\n{keep}\n{note}")
    (folder / "bin/python3").write_text(
        f'#!/bin/bash\ncase "$1 $2" in "-m openrlhf"* | *report.py*) ;; *) exec {sys.executable} "$@" ;; esac\n{note}'
    )
    for tool in (folder / "bin").iterdir():
        tool.chmod(0o755)
    return f"{folder / 'bin'}:{os.environ['PATH']}"


@pytest.mark.slow
def test_run_all_skips_what_is_done_and_refuses_changed_settings(tmp_path):
    settings = {"OUT": str(tmp_path / "out"), "DOCTOR": "0", "PATH": tools(tmp_path)}
    (tmp_path / "fail-deepspeed").touch()
    first = recipe("run_all.sh", **settings)
    assert first.returncode == 1
    assert "stage sft failed (exit 1)" in first.stderr.splitlines()[-1]
    (tmp_path / "fail-deepspeed").unlink()
    (tmp_path / "calls").unlink()
    second = recipe("run_all.sh", **settings)
    assert second.returncode == 0, second.stderr
    assert [line.split()[0] for line in second.stdout.splitlines() if "done before" in line] == ["pool", "sft-data"]
    calls = (tmp_path / "calls").read_text()
    assert "deepspeed" in calls and "cli.sample_team" not in calls and "report.py" in calls
    third = recipe("run_all.sh", SEED="7", **settings)
    assert third.returncode == 2
    assert "stage pool began with other commands" in third.stderr
    assert len(third.stderr.splitlines()) == 1


def test_keys_reach_the_job_and_are_never_printed(tmp_path):
    team = (ROOT / "recipes/team_paper.yaml").read_text()
    team += "  - {name: far, model: m, engine: openai, engine_args: {base_url: 'http://x/v1', api_key_env: FAR_KEY}}\n"
    (tmp_path / "team.yaml").write_text(team)
    keys = {"FAR_KEY": 'far"s $ecret', "OPENAI_API_KEY": "other-secret", "MINE": "my-secret", "KEYS": "MINE NOT_SET"}
    settings = {**keys, "TEAM": str(tmp_path / "team.yaml"), "OUT": str(tmp_path / "out"), "PATH": tools(tmp_path)}
    done = recipe("sample_team.sh", **settings)
    assert done.returncode == 0, done.stderr
    (given,) = [json.loads(text)["env_vars"] for text in (tmp_path / "runtime_env").read_text().splitlines()]
    assert {name: given[name] for name in given if name in keys} == {n: keys[n] for n in list(keys)[:3]}
    assert given["OPENRLHF_MLPO_CPU"] == "0" and "NOT_SET" not in given
    assert '\\"FAR_KEY\\":\\ \\"$FAR_KEY\\"' in done.stdout
    printed = done.stdout + done.stderr + (tmp_path / "calls").read_text()
    assert "ecret" not in printed
    dry = recipe("sample_team.sh", DRY_RUN="print", **settings)
    assert dry.stdout == done.stdout


def test_budgets_fit_the_smallest_context():
    """Gemma-2 has 8,192 tokens; three responses and a question fit the leader's training prompt."""
    words = shlex.split(first("train_mlpo.sh"))
    new, length = (int(words[words.index(f) + 1]) for f in ("--rollout.max_new_tokens", "--data.max_len"))
    team = load_team(ROOT / "recipes/team_paper.yaml")
    own = {agent.sampling["max_tokens"] for agent in team}.pop()
    assert all(agent.engine_args["max_model_len"] <= 8192 for agent in team)
    assert 1024 + own + new + own <= 8192
    assert 1024 + len(team) * own <= length - new
