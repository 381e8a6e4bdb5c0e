"""The quickstart from end to end in its smoke form: real OpenRLHF, Ray, vLLM and DeepSpeed, a few steps each."""

import json
import os
import subprocess
import sys

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
    assert dry.stdout.count("openrlhf_mlpo.cli.train_mlpo_ray") == 2
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
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n_test"] == 60
    accuracy = summary["accuracy"]
    assert len(accuracy["leader_team"]) == len(accuracy["leader_team_untrained"]) == 2
    assert set(accuracy["agents"]) == {"agent_1", "agent_2", "agent_3"}
    for key in ("leader_solo", "leader_solo_untrained", "grpo_solo", "majority_vote", "best_agent"):
        assert 0 <= accuracy[key] <= 1
    assert summary["by_correct_agents"]
    for test in summary["paired"].values():
        low, high = test["ci95"]
        assert low <= test["diff"] <= high
        assert 0 <= test["p"] <= 1
    assert {"mlpo+grpo", "pool", "sft-data", "sft+agents", "evaluate", "report", "total"} <= set(
        summary["wall_seconds"]
    )
    assert summary["versions"]["openrlhf"] == "0.11.2"
    report = (folder / "report" / "report.md").read_text()
    assert "seed 0" in report
    assert "eval/evaluate.py" in report
    for plot in ("comparison_0", "rounds_0", "by_correct_agents_0", "across", "learning_curves"):
        assert (folder / "report" / f"{plot}.png").stat().st_size > 5000
    assert "real_bbh_rows" in summary or not os.environ.get("REAL_ROWS")

    again = quickstart("--smoke", "--dir", str(folder))
    assert again.returncode == 0
    assert again.stdout.count("done before") + again.stderr.count("done before") >= 10, "a finished stage ran again"


def test_results_page_shows_the_stored_runs():
    """The tables of docs/results_quickstart.md are those of the numbers that are kept with the recipe."""
    command = [sys.executable, "recipes/quickstart/results.py", "recipes/quickstart/results.csv"]
    tables = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert tables.count("\n\n") == 6
    assert (ROOT / "docs" / "results_quickstart.md").read_text(encoding="utf-8").strip().endswith(tables)
