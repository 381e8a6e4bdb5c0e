"""`check_data`: every broken row is named with its line, and only broken rows are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_mlpo.cli import check_data
from tests.conftest import ROOT


def write(path: Path, rows: list[dict | str]) -> str:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return str(path)


def test_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "q.jsonl", [{"problem": f"What is {n} + x?", "answer": f"{n}+x"} for n in range(20)])
    assert check_data.main([file, "--task", "math"]) == 0
    assert capsys.readouterr().out == f"{file}: 20 rows, 0 with problems, 20 usable as task math\n"


def test_every_bad_row_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": "a", "answer": "42"}, {"problem": "b", "answer": "\\frac{1}{"}, "", {"problem": "c",
    "answer": ""}, {"problem": "d"},
            {"problem": "a", "answer": "42"}, {"answer": "42"}, {"problem": "e", "answer": "\\text{even}"}]  # fmt: skip
    file = write(tmp_path / "q.jsonl", rows)
    assert check_data.main([file, "--task", "math"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines[:-1]] == [f"{file}, line {n}" for n in (2, 4, 5, 6, 7)]
    assert "cannot read gold answer" in lines[0] and f"the same question as {file}, line 1" in lines[3]
    assert lines[-1] == f"{file}: 7 rows, 5 with problems, 2 usable as task math"


@pytest.mark.parametrize(
    ("task", "row", "problem"),
    [
        ("mmlu", {"question": "q", "choices": ["a", "b"], "answer": "E"}, "none of A, B"),
        ("mmlu", {"question": "q", "answer": "A"}, "no choices"),
        ("bbh", {"input": "q", "target": "perhaps", "task": "navigate"}, "is not yes or no"),
        ("exact", {"question": "q", "answer": " "}, "no answer"),
        ("exact", {"question": "q", "answer": "N/A"}, "stands for a missing one"),
        ("exact", {"question": "q", "answer": "NaN"}, "stands for a missing one"),
        ("math", {"problem": "q", "answer": "null"}, "stands for a missing one"),
        ("math", {"problem": "q", "answer": "See solution."}, "stands for a missing one"),
        ("math", {"problem": "q", "answer": "Please refer to the attached figure"}, "stands for a missing one"),
        ("math", {"problem": "q", "answer": "?"}, "stands for a missing one"),
        ("exact", {"question": "q", "answer": float("nan")}, "no answer"),
        ("exact", {"question": "q", "answer": ["a", "b"]}, "must be one text, not list"),
    ],
)
def test_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, row: dict, problem: str) -> None:
    file = write(tmp_path / "q.jsonl", [row])
    assert check_data.main([file, "--task", task]) == 1
    assert problem in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("mmlu", {"question": "q", "choices": ["a", "b"], "answer": "(B)"}),
        ("mmlu", {"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "1"}),
        ("math", {"question": "q", "answer": "6 * 12 = 72\n#### 72"}),
        ("exact", {"question": "Which sign is it?", "answer": "-"}),
        ("exact", {"question": "Which of them?", "answer": "none"}),
    ],
)
def test_what_pays_is_no_problem(tmp_path: Path, task: str, row: dict) -> None:
    assert check_data.main([write(tmp_path / "q.jsonl", [row]), "--task", task]) == 0


def test_two_answers_to_one_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "q.jsonl", [{"question": "q", "answer": "a"}, {"question": "q", "answer": "b"}])
    assert check_data.main([file, "--task", "exact"]) == 1
    assert "line 2: answer 'b', but 'a' for the same question at" in capsys.readouterr().out


def test_columns_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "q.jsonl", [{"ask": f"q{n}", "gold": ""} for n in range(5)])
    assert check_data.main([file, "--task", "exact", "--columns", "question=ask,answer=gold", "--show", "2"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[2] == "… and 3 more; --show 0 prints all"


@pytest.mark.parametrize(
    ("content", "message"), [("", "no rows"), ("{", "line 1: not valid JSON"), ("[1]", "line 1: must be a JSON object")]
)
def test_a_file_that_is_none_ends_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(content)
    command = [sys.executable, "-m", "openrlhf_mlpo.cli.check_data", str(path), "--task", "math"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
