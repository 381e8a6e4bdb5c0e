"""The quickstart from end to end in its smoke form: real OpenRLHF, Ray, vLLM and DeepSpeed, a few steps each."""

import subprocess

import pandas as pd
import pytest

from openrlhf_mlpo import cpu
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "recipes").rglob("*.sh"))


def quickstart(*args: str, timeout: int = 1500) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "recipes/quickstart_cpu.sh", *args], cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )


@pytest.mark.parametrize("script", RECIPES, ids=lambda path: path.name)
def test_scripts_are_valid_bash_and_stop_at_errors(script):
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0
    assert "set -euo pipefail" in script.read_text()


def test_help_and_dry_run_start_nothing(tmp_path):
    shown = quickstart("--help")
    assert shown.returncode == 0
    assert "--smoke" in shown.stdout
    assert "Deviations from the paper" in shown.stdout
    dry = quickstart("--dry-run", "--dir", str(tmp_path / "run"))
    assert dry.returncode == 0
    assert "openrlhf.cli.train_sft" in dry.stdout
    assert dry.stdout.count("openrlhf_mlpo.cli.train_mlpo_ray") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("args", "message"), [(["--sede", "1"], "unknown option --sede"), (["--seed", "x"], "--seed")])
def test_wrong_options_are_one_line(args, message):
    done = quickstart(*args)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.skipif(not cpu.use_cpu(), reason="written for the CPU runtime")
def test_smoke_run(tmp_path):
    folder = tmp_path / "run"
    done = quickstart("--smoke", "--dir", str(folder))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    results = pd.read_csv(folder / "report" / "report.csv", dtype={"round": "Int64"})
    accuracy = results[results["metric"] == "accuracy"]
    assert (accuracy["n"] == 40).all()
    of_teams = accuracy[accuracy["system"].str.startswith("leader_team")]
    assert list(zip(of_teams["system"], of_teams["round"])) == [
        (f"leader_team[{leader}]", round) for leader in ("mlpo", "untrained") for round in (0, 1)
    ]
    baselines = {"majority_vote", "best_agent", "router", "oracle", "agent[agent_1]", "leader_solo[mlpo]"}
    assert baselines <= set(accuracy["system"])
    differences = results[results["metric"] == "difference"]
    assert ((differences["low"] <= differences["value"]) & (differences["value"] <= differences["high"])).all()
    for line in ("leader + team, after MLPO", "router", "all stages", f"report: {folder}/report/report.md"):
        assert line in done.stdout
    report = (folder / "report" / "report.md").read_text()
    assert "seed 0" in report and "eval/evaluate.py" in report
    for plot in ("comparison", "rounds", "by_correct_agents", "learning_curves"):
        assert (folder / "report" / f"{plot}.png").stat().st_size > 5000

    again = quickstart("--smoke", "--dir", str(folder))
    assert again.returncode == 0
    assert again.stdout.count("done before") + again.stderr.count("done before") >= 10, "a finished stage ran again"
