from __future__ import annotations

import json
import os
import resource
from contextlib import contextmanager

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


# extending


def more(n: int = 10, samples: int = 2, agents: str = "ab", order: int = 1):
    """Questions and settings that ask for so much; `order` -1: the questions backwards."""
    asked = questions(n).select(range(n)[::order])
    named = [{"name": name, "model": "m", "sampling": {"temperature": 1.0}} for name in agents]
    digest = {"rows": n, "ids": json.dumps(asked["id"][:]), "answers": json.dumps(asked["answer"][:])}
    return asked, settings(samples=samples, agents=named, questions=digest)


def grown(n: int = 10, samples: int = 2, agents: str = "ab", order: int = 1):
    return [
        {**row, "responses": [r for agent in agents for r in answers(agent, row["id"], samples)]}
        for row in questions(n).select(range(n)[::order])
    ]


def run(path, share: float = 1.0, **wanted) -> int:
    """Sample what is missing, or only a share of it; returns how many responses were asked for."""
    asked = 0
    with PoolWriter(path, *more(**wanted), flush_every=3) as writer:
        for agent in writer.agents:
            missing = writer.first_missing(agent)
            for i, first in list(zip(writer.ids, missing))[: round(share * len(missing))]:
                if first < writer.samples:
                    responses = answers(agent, i, writer.samples)[first:]
                    writer.add(agent, i, responses)
                    asked += len(responses)
        if share == 1:
            writer.assemble()
    return asked


EXTENSIONS = [
    ({"n": 14}, 4 * 2 * 2),
    ({"samples": 5}, 10 * 3 * 2),
    ({"agents": "abc"}, 10 * 2),
    ({"agents": "cab"}, 10 * 2),  # wherever in the team file the new agent stands
    ({"n": 12, "samples": 3, "agents": "cbad"}, 12 * 3 * 4 - 10 * 2 * 2),
    ({"order": -1}, 0),
]


@pytest.mark.parametrize(("wanted", "missing"), EXTENSIONS)
@pytest.mark.parametrize("finished", [True, False])
def test_a_pool_can_be_extended(tmp_path, monkeypatch, wanted, missing, finished):
    monkeypatch.setattr(pool_writer, "ROWS_PER_GROUP", 4)
    monkeypatch.setattr(pool_writer, "GROUPS_PER_FILE", 2)
    done = run(tmp_path / "p", 1.0 if finished else 0.5)
    assert run(tmp_path / "p", **wanted) == missing + 40 - done
    assert list(open_pool(tmp_path / "p")) == grown(**wanted)
    assert run(tmp_path / "p", **wanted) == 0
    assert read_manifest(tmp_path / "p")["earlier"][0]["settings"]["samples"] == 2
    assert len(pq.ParquetDataset(tmp_path / "p" / "data").files) == len(list((tmp_path / "p" / "_arrow").iterdir()))


def test_parts_by_the_names_they_once_had_are_read(tmp_path):
    """They began with the agent's number, which the manifest gave."""
    asked = run(tmp_path / "p", 0.6)
    manifest = read_manifest(tmp_path / "p") | {"slots": ["a", "b"]}
    (tmp_path / "p" / "_manifest.json").write_text(json.dumps(manifest))
    for part in (tmp_path / "p" / "_parts").glob("part-*.parquet"):
        number = int(part.stem.partition("-")[2])
        part.rename(part.with_name(f"{number // 2:03d}-{number:07d}.parquet"))
    assert run(tmp_path / "p", n=11, agents="ba") == 11 * 2 * 2 - asked
    assert list(open_pool(tmp_path / "p")) == grown(11, agents="ba")


def test_a_pool_that_is_being_extended_is_what_it_was_before(tmp_path, capsys):
    run(tmp_path / "p")
    run(tmp_path / "p", 0.3, n=13, samples=3)
    assert list(open_pool(tmp_path / "p")) == grown()
    assert "is being extended" in capsys.readouterr().err
    run(tmp_path / "p", 0.6, n=13, samples=4, agents="bac")  # changed again before it was done
    run(tmp_path / "p", n=13, samples=4, agents="bac")
    assert list(open_pool(tmp_path / "p")) == grown(13, 4, "bac") and "extended" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"n": 9}, "questions.rows 10 in the pool, 9 now"),
        ({"samples": 1}, "samples 2 in the pool, 1 now"),
        ({"agents": "acd"}, "agents a, b in the pool, a, c, d now"),
    ],
)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_less_of_a_pool_is_refused(tmp_path, wanted, message, share):
    run(tmp_path / "p", share)
    with pytest.raises(UserError, match=message):
        run(tmp_path / "p", **wanted)
    assert run(tmp_path / "p") == (0 if share == 1 else 20)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_other_questions_or_answers_are_refused(tmp_path, share):
    run(tmp_path / "p", share)
    asked, manifest = more(12)
    others = asked.map(lambda row: {"answer": "False"} if row["question"] == "question 3" else row)
    with pytest.raises(UserError, match=r"has answer and subtask \('True', ''\) in the pool, \('False', ''\) now"):
        PoolWriter(tmp_path / "p", others, manifest)
    with pytest.raises(UserError, match="of the pool is not among the 12 now"):
        PoolWriter(tmp_path / "p", questions(13).select(range(1, 13)), manifest)


@pytest.mark.slow
def test_killed_at_any_step_of_an_extension(tmp_path, monkeypatch):
    """At each rename and removal in turn; what opens in between is whole, and the next run ends it."""
    wanted = {"n": 12, "samples": 3, "agents": "cab"}
    killed = 0
    for dies_at in range(100):
        path = tmp_path / str(dies_at)
        run(path)
        steps = iter(range(100))

        def fatal(real, steps=steps, dies_at=dies_at):
            def step(*args, **kwargs):
                if next(steps) == dies_at:
                    raise KeyboardInterrupt
                return real(*args, **kwargs)

            return step

        try:
            with monkeypatch.context() as patch:
                patch.setattr(pool_writer.os, "replace", fatal(os.replace))
                patch.setattr(pool_writer.shutil, "rmtree", fatal(pool_writer.shutil.rmtree))
                run(path, **wanted)
        except KeyboardInterrupt:
            killed += 1
        else:
            break
        try:
            assert list(open_pool(path)) in (grown(), grown(**wanted))
        except UserError as error:
            assert "run the same sample_team command again" in str(error)
        run(path, **wanted)
        assert list(open_pool(path)) == grown(**wanted) and not (path / "_parts").exists()
    assert 15 < killed < 40


# damage


def cut(file) -> None:
    file.write_bytes(file.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("pattern", "harm", "message"),
    [
        ("data/*.parquet", cut, "data/train-00000-of-00003.parquet: damaged"),
        ("data/*.parquet", os.unlink, "2 of 3 files are in data/"),
        ("_manifest.json", cut, "_manifest.json: damaged"),
        ("_manifest.json", lambda file: file.write_text("[]"), "_manifest.json: damaged: it has no settings"),
        ("_manifest.json", lambda file: file.write_bytes(b"\xff"), "_manifest.json: damaged"),
    ],
)
def test_a_damaged_pool_is_one_line(tmp_path, monkeypatch, pattern, harm, message):
    monkeypatch.setattr(pool_writer, "ROWS_PER_GROUP", 2)
    monkeypatch.setattr(pool_writer, "GROUPS_PER_FILE", 2)
    run(tmp_path / "p")
    harm(sorted((tmp_path / "p").glob(pattern))[0])
    for use in (open_pool, summarize):
        with pytest.raises(UserError, match=message) as caught:
            use(tmp_path / "p")
        assert "\n" not in str(caught.value)


def test_rows_that_the_manifest_counts_but_no_file_holds(tmp_path):
    run(tmp_path / "p")
    run(tmp_path / "few", n=8)
    file = "data/train-00000-of-00001.parquet"
    (tmp_path / "p" / file).write_bytes((tmp_path / "few" / file).read_bytes())
    with pytest.raises(UserError, match="8 of 10 questions are in data/"):
        open_pool(tmp_path / "p")


@pytest.mark.parametrize("harm", [cut, lambda file: file.write_bytes(b""), os.unlink])
def test_damaged_copies_for_memory_mapping_are_not_used(tmp_path, monkeypatch, harm):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    run(tmp_path / "p")
    harm(next((tmp_path / "p" / "_arrow").iterdir()))
    assert list(open_pool(tmp_path / "p")) == grown()


def test_a_damaged_part_is_one_line_that_says_what_to_do(tmp_path):
    run(tmp_path / "p", 0.6)
    part = sorted((tmp_path / "p" / "_parts").glob("*.parquet"))[0]
    cut(part)
    with pytest.raises(
        UserError, match="damaged .*; delete it: the same sample_team command samples again what it held"
    ):
        run(tmp_path / "p")
    part.unlink()
    assert run(tmp_path / "p") == 2 * 2 * 4 + 3 * 2
    assert list(open_pool(tmp_path / "p")) == grown()


@contextmanager
def no_room(most: int = 16):
    """Let no file grow beyond so many bytes: writing fails in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_costs_nothing(tmp_path):
    path, message = tmp_path / "p", r"--out .*p: cannot be written: File too large; once it can, the same command"
    with pytest.raises(UserError, match=message), no_room():
        PoolWriter(path, questions(), settings())
    with pytest.raises(UserError, match=message), PoolWriter(path, questions(), settings()) as writer:
        fill(writer)
        with no_room():
            writer.flush()
    with pytest.raises(UserError, match=message), PoolWriter(path, questions(), settings()) as writer, no_room():
        assert (writer.first_missing("a") == 2).all() and (writer.first_missing("b") == 2).all()
        writer.assemble()
    with PoolWriter(path, questions(), settings()) as writer:
        writer.assemble()
    assert list(open_pool(path)) == expected()


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
    for share in ("0", "-1", "nan"):
        with pytest.raises(UserError, match=f"--drop_correct must be above 0, not {share}"):
            cli.main([str(tmp_path / "good"), f"--drop_correct={share}"])


def test_the_manifest_is_json(tmp_path):
    PoolWriter(tmp_path / "p", questions(), {**settings(), "versions": {"x": "1"}}).__exit__()
    assert json.loads((tmp_path / "p" / "_manifest.json").read_text())["versions"] == {"x": "1"}
