"""What is kept of the seeds of the claims recipe: everything that the tables are computed from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from eval.reporting.across import groups_of
from eval.reporting.runs import load_run
from eval.reporting.store import long_table
from openrlhf_mlpo.files import write_jsonl
from tests.conftest import ROOT
from tests.eval.test_report import make_run

pytestmark = pytest.mark.slow  # bootstraps
COLLECT, PRINT = "recipes/claims/collect.py", "recipes/results.py"
KEPT = ROOT / "recipes/claims/results"


def python(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> list[Path]:
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"claims{seed}")
        make_run(folder / "eval", seed=seed, label="greedy")
        for names in (("dan", "eve", "fay"), ("dan", "eve", "fay", "gil", "hal")):
            make_run(folder / f"eval_unseen/k{len(names)}", n=30, seed=seed, team=names, label="unseen team")
        row = {"condition": "any agent right", "figure": 0.5 + seed / 10, "bound": ">= 0.1", "holds": True}
        (folder / "conditions.json").write_text(json.dumps([row]))
        stage = {"command": "", "began": 1.0, "finished": 31.0, "seconds": 30.0, "stands_on": {}}
        (folder / "stages").mkdir()
        (folder / "stages" / "sft.json").write_text(json.dumps(stage))
        folders.append(folder)
    return folders


def test_what_is_kept_gives_the_statistics_of_the_evaluations(seeds, tmp_path):
    for run in seeds:  # one after the other, as they were run on different days
        done = python(COLLECT, run, "--out", tmp_path)
        assert done.returncode == 0, done.stderr
    kept = pd.read_csv(tmp_path / "results.csv", dtype=str, keep_default_na=False)
    runs = [load_run(run / name) for name in ("eval", "eval_unseen/k3", "eval_unseen/k5") for run in seeds]
    long_table(groups_of(runs)).to_csv(tmp_path / "whole.csv", index=False, float_format="%.6g")
    whole = pd.read_csv(tmp_path / "whole.csv", dtype=str, keep_default_na=False)
    whole = whole[~whole["metric"].isin(["revises", "right, of revising outputs"])]  # of texts, which are not kept
    same = kept[~kept["metric"].isin(["condition", "seconds"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, whole.reset_index(drop=True))
    assert set(same["seed"]) == {"0", "1", "together"} and (tmp_path / "rounds.png").stat().st_size > 5000
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert python(COLLECT, "--out", tmp_path).returncode == 0
    assert {file: file.read_bytes() for file in before} == before

    printed = python(PRINT, tmp_path / "results.csv").stdout
    assert "| any agent right | >= 0.1 | 0.500 | 0.600 |" in printed
    assert "| sft | 30 | 30 |" in printed
    assert "| leader_team[mlpo]: MLPO | untrained | +" in printed
    rows = python(PRINT, "--claims", tmp_path / "results.csv").stdout.splitlines()
    assert [row[2:5] for row in rows[2:]] == [f"({claim})" for claim in "abcde"]
    together = kept[kept["seed"].eq("together")].set_index(["metric", "system", "runs"])["verdict"]
    for row, claim in zip(rows[2:6], "abcd"):
        assert row.split(" | ")[1] == together["claim", claim, "greedy"]


def test_a_run_that_did_not_end_is_named(seeds, tmp_path):
    write_jsonl(tmp_path / "run" / "eval" / "results.jsonl", [])
    done = python(COLLECT, tmp_path / "run", "--out", tmp_path / "out")
    assert done.returncode == 2 and "to its end" in done.stderr and "Traceback" not in done.stderr
    done = python(COLLECT, "--out", tmp_path / "out")
    assert done.returncode == 2 and "no seed is kept" in done.stderr


@pytest.mark.skipif(not (KEPT / "results.csv").exists(), reason="no seed has been kept")
def test_tables_of_the_pages_are_those_of_what_is_kept(tmp_path):
    for file in KEPT.glob("seed*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert python(COLLECT, "--out", tmp_path).returncode == 0
    assert (tmp_path / "results.csv").read_text() == (KEPT / "results.csv").read_text()
    page = (ROOT / "docs/results.md").read_text()
    for table in python(PRINT, KEPT / "results.csv").stdout.strip().split("\n\n"):
        assert table in page
    assert python(PRINT, "--claims", KEPT / "results.csv").stdout.strip() in (ROOT / "README.md").read_text()
