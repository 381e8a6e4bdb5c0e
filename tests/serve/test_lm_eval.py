"""lm-evaluation-harness, if there is one on the PATH, scores a served leader and team as eval/evaluate.py does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from openrlhf_mlpo.files import read_rows, write_jsonl
from tests.conftest import ROOT
from tests.real_rows import real_rows
from tests.serving import as_program, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("lm_eval"), reason="lm_eval is not on the PATH (an environment of its own)"),
]
# A player works an expression out, and is wrong about some, each about others.
PLAYERS = """
import hashlib

def play(name, skill, content):
    question = content.split("\\n")[0]
    right = eval(question.removesuffix(" is"), {"__builtins__": {}})
    knows = hashlib.sha256(f"{name}{question}".encode()).digest()[0] < 256 * skill
    return f"<think> {name} </think> <answer> {right if knows else not right} </answer>"

def ann(messages, *, seed, sampling): return play("ann", 0.6, messages[-1]["content"])
def bob(messages, *, seed, sampling): return play("bob", 0.7, messages[-1]["content"])
def boss(messages, *, seed, sampling): return play("boss", 0.75, messages[-1]["content"])
"""
TASK = {
    "task": "served_booleans",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 64},
    "filter_list": [
        {
            "name": "answer",
            "filter": [{"function": "regex", "regex_pattern": "<answer> (.*?) </answer>"}, {"function": "take_first"}],
        }
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def test_the_harness_and_evaluation_score_alike(tmp_path):
    rows = [
        {"task": "bbh", "subtask": "boolean_expressions", "question": row["input"], "answer": row["target"]}
        for row in real_rows("bbh_sample.jsonl")
        if row["task"] == "boolean_expressions"
    ]
    assert len(rows) >= 20
    write_jsonl(tmp_path / "questions.jsonl", rows)
    (tmp_path / "players.py").write_text(PLAYERS)
    agents = [{"name": name, "engine": "callable", "model": f"{tmp_path}/players.py:{name}"} for name in ("ann", "bob")]
    (tmp_path / "team.yaml").write_text(yaml.safe_dump({"agents": agents}))
    task = {**TASK, "dataset_kwargs": {"data_files": {"test": str(tmp_path / "questions.jsonl")}}}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "served.yaml").write_text(yaml.safe_dump(task))
    flags = ["--leader", f"callable:{tmp_path}/players.py:boss", "--team", str(tmp_path / "team.yaml")]
    flags += ["--rounds", "2", "--template", "compact", "--task", "bbh"]

    evaluate = [sys.executable, "eval/evaluate.py", *flags, "--questions", str(tmp_path / "questions.jsonl")]
    done = subprocess.run(
        [*evaluate, "--methods", "leader_team", "--out", str(tmp_path / "eval")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    last = [row for _, row in read_rows(tmp_path / "eval" / "results.jsonl") if row["round"] == 1]
    expected = sum(row["correct"] for row in last) / len(rows)

    log = tmp_path / "log"
    with as_program(log, *flags) as (server, url):
        wait_for(server, url, log, 60)
        model = f"model=leader-team,base_url={url}/v1/chat/completions,num_concurrent=8,tokenized_requests=False"
        command = ["lm_eval", "--model", "local-chat-completions", "--model_args", model, "--apply_chat_template"]
        command += ["--tasks", "served_booleans", "--include_path", str(tmp_path / "tasks")]
        env = {**os.environ, "OPENAI_API_KEY": "none", "HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            [*command, "--output_path", str(tmp_path / "scores")], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
    (scores,) = (tmp_path / "scores").rglob("results_*.json")
    score = json.loads(scores.read_text())["results"]["served_booleans"]["exact_match,answer"]
    assert 0.5 < expected < 1 and score == pytest.approx(expected)
