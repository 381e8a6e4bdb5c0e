"""A served leader and team of real vLLM engines: the answers, and so the score, are those of eval/evaluate.py."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import openai
import pytest
import yaml

from openrlhf_mlpo import cpu
from openrlhf_mlpo.files import read_rows, write_jsonl
from openrlhf_mlpo.questions import Question
from tests.conftest import ROOT
from tests.serving import as_program, wait_for
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.skipif(not cpu.use_cpu(), reason="written for the CPU runtime"),
]
FLAGS = ["--rounds", "2", "--template", "compact", "--task", "bbh", "--max_new_tokens", "24"]


def test_served_answers_are_those_of_evaluation(tmp_path):
    model = str(make_tiny_model(tmp_path / "model", max_len=256))
    agents = [
        {"name": name, "model": model, "sampling": {"temperature": t}} for name, t in (("ann", 0.0), ("bob", 1.0))
    ]
    (tmp_path / "team.yaml").write_text(yaml.safe_dump({"agents": agents}))
    kind = {"task": "bbh", "subtask": "boolean_expressions", "answer": "False"}
    rows = [{**kind, "question": f"not ( True ) {'and False ' * n}is"} for n in range(8)]
    write_jsonl(tmp_path / "questions.jsonl", rows)
    flags, log = ["--leader", model, "--team", str(tmp_path / "team.yaml"), *FLAGS], tmp_path / "log"
    with as_program(log, *flags) as (server, url):
        evaluate = [sys.executable, "eval/evaluate.py", *flags, "--questions", str(tmp_path / "questions.jsonl")]
        evaluate += ["--early_stop", "--methods", "leader_team", "--out", str(tmp_path / "eval")]
        done = subprocess.run(evaluate, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        wait_for(server, url, log, 240)

        async def every() -> list:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
                asks = [
                    client.chat.completions.create(
                        model="leader-team", messages=[{"role": "user", "content": row["question"]}]
                    )
                    for row in rows
                ]
                return await asyncio.gather(*asks)

        replies = asyncio.run(every())
    texts = {row["question"]: reply.choices[0].message.content for row, reply in zip(rows, replies, strict=True)}
    played = {t["question"]: t["turns"] for _, t in read_rows(tmp_path / "eval" / "transcripts.jsonl")}
    assert texts == {question: turns[-1]["text"] for question, turns in played.items()}
    right = [
        Question("", "bbh", r["question"], "False", r["subtask"]).verify(texts[r["question"]]).correct for r in rows
    ]
    scores = [row for _, row in read_rows(tmp_path / "eval" / "results.jsonl") if row["round"] == 1]
    assert sum(right) == sum(row["correct"] for row in scores), json.dumps(texts)
