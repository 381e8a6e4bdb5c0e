"""The conditions that a warm-started leader and its team must meet before MLPO starts, on evaluations made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_mlpo.files import write_jsonl
from tests.conftest import ROOT

AGENTS = ("ann", "bob")


def turn(player: str, round: int, right: bool) -> dict:
    return {"player": player, "round": round, "correct": right}


def evaluation(
    folder: Path, right: list[bool], agents: list[tuple], revised: list[tuple], votes: list[list[bool]]
) -> Path:
    """`[question]`: the leader's first output, the agents' first and second responses, its eight outputs alone."""
    rows, transcripts = [], []
    for i, led in enumerate(right):
        head = {"id": str(i), "subtask": "sums", "budget": ""}
        follows = [name for name, same in zip(AGENTS, agents[i]) if same == led]
        rows.append({**head, "method": "leader_team", "round": 0, "correct": led, "follows": follows})
        any_right = {"oracle": any(agents[i]), "best_agent": agents[i][0], "router": agents[i][0], "leader_solo": led}
        rows += [{**head, "method": name, "round": None, "correct": value} for name, value in any_right.items()]
        turns = [turn(name, 0, agents[i][k]) for k, name in enumerate(AGENTS)] + [turn("untrained", 0, led)]
        turns += [turn(name, 1, revised[i][k]) for k, name in enumerate(AGENTS)] + [turn("untrained", 1, led)]
        transcripts.append({"method": "leader_team", "leader": "untrained", "turns": turns})
        transcripts.append({"method": "leader_vote", "turns": [turn("untrained", 0, value) for value in votes[i]]})
    write_jsonl(folder / "results.jsonl", rows)
    write_jsonl(folder / "transcripts.jsonl", transcripts)
    (folder / "manifest.json").write_text("{}")
    return folder


def check(tmp_path: Path, *more: str, **changed: list) -> tuple[subprocess.CompletedProcess, dict[str, dict]]:
    good = {
        "right": [True, True, False, False, False],
        "agents": [(True, False), (False, True), (True, False), (False, True), (True, True)],
        "revised": [(True, True), (True, True), (True, False), (False, True), (True, True)],
        "votes": [[True] * 8, [True] * 8, [False] * 8, [False] * 8, [False] * 7 + [True]],
    }
    greedy = evaluation(tmp_path / "greedy", **(good | changed))
    sampled = evaluation(tmp_path / "sampled", **(good | {k: v for k, v in changed.items() if k != "right"}))
    script, out = ROOT / "recipes/claims/conditions.py", tmp_path / "conditions.json"
    words = [sys.executable, str(script), "--greedy", str(greedy), "--sampled", str(sampled), "--out", str(out), *more]
    done = subprocess.run(words, capture_output=True, text=True)
    return done, {row["condition"]: row for row in json.loads(out.read_text())} if out.exists() else {}


def test_a_team_with_something_to_learn_passes_and_every_figure_is_kept(tmp_path):
    done, rows = check(tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(rows) == 10 and all(row["holds"] for row in rows.values())
    assert rows["any agent right, less the leader"]["figure"] == pytest.approx(0.6)
    assert rows["an agent takes a right answer from the leader"]["figure"] == 1
    assert rows["groups of eight outputs alone that are all wrong"]["figure"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"revised": [(True, False), (False, True), (True, False), (False, True), (True, True)]},
         "an agent takes a right answer from the leader is 0.000, not >= 0.7"),
        ({"revised": [(False, True), (True, False), (True, False), (False, True), (True, True)]},
         "an agent keeps a right answer, leader right is 0.000, not >= 0.95"),
        ({"votes": [[True] * 8] * 5}, "groups of eight outputs alone that are all wrong is 0.000, not >= 0.2"),
        ({"right": [True] * 5}, "any agent right, less the leader is 0.000, not >= 0.1"),
    ],
)  # fmt: skip
def test_a_condition_that_fails_stops_with_its_figure(tmp_path, changed, message):
    done, rows = check(tmp_path, **changed)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not all(row["holds"] for row in rows.values())
    assert check(tmp_path, "--warn", **changed)[0].returncode == 0


def test_an_unfinished_evaluation_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "recipes/claims/conditions.py"), "--greedy", str(tmp_path), "--sampled",
         str(tmp_path), "--out", str(tmp_path / "out.json")], capture_output=True, text=True,
    )  # fmt: skip
    assert (
        done.returncode == 2 and "no finished evaluation here" in done.stderr and not (tmp_path / "out.json").exists()
    )
