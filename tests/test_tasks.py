from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.questions import COLUMNS, question_id, split_of, with_options
from openrlhf_mlpo.rows import last_boxed, to_question
from openrlhf_mlpo.sources import load_questions
from tests.real_rows import real_rows


def write(path: Path, *rows) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


@pytest.mark.parametrize(
    "task, row, expected",
    [
        ("math", {"problem": "1+1?", "answer": "2", "subject": "Algebra"}, ("1+1?", "2", "Algebra", [])),
        (
            "math",
            {"problem": "1+1?", "solution": "So $\\boxed{\\frac{4}{2}}$.", "type": "Algebra"},
            ("1+1?", "\\frac{4}{2}", "Algebra", []),
        ),
        ("bbh", {"task": "sports", "input": "q", "target": "yes"}, ("q", "yes", "sports", [])),
        ("bbh", {"task": "bbh", "subtask": "sports", "question": "q", "answer": "yes"}, ("q", "yes", "sports", [])),
        (
            "mmlu",
            {"subject": "s", "question": "q", "choices": ["x", "y"], "answer": 1},
            ("q\nA. x\nB. y", "B", "s", ["x", "y"]),
        ),
        ("mmlu", {"question": "q", "choices": ["x", "y"], "answer": "b"}, ("q\nA. x\nB. y", "B", "", ["x", "y"])),
        ("exact", {"prompt": "q", "label": 7, "subtask": float("nan")}, ("q", "7", "", [])),
        # GSM8K: the working, then the answer
        ("math", {"question": "q", "answer": "2 + 3 = 5\n#### 5"}, ("q", "5", "", [])),
        ("exact", {"question": "q", "answer": "so\n####  1,450 "}, ("q", "1,450", "", [])),
        # a null answer beside a solution that has it
        ("math", {"problem": "q", "answer": None, "solution": "so \\boxed{9}"}, ("q", "9", "", [])),
        # ARC: options with labels of their own
        (
            "mmlu",
            {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
            ("q\nA. x\nB. y", "B", "", ["x", "y"]),
        ),
        (
            "exact",
            {"question": "q", "choices": [{"text": "x", "label": "C"}, {"text": "y", "label": "D"}], "answerKey": "D"},
            ("q\nA. x\nB. y", "B", "", ["x", "y"]),
        ),
        # MMLU's gold in the forms in which an answer pays, and as an index even where an option is that number
        ("mmlu", {"question": "q", "options": ["x", "y"], "answer": "(B)"}, ("q\nA. x\nB. y", "B", "", ["x", "y"])),
        ("mmlu", {"question": "q", "choices": ["u", "in"], "answer": "In"}, ("q\nA. u\nB. in", "B", "", ["u", "in"])),
        ("mmlu", {"question": "q", "choices": ["x", "y"], "answer": "1"}, ("q\nA. x\nB. y", "B", "", ["x", "y"])),
        ("mmlu", {"question": "q", "choices": ["1", "0"], "answer": 1}, ("q\nA. 1\nB. 0", "B", "", ["1", "0"])),
        ("mmlu", {"question": "q", "choices": ["x", "y"], "answer": 1.0}, ("q\nA. x\nB. y", "B", "", ["x", "y"])),
        # what Windows and broken exports leave
        ("exact", {"\ufeffprompt": "\ufeffq", "label": "a\ud800"}, ("q", "a\ufffd", "", [])),
    ],
)
def test_rows_of_known_layouts_become_questions(task, row, expected):
    question = to_question(row, task)
    assert (question.text, question.answer, question.subtask, list(question.choices)) == expected
    assert tuple(question.row()) == COLUMNS
    assert to_question(question.row(), task) == question  # our own layout goes through unchanged


@pytest.mark.parametrize(
    "task, row, message",
    [
        ("math", {"problem": "q"}, "no answer"),
        ("math", {"problem": "q", "answer": "  "}, "no answer"),
        ("math", {"answer": "1"}, "no question"),
        ("math", {"problem": "q", "solution": "who knows"}, "boxed"),
        ("mmlu", {"question": "q", "answer": "A"}, "no choices"),
        ("mmlu", {"question": "q", "choices": ["x", "y"], "answer": "C"}, "none of A, B"),
        ("mmlu", {"question": "q", "choices": ["x", "y"], "answer": -1}, "none of A, B"),
        ("mmlu", {"question": "q", "choices": "xy", "answer": "A"}, "choices must be a list of texts or .*str 'xy'"),
        ("mmlu", {"question": "q", "choices": {"a": "x"}, "answer": "A"}, "choices must be a list of texts or"),
        ("mmlu", {"question": "q", "choices": ["x", None], "answer": "A"}, "choice 2 is null"),
        ("mmlu", {"question": "q", "choices": [["x"], "y"], "answer": "A"}, "the choice must be one text, not list"),
        (
            "mmlu",
            {"question": "q", "choices": {"text": ["x", "y"], "label": ["A"]}, "answer": "A"},
            "2 choices but 1 labels",
        ),
        ("exact", {"question": 5, "answer": "1"}, "must be text"),
        ("exact", {"question": [{"content": "q"}], "answer": "1"}, "--columns question=question.0.content"),
        ("exact", {"question": "q", "answer": None}, "no answer"),
        ("exact", {"question": "q", "answer": float("nan")}, "no answer"),
        ("math", {"question": "q", "answer": ["1"]}, "the answer must be one text, not list"),
        ("math", {"question": "q", "answer": {"value": "1"}}, "--columns can name a part of it"),
        ("math", {"question": "q", "answer": "it is\n#### "}, "no final answer on the line of the last ####"),
    ],
)
def test_rows_that_lack_something(task, row, message):
    with pytest.raises(ValueError, match=message):
        to_question(row, task)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{\\sqrt{2}}}.", "\\frac{1}{\\sqrt{2}}"),
        ("\\fbox{7}", "7"),
        ("$\\boxed 5$.", "5"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{", None),
        ("\\boxed", None),
        ("none", None),
    ],
)
def test_last_boxed(text, expected):
    assert last_boxed(text) == expected


def test_ids_are_stable_and_follow_content():
    assert question_id("bbh", "not True is") == "f61230645afdffe5"
    assert question_id("bbh", " not  True\nis ") == question_id("bbh", "not True is")
    assert question_id("math", "not True is") != question_id("bbh", "not True is")
    assert question_id("mmlu", "q", ["a", "b"]) != question_id("mmlu", "q", ["b", "a"])


def test_options_are_added_once():
    once = with_options("Which?", ["x", "y"])
    assert once == "Which?\nA. x\nB. y" and with_options(once, ["x", "y"]) == once


def test_split_from_content_is_disjoint_stable_and_about_the_size(tmp_path):
    rows = [{"input": f"question {i}", "target": "yes", "task": "t"} for i in range(1000)]
    source = write(tmp_path / "q.jsonl", *rows)
    train, test = (load_questions(source, "bbh", split=split) for split in ("train", "test"))
    assert not set(train["id"]) & set(test["id"]) and len(train) + len(test) == 1000 and 150 < len(test) < 250
    fewer = load_questions(write(tmp_path / "r.jsonl", *rows[::-2]), "bbh", split="test")
    assert set(fewer["id"]) <= set(test["id"])
    assert {split_of(i) for i in train["id"]} == {"train"}


def test_columns_inside_other_columns(tmp_path):
    row = {"prompt": [{"role": "user", "content": "one?"}], "reward_model": {"ground_truth": "1", "style": "rule"}}
    columns = {"question": "prompt.0.content", "answer": "reward_model.ground_truth"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    for source in (write(tmp_path / "q.jsonl", row), str(tmp_path / "q.parquet")):
        loaded = load_questions(source, "exact", columns=columns)
        assert (loaded["question"][:], loaded["answer"][:]) == (["one?"], ["1"])
    for wrong in ("reward_model.truth", "reward_model.ground_truth.x", "prompt.1.content", "prompt.x"):
        with pytest.raises(UserError, match=f"line 1: no answer .looked for {wrong}"):
            load_questions(str(tmp_path / "q.jsonl"), "exact", columns={**columns, "answer": wrong})


def rows_named(name: str, n: int = 2) -> list[dict]:
    return [{"input": f"{name} {i}", "target": "yes"} for i in range(n)]


def asked(source, split=None, task: str = "exact") -> list[str]:
    return load_questions(str(source), task, split=split)["question"][:]


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "test.jsonl"),
        ("train/0.jsonl", "test/0.jsonl"),
        ("my_train.jsonl", "my-eval.jsonl"),
        ("data/[x] train.jsonl", "data/test 1.jsonl"),
    ],
)
def test_a_folder_with_train_and_test_files_is_read_by_split(tmp_path, monkeypatch, capsys, names):
    for name, path in zip(("train", "test"), names):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        write(tmp_path / path, *rows_named(name))
    write(tmp_path / "more.jsonl", *rows_named("more"))
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path.parent)
    for folder in (tmp_path, tmp_path.name):
        assert asked(folder, "train") == ["train 0", "train 1"] and asked(folder, "test") == ["test 0", "test 1"]
        assert "left out, as no split is in its name" in capsys.readouterr().err
    for split in (None, "dev"):
        with pytest.raises(UserError, match="choose --split from train, test"):
            asked(tmp_path, split)


def test_a_folder_with_one_named_split_is_that_split_alone(tmp_path):
    write(tmp_path / "test.jsonl", *rows_named("test"))
    assert asked(tmp_path) == asked(tmp_path, "test") == ["test 0", "test 1"]
    with pytest.raises(UserError, match="has the split test only, not 'train'"):
        asked(tmp_path, "train")


def test_making_a_split_from_content_is_said(tmp_path, capsys):
    source = write(tmp_path / "q.jsonl", *rows_named("q", 50))
    assert 50 == len(asked(source)) == len(asked(source, "train")) + len(asked(source, "test"))
    assert "train and test are made from the rows' content" in capsys.readouterr().err


def test_packed_and_other_json(tmp_path):
    import bz2
    import gzip

    rows = rows_named("q")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files = {
        "a.jsonl.gz": gzip.compress(lines.encode()),
        "b.jsonl.bz2": bz2.compress(lines.encode()),
        "c.json": json.dumps(rows, indent=1).encode("utf-8-sig"),
        "d.json.gz": gzip.compress(json.dumps({"canary": "x", "examples": rows}).encode()),
        "e.json": lines.encode(),
        "f.jsonl": lines.replace("\n", "\r\n\ufeff").encode("utf-8-sig"),  # files with marks, one behind the other
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert asked(tmp_path / name) == ["q 0", "q 1"], name


def test_folders_of_save_to_disk(tmp_path):
    import datasets

    saved = {name: datasets.Dataset.from_list(rows_named(name)) for name in ("train", "test")}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "both")
    saved["train"].save_to_disk(tmp_path / "one")
    assert asked(tmp_path / "both", "test") == ["test 0", "test 1"] and asked(tmp_path / "one") == [
        "train 0",
        "train 1",
    ]
    with pytest.raises(UserError, match="choose --split from train, test"):
        asked(tmp_path / "both")
    with pytest.raises(UserError, match=r"one, row 1: no answer"):
        load_questions(str(tmp_path / "one"), "exact", columns={"answer": "gold"})
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"not arrow")
    with pytest.raises(UserError, match="one: not a readable folder of save_to_disk"):
        asked(tmp_path / "one")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl.gz", b"plain", "q.jsonl.gz, after line 0: unreadable or damaged"),
        ("q.jsonl", b'{"input": "q", "target": "yes"}\n{"input": "\xff"}\n', "line 2: not UTF-8 text"),
        ("q.jsonl", "{}".encode("utf-16"), "line 1: not UTF-8 text"),
        ("q.jsonl", b'{"input": "q", "target": "yes"}\n\0\0\0', "line 2: not valid JSON"),
        ("q.jsonl", b"[" * 100_000, "line 1: not valid JSON"),
        ("q.json", b'[{"input": "q"},', "q.json: not valid JSON"),
        ("q.json", b"[1]", "q.json, item 1: must be a JSON object, not int"),
        ("q.json", b"3", "must be a list of JSON objects, not int"),
        ("q.parquet", b"PAR1 and then nothing PAR1", "not a readable Parquet file"),
    ],
)
def test_damaged_files_are_one_line_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        asked(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_packed_by_half_is_one_line(tmp_path):
    import gzip

    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows_named("q", 500)).encode())
    (tmp_path / "q.jsonl.gz").write_bytes(packed[:-20])
    with pytest.raises(UserError, match="after line .*: unreadable or damaged"):
        asked(tmp_path / "q.jsonl.gz")


def test_own_columns_parquet_and_directories(tmp_path):
    rows = [{"frage": "eins?", "loesung": "1", "art": "a"}, {"frage": "zwei?", "loesung": "2", "art": "b"}]
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "a.parquet")
    write(tmp_path / "b.jsonl", rows[1], "")
    loaded = load_questions(
        str(tmp_path), "exact", columns={"question": "frage", "answer": "loesung", "subtask": "art"}
    )
    assert loaded.column_names == list(COLUMNS)
    assert (
        loaded["question"][:] == ["eins?", "zwei?"] and loaded["answer"][:] == ["1", "2"] and loaded[0]["choices"] == []
    )


@pytest.mark.parametrize(
    "lines, message",
    [
        (['{"input": "q", "target": "yes"}', '{"input": '], "q.jsonl, line 2: not valid JSON"),
        (['{"input": "q", "target": "yes"}', "[1]"], "line 2: must be a JSON object, not list"),
        (['{"input": "q"}'], "line 1: no answer"),
        (
            ['{"input": "q", "target": "yes"}', '{"input": "q ", "target": "no"}'],
            "line 2: answer 'no', but 'yes' for the same question at .*line 1",
        ),
        (
            ['{"id": 1, "input": "q", "target": "yes"}', '{"id": 1, "input": "r", "target": "no"}'],
            "line 2: id 1 is that of another question",
        ),
        ([""], "no questions"),
    ],
)
def test_bad_input_is_one_line_with_its_place(tmp_path, lines, message):
    with pytest.raises(UserError, match=message) as caught:
        load_questions(write(tmp_path / "q.jsonl", *lines), "bbh")
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_left_out_and_repeats_are(tmp_path, capsys):
    good = {"input": "q", "target": "yes"}
    source = write(tmp_path / "q.jsonl", good, {"input": "r"}, {"input": "q", "target": "no"}, good)
    assert len(load_questions(source, "bbh", skip_bad=True)) == 1
    err = capsys.readouterr().err
    assert "2 rows left out" in err and "1 repeated" in err


@pytest.mark.parametrize(
    "source, task, options, message",
    [
        ("nowhere.jsonl", "bbh", {}, "no such file"),
        ("./nowhere", "bbh", {}, "no such file"),
        ("q.txt", "bbh", {}, "unknown kind of file"),
        ("q.jsonl", "chess", {}, "the tasks are math"),
        ("q.jsonl", "bbh", {"split": "dev"}, "has no split 'dev'"),
        ("q.jsonl", "bbh", {"columns": {"frage": "x"}}, "no column of ours"),
        ("q.jsonl", "bbh", {"columns": {"answer": "x"}}, "looked for x"),
        ("q.parquet", "bbh", {}, "not a readable Parquet"),
        (".", "bbh", {}, "holds no"),
    ],
)
def test_wrong_sources(tmp_path, monkeypatch, source, task, options, message):
    monkeypatch.chdir(tmp_path)
    if source != ".":
        for name in ("q.txt", "q.jsonl", "q.parquet"):
            write(tmp_path / name, {"input": "q", "target": "yes"})
    with pytest.raises(UserError, match=message):
        load_questions(source, task, **options)


def test_a_name_that_is_no_dataset_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="not to be had as a dataset"):
        load_questions("nobody/nothing-here", "bbh")


def hub_copy(folder: Path, configs: dict[str, dict[str, list[dict]]]) -> str:
    """A dataset directory in the Hub's layout, which `datasets` loads like one from the Hub."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            (folder / config).mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), folder / config / f"{split}.parquet")
            lines += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---"]))
    return str(folder)


def hub(monkeypatch, tmp_path, configs):
    """Load `someone/bench` from a local copy of its repository instead of the Hub."""
    import datasets

    folder = hub_copy(tmp_path / "hub", configs)

    def here(name: str, **extra) -> None:
        real = getattr(datasets, name)
        monkeypatch.setattr(datasets, name, lambda path, *args, **kwargs: real(folder, *args, **kwargs, **extra))

    here("get_dataset_config_names")
    here("get_dataset_split_names")
    here("load_dataset", cache_dir=str(tmp_path / "cache"))
    return "someone/bench"


def test_hub_dataset_with_one_configuration_per_subtask(monkeypatch, tmp_path):
    rows = {name: [{"input": f"{name} {i}", "target": "yes"} for i in range(50)] for name in ("sports", "causal")}
    source = hub(monkeypatch, tmp_path, {name: {"test": each} for name, each in rows.items()})
    whole = [load_questions(source, "bbh", split=split) for split in (None, "train", "test")]
    assert [len(whole[0]), len(whole[1]) + len(whole[2])] == [100, 100] and set(whole[0]["subtask"]) == {
        "sports",
        "causal",
    }
    assert len(load_questions(f"{source}:causal", "bbh")) == 50


def test_hub_dataset_with_its_own_splits(monkeypatch, tmp_path):
    splits = {
        split: [{"problem": f"{split} {i}", "solution": f"\\boxed{{{i}}}", "type": "Algebra"} for i in range(3)]
        for split in ("train", "test")
    }
    source = hub(monkeypatch, tmp_path, {"default": splits})
    assert load_questions(source, "math", split="test")["question"][:] == [
        "test 0",
        "test 1",
        "test 2",
    ]
    with pytest.raises(UserError, match="choose --split from train, test"):
        load_questions(source, "math")
    # a clone of it is the same
    folder = str(tmp_path / "hub")
    assert load_questions(folder, "math", split="train")["answer"][:] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "file, task, rows",
    [
        ("bbh_sample", "bbh", 674),
        ("math_train_sample", "math", 300),
        ("math_test_sample", "math", 100),
        ("mmlu_sample", "mmlu", 285),
    ],
)
def test_real_rows(file, task, rows, tmp_path):
    # skip_bad: two BBH rows ask the same question with different gold answers
    loaded = load_questions(write(tmp_path / "q.jsonl", *real_rows(f"{file}.jsonl")), task, skip_bad=True)
    assert len(loaded) == rows == len(set(loaded["id"])) and all(loaded["answer"]) and all(loaded["subtask"])
