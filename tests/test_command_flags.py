"""Flags of all programs: one spelling, older ones accepted and not shown."""

from __future__ import annotations

import pytest

from openrlhf_mlpo.cli import pool, sample_team
from openrlhf_mlpo.cli.options import Parser, add_question_flags
from openrlhf_mlpo.engines.base import json_object
from openrlhf_mlpo.errors import UserError
from tests.small import make_pool


def parser() -> Parser:
    made = Parser(renamed={"--max_questions": "--limit"})
    add_question_flags(made.add_argument)
    made.add_argument("--out")
    return made


@pytest.mark.parametrize("words", [["--max-questions", "3"], ["--max-questions=3"], ["--max_questions", "3"],
                                   ["--limit", "3"], ["--limit=3"]])  # fmt: skip
def test_older_spellings_are_the_same_flag(words):
    assert parser().parse_args(words).limit == 3


def test_values_keep_their_dashes():
    args = parser().parse_args(["--skip-bad-rows", "--test-fraction", "0.5", "--out=a-b--c", "--columns", "answer=a-b"])
    assert (args.skip_bad_rows, args.test_fraction, args.out, args.columns) == (True, 0.5, "a-b--c", "answer=a-b")


def test_help_shows_one_spelling():
    text = parser().format_help()
    assert "--test_fraction" in text and "--test-fraction" not in text and "max" not in text


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"x"'])
def test_json_that_is_no_object(text):
    with pytest.raises(UserError, match="^--engine_args .*: not a JSON object"):
        json_object(text, "--engine_args")
    assert json_object("", "--engine_args") == {}


def test_commands_of_before_still_work(tmp_path, capsys):
    old = ["--max-questions", "3", "--skip-bad-rows", "--flush-every", "4", "--test-fraction", "0.3"]
    args = sample_team.parse_args(["--questions", "q", "--task", "bbh", "--team", "t", "--out", "o", *old])
    assert (args.limit, args.skip_bad_rows, args.flush_every, args.test_fraction) == (3, True, 4, 0.3)
    path = str(make_pool(tmp_path / "pool", 20))
    tables = []
    for flag in ("--max-correct", "--drop_correct"):
        assert pool.main([path, flag, "0.5"]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] and "fewer than 50% of the responses right" in tables[0]
