"""A served leader and team of real vLLM engines: the answers, and so the score, are those of eval/evaluate.py."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time

import httpx
import openai
import pytest
import yaml

from openrlhf_mlpo import cpu
from openrlhf_mlpo.files import read_rows, write_jsonl
from openrlhf_mlpo.questions import Question
from tests.conftest import ROOT
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.skipif(not cpu.use_cpu(), reason="written for the CPU runtime"),
]
FLAGS = ["--rounds", "2", "--template", "compact", "--task", "bbh", "--max_new_tokens", "24"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_served_answers_are_those_of_evaluation(tmp_path):
    model = str(make_tiny_model(tmp_path / "model", max_len=256))
    agents = [
        {"name": name, "model": model, "sampling": {"temperature": t}} for name, t in (("ann", 0.0), ("bob", 1.0))
    ]
    (tmp_path / "team.yaml").write_text(yaml.safe_dump({"agents": agents}))
    kind = {"task": "bbh", "subtask": "boolean_expressions", "answer": "False"}
    rows = [{**kind, "question": f"not ( True ) {'and False ' * n}is"} for n in range(8)]
    write_jsonl(tmp_path / "questions.jsonl", rows)
    command = [
        sys.executable,
        "-m",
        "openrlhf_mlpo.cli.serve",
        "--leader",
        model,
        "--team",
        str(tmp_path / "team.yaml"),
    ]
    port = free_port()
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*command, *FLAGS, "--port", str(port)], cwd=ROOT, stdout=log, stderr=log)
    try:
        evaluate = [
            sys.executable,
            "eval/evaluate.py",
            "--leader",
            model,
            "--team",
            str(tmp_path / "team.yaml"),
            *FLAGS,
        ]
        evaluate += ["--questions", str(tmp_path / "questions.jsonl"), "--early_stop", "--methods", "leader_team"]
        done = subprocess.run(
            [*evaluate, "--out", str(tmp_path / "eval")], cwd=ROOT, capture_output=True, text=True, env=os.environ
        )
        assert done.returncode == 0, done.stderr[-2000:]
        deadline = time.time() + 240
        while True:
            assert server.poll() is None and time.time() < deadline, (tmp_path / "log").read_text()[-3000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)

        async def every() -> list:
            async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
                asks = [
                    client.chat.completions.create(
                        model="leader-team", messages=[{"role": "user", "content": row["question"]}]
                    )
                    for row in rows
                ]
                return await asyncio.gather(*asks)

        replies = asyncio.run(every())
    finally:
        server.terminate()
        server.wait(60)
    texts = {row["question"]: reply.choices[0].message.content for row, reply in zip(rows, replies, strict=True)}
    played = {t["question"]: t["turns"] for _, t in read_rows(tmp_path / "eval" / "transcripts.jsonl")}
    assert texts == {question: turns[-1]["text"] for question, turns in played.items()}
    right = [
        Question("", "bbh", r["question"], "False", r["subtask"]).verify(texts[r["question"]]).correct for r in rows
    ]
    scores = [row for _, row in read_rows(tmp_path / "eval" / "results.jsonl") if row["round"] == 1]
    assert sum(right) == sum(row["correct"] for row in scores), json.dumps(texts)
