from __future__ import annotations

import json
import os

import pandas
import pyarrow.parquet as pq
import pytest

from openrlhf_mlpo.cli import pool as cli
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool import writer as pool_writer
from openrlhf_mlpo.pool.draw import keep_question
from openrlhf_mlpo.pool.format import open_pool, read_manifest
from openrlhf_mlpo.pool.summary import summarize, table
from openrlhf_mlpo.pool.writer import PoolWriter
from openrlhf_mlpo.questions import Question, majority, question_id, questions_dataset
from tests.small import make_pool, make_rows


def responses(correct: str, agents: str = "abc"):
    """`"10 11 00"`: per agent, its samples' verdicts."""
    return [{"agent": a, "correct": c == "1"} for a, group in zip(agents, correct.split(), strict=False) for c in group]


@pytest.mark.parametrize(
    "correct, threshold, kept",
    [
        ("1111 1111 1000", 0.75, False),  # 9 of 12: exactly 75 %
        ("1111 1111 0000", 0.75, True),
        ("1111 1111 1111", 1.0, False),
        ("1111 1111 1111", 1.01, True),
        ("0000 0000 0000", 0.75, True),
        ("", 0.75, True),
    ],
)
def test_filter(correct, threshold, kept):
    assert keep_question(responses(correct), threshold) is kept


@pytest.mark.parametrize(
    "answers, correct, expected",
    [
        ("AAB", "110", True),
        ("AAB", "001", False),
        ("ABC", "100", None),
        ("AB", "10", None),  # half is no majority
        ("AA", "11", True),
        ("A--", "100", None),  # silence is no vote, but counts towards K
        ("AA-", "110", True),
        ("---", "000", None),
        ("", "", None),
    ],
)
def test_majority(answers, correct, expected):
    assert majority([None if a == "-" else a for a in answers], [c == "1" for c in correct]) is expected


# writing


def questions(n: int = 10):
    texts = [f"question {i}" for i in range(n)]
    return questions_dataset(Question(question_id("bbh", text), "bbh", text, "True") for text in texts)


def settings(**changes):
    agents = [{"name": name, "model": "m", "sampling": {"temperature": 1.0}} for name in ("a", "b")]
    return {"settings": {"task": "bbh", "samples": 2, "seed": 0, "agents": agents, **changes}}


def answers(agent: str, question: str, samples: int = 2):
    return [
        {"agent": agent, "model": "m", "sample": s, "text": f"{question} {s}", "answer": None if s else "x",
         "correct": s == 0, "prompt_tokens": 1, "completion_tokens": 2, "finish_reason": "stop"}
        for s in range(samples)
    ]  # fmt: skip


def fill(writer: PoolWriter, backwards: bool = False) -> None:
    for agent in ("b", "a") if backwards else ("a", "b"):
        missing = dict(zip(writer.ids, writer.first_missing(agent)))
        for i in reversed(writer.ids) if backwards else writer.ids:
            if missing[i] < writer.samples:
                writer.add(agent, i, answers(agent, i, writer.samples)[missing[i] :])


def expected(n: int = 10):
    return [{**row, "responses": answers("a", row["id"]) + answers("b", row["id"])} for row in questions(n)]


@pytest.mark.parametrize("rows_per_group, groups_per_file, files", [(1024, 64, 1), (2, 3, 2), (3, 1, 4)])
def test_rows_come_out_in_order_whatever_order_they_came_in(
    tmp_path, monkeypatch, rows_per_group, groups_per_file, files
):
    monkeypatch.setattr(pool_writer, "ROWS_PER_GROUP", rows_per_group)
    monkeypatch.setattr(pool_writer, "GROUPS_PER_FILE", groups_per_file)
    path = tmp_path / "pool"
    with PoolWriter(path, questions(), settings(), flush_every=3) as writer:
        fill(writer, backwards=True)
        writer.assemble()
    assert list(open_pool(path)) == expected() and len(list((path / "data").iterdir())) == files
    assert not (path / "_parts").exists() and read_manifest(path)["complete"] is True


def test_datasets_and_pandas_read_it(tmp_path):
    import datasets

    path = tmp_path / "pool"
    with PoolWriter(path, questions(), settings()) as writer:
        fill(writer)
        writer.assemble()
    loaded = datasets.load_dataset(str(path), cache_dir=str(tmp_path / "cache"))["train"]
    assert list(loaded) == expected() and loaded.features == open_pool(path).features
    frame = pandas.read_parquet(path)
    assert list(frame["id"]) == questions()["id"][:] and frame["responses"][0][1]["text"].endswith(" 1")
    for file in (path / "_arrow").iterdir():
        file.unlink()
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
    assert list(open_pool(path)) == expected()  # somebody's own Parquet directory, or a pool copied without _arrow


def test_what_was_added_survives_an_error_and_is_not_asked_again(tmp_path):
    with pytest.raises(KeyError), PoolWriter(tmp_path / "p", questions(), settings(), flush_every=4) as writer:
        for i in writer.ids[:6]:
            writer.add("a", i, answers("a", i))
        raise KeyError
    (tmp_path / "p" / "_parts" / ".000-0000009.parquet").write_bytes(b"half a par")  # killed while writing
    with PoolWriter(tmp_path / "p", questions(), settings()) as writer:
        assert writer.first_missing("a").tolist() == [2] * 6 + [0] * 4 and not writer.first_missing("b").any()
        fill(writer)
        writer.assemble()
    assert list(open_pool(tmp_path / "p")) == expected()


@pytest.mark.slow
@pytest.mark.parametrize("dies_at", range(4))
def test_killed_while_the_pool_is_put_together(tmp_path, monkeypatch, dies_at):
    """At each rename and removal of the last steps; the next run ends with the same pool."""
    with PoolWriter(tmp_path / "p", questions(), settings()) as writer:
        fill(writer)
        writer.flush()
        steps = iter(range(10))

        def fatal(real):
            def step(*args, **kwargs):
                if next(steps) == dies_at:
                    raise KeyboardInterrupt
                return real(*args, **kwargs)

            return step

        with monkeypatch.context() as patch:
            patch.setattr(pool_writer.os, "replace", fatal(os.replace))
            patch.setattr(pool_writer.shutil, "rmtree", fatal(pool_writer.shutil.rmtree))
            with pytest.raises(KeyboardInterrupt):
                writer.assemble()
    with PoolWriter(tmp_path / "p", questions(), settings()) as writer:
        fill(writer)
        writer.assemble()
    assert list(open_pool(tmp_path / "p")) == expected() and not (tmp_path / "p" / "_parts").exists()
    assert read_manifest(tmp_path / "p")["complete"] is True


def changed(**sampling):
    agents = settings()["settings"]["agents"]
    return [agents[0], {**agents[1], "sampling": {**agents[1]["sampling"], **sampling}}]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"samples": 1}, "samples 2 in the pool, 1 now"),
        ({"seed": 1}, "seed 0 in the pool, 1 now"),
        ({"agents": changed(temperature=0.7)}, "agent b.sampling.temperature 1.0 in the pool, 0.7 now"),
        ({"agents": changed(top_p=0.7)}, "agent b.sampling.top_p is new"),
        ({"agents": settings()["settings"]["agents"][:1]}, "agents a, b in the pool, a now"),
    ],
)
def test_other_settings_are_refused_and_named(tmp_path, changes, message):
    PoolWriter(tmp_path / "p", questions(), settings()).__exit__()
    with pytest.raises(UserError, match=message):
        PoolWriter(tmp_path / "p", questions(), settings(**changes))


def test_one_process_at_a_time_and_no_foreign_directory(tmp_path):
    with PoolWriter(tmp_path / "p", questions(), settings()):
        with pytest.raises(UserError, match="another process is sampling"):
            PoolWriter(tmp_path / "p", questions(), settings())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files .thesis.txt"):
        PoolWriter(tmp_path / "mine", questions(), settings())
    with pytest.raises(UserError, match="is a file"):
        PoolWriter(tmp_path / "mine" / "thesis.txt", questions(), settings())


@pytest.mark.parametrize(
    "make, message", [(None, "no pool here"), ("_parts", "has not finished; run the same sample_team")]
)
def test_opening_what_is_no_finished_pool(tmp_path, make, message):
    if make:
        (tmp_path / make).mkdir()
    with pytest.raises(UserError, match=message):
        open_pool(tmp_path)


# the table


def test_table_and_plot(tmp_path, capsys):
    path = make_pool(tmp_path / "pool", 50)
    assert cli.main([str(path), "--plot", str(tmp_path / "p.png")]) == 0
    out = capsys.readouterr().out
    rows = make_rows(50)
    by = [[r["correct"] for row in rows for r in row["responses"] if r["agent"] == a] for a in ("ann", "bob", "cyd")]
    rates = [f"{100 * sum(c) / len(c):.1f} %" for c in by]
    line = [cell.strip() for cell in next(line for line in out.splitlines() if line.startswith("| all")).split("|")]
    assert line[2:6] == ["50", *rates]
    draws = list(zip(*by, strict=True))
    assert line[6] == f"{100 * sum(sum(d) >= 2 for d in draws) / len(draws):.1f} %"  # two possible answers: never a tie
    assert line[7] == f"{100 * sum(any(d) for d in draws) / len(draws):.1f} %"
    dropped = sum(not keep_question(row["responses"]) for row in rows)
    assert f"it drops {dropped} questions" in out
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_table_by_task(tmp_path):
    import pyarrow as pa

    from openrlhf_mlpo.pool.format import pool_schema

    rows = make_rows(8)
    for row in rows[:4]:
        row |= {"task": "exact", "subtask": ""}
    path = make_pool(tmp_path / "pool")
    pq.write_table(pa.Table.from_pylist(rows, schema=pool_schema()), path / "data" / "train-00000-of-00001.parquet")
    tallies = summarize(path)
    assert {name: tally["questions"] for name, tally in tallies.items()} == {
        "all": 8,
        "exact": 4,
        "bbh": 4,
        "bbh/boolean_expressions": 4,
    }
    assert "| bbh/boolean_expressions" in table(tallies)


def test_table_of_something_else(tmp_path):
    with pytest.raises(UserError, match="column responses is missing"):
        cli.main([str(make_pool(tmp_path / "pool", rename={"responses": "other"}))])
    with pytest.raises(UserError, match="--plot .*: "):
        cli.main([str(make_pool(tmp_path / "good")), "--plot", str(tmp_path / "p.what")])


def test_the_manifest_is_json(tmp_path):
    PoolWriter(tmp_path / "p", questions(), {**settings(), "versions": {"x": "1"}}).__exit__()
    assert json.loads((tmp_path / "p" / "_manifest.json").read_text())["versions"] == {"x": "1"}
