"""Questions of a file, a folder or a Hugging Face dataset, with ids and splits that stay the same."""

from __future__ import annotations

import glob
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openrlhf_mlpo.errors import UserError, one_line
from openrlhf_mlpo.files import READERS, Rows, file_kind, read_rows
from openrlhf_mlpo.questions import COLUMNS, TASKS, TEST_FRACTION, Question, questions_dataset, split_of
from openrlhf_mlpo.rows import to_question

_CHUNK = 512  # rows checked together: checks of mathematics wait for worker processes


def load_questions(
    source: str,
    task: str,
    *,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    test_fraction: float = TEST_FRACTION,
    skip_bad: bool = False,
    limit: int = 0,
):
    """Questions of `source` as a `datasets.Dataset` with `questions.COLUMNS`, in the order of the source.

    `source`: a .jsonl, .json or .parquet file (the first two also packed, as .gz), a folder of them, one made by
    `save_to_disk`, or a Hugging Face dataset (`NAME` or `NAME:CONFIG`; `EleutherAI/hendrycks_math`, `lukaemon/bbh`,
    `cais/mmlu:all`, …). `columns` maps our names to the source's, with dots into nested ones
    (`{"answer": "reward_model.ground_truth"}`).
    `split`: one that the source names, in a folder by the names of files, as `datasets` reads them. "train" or "test"
    of a source that names none, and of BBH, is made by a hash of the rows' content, `test_fraction` of them "test", so
    that equal questions never end up on both sides. None: all rows, or the only split. `limit`: the first so many (0:
    all).
    A row without question or answer, an id of the source's own used for two questions, one question with two answers,
    or a gold answer that could never be matched raises UserError with its place; with `skip_bad` such rows are left out
    and counted on stderr. A row that repeats another is always left out, with a note.
    """
    if not 0 < test_fraction < 1:
        raise UserError(f"--test_fraction must be between 0 and 1, not {test_fraction}")
    rows, by_content = open_source(source, task, split)
    if by_content and split not in (None, "train", "test"):
        raise UserError(f"{source}: has no split {split!r}; train and test are made from content")
    if by_content and split:
        note = f"note: {source}: train and test are made from the rows' content, --test_fraction {test_fraction}"
        print(note, file=sys.stderr)
    kept: list[Question] = []
    bad: list[str] = []
    repeats: list[str] = []
    for place, question, problem in check_rows(rows, task, columns):
        if problem:
            bad.append(f"{place}: {problem}")
            if not skip_bad:
                raise UserError(f"{bad[0]}; fix the row, or pass --skip_bad_rows to leave such rows out")
        elif isinstance(question, str):
            repeats.append(f"{place} repeats {question}")
        elif not (by_content and split) or split_of(question.id, test_fraction) == split:
            kept.append(question)
    if repeats:  # harmless, and BBH itself has some
        print(f"note: {len(repeats)} repeated questions left out, the first: {repeats[0]}", file=sys.stderr)
    if bad:
        print(f"warning: {len(bad)} rows left out, the first: {bad[0]}", file=sys.stderr)
    if not kept:
        raise UserError(f"{source}: no questions" + (f" in split {split!r}" if split else ""))
    return questions_dataset(kept[: limit or None])


def check_rows(
    rows: Rows, task: str, columns: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Question | str, str]]:
    """(place, question, problem) of each row, in order: "" is no problem.

    In place of a question that an earlier row has asked, with the same answer, stands that row's place.
    """
    if unknown := sorted(set(columns or {}) - set(COLUMNS[2:])):
        raise UserError(f"--columns: {unknown[0]!r} is no column of ours; they are {', '.join(COLUMNS[2:])}")
    first_seen: dict[str, tuple[str, str]] = {}  # our id -> place, answer
    own_ids: dict[str, tuple[str, str]] = {}  # the source's id -> place, our id

    def check(pair: tuple[str, dict]) -> tuple[str, Any, Question | None, str]:
        place, row = pair
        try:
            question = to_question(row, task, columns)
        except ValueError as error:
            return place, None, None, str(error)
        return place, row.get("id"), question, question.gold_problem() or ""

    with ThreadPoolExecutor(8) as threads:
        each = threads.map if task == "math" else map  # the other tasks' checks wait for nothing
        while chunk := list(itertools.islice(rows, _CHUNK)):
            for place, own_id, question, problem in each(check, chunk):
                if problem or question is None:
                    yield place, "", problem
                elif question.id in first_seen:
                    earlier, answer = first_seen[question.id]
                    same = answer == question.answer
                    problem = f"answer {question.answer!r}, but {answer!r} for the same question at {earlier}"
                    yield place, earlier, "" if same else problem
                elif own_id is not None and own_ids.setdefault(str(own_id), (place, question.id))[1] != question.id:
                    yield place, "", f"id {own_id!r} is that of another question at {own_ids[str(own_id)][0]}"
                else:
                    first_seen[question.id] = (place, question.answer)
                    yield place, question, ""


def parse_columns(text: str) -> dict[str, str] | None:
    """`question=prompt,answer=gold` as a mapping from our names to the file's. Raises UserError."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if any(not (ours.strip() and theirs.strip()) for ours, _, theirs in pairs):
        raise UserError(f"--columns {text!r}: write OURS=THEIRS, for example question=prompt,answer=gold")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs} or None


def open_source(source: str, task: str, split: str | None) -> tuple[Rows, bool]:
    """(place, row) pairs, and whether a split has to be made from content. Raises UserError."""
    if task not in TASKS:
        raise UserError(f"--task {task!r} is unknown; the tasks are {', '.join(TASKS)}")
    if not source.strip():  # such as a shell variable that is not set; as a path it would be this folder
        raise UserError("the questions are named by an empty text: give a file, a folder or a Hugging Face dataset")
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return _saved_rows(source, path, task, split)
        return _hub_rows(source, task, split) if _has_configs(path) else _folder_rows(source, path, task, split)
    if path.is_file():
        if not file_kind(path):
            raise UserError(f"{source}: unknown kind of file; questions come as {', '.join(READERS)}")
        return read_rows(path), True
    if file_kind(path) or source.startswith((".", "/", "~")):
        raise UserError(f"{source}: no such file")
    return _hub_rows(source, task, split)


def _choose_split(source: str, names: Sequence[str], task: str, split: str | None) -> tuple[str, bool]:
    """The split to read of those that a source names, and whether train and test must be made of it from content."""
    if task == "bbh" and len(names) == 1:  # called test or train in every distribution
        return names[0], True
    if split in names or split is None and len(names) == 1:
        return split or names[0], False
    if len(names) == 1:
        raise UserError(
            f"{source}: has the split {names[0]} only, not {split!r}; save its rows as one .jsonl file to have train "
            "and test made from their content"
        )
    raise UserError(f"{source}: choose --split from {', '.join(names)}")


def _folder_rows(source: str, path: Path, task: str, split: str | None) -> tuple[Rows, bool]:
    """Rows of a folder's files by split, as `datasets` infers it from their names."""
    from datasets.data_files import DataFilesDict, get_data_patterns

    def usable(file: Path) -> bool:
        return bool(file_kind(file)) and not file.name.startswith((".", "_"))

    files = [file for file in sorted(path.rglob("*")) if file.is_file() and usable(file)]
    if not files:
        raise UserError(f"{source}: the folder holds no {' or '.join(READERS)} file")
    if any(file_kind(file) != ".json" for file in files):  # .json beside data is about it more often than not
        files = [file for file in files if file_kind(file) != ".json"]
    base = glob.escape(os.path.abspath(path))
    patterns = get_data_patterns(base)
    splits: dict[str, list[Path]] = {}
    if patterns != {"train": ["**"]}:  # else no name says anything
        for name, matched in DataFilesDict.from_patterns(patterns, base_path=base).items():
            if chosen := [file for file in files if os.path.abspath(file) in matched]:
                splits[str(name)] = chosen
    if not splits:
        return itertools.chain.from_iterable(map(read_rows, files)), True
    name, by_content = _choose_split(source, list(splits), task, split)
    if others := [file for file in files if not any(file in chosen for chosen in splits.values())]:
        print(f"note: {source}: left out, as no split is in its name: {others[0]}", file=sys.stderr)
    return itertools.chain.from_iterable(map(read_rows, splits[name])), by_content


def _has_configs(path: Path) -> bool:
    """Whether a folder is a copy of a hub dataset whose README.md says which file is what."""
    try:
        front_matter = (path / "README.md").read_text(encoding="utf-8", errors="replace").split("\n---")[0]
    except OSError:
        return False
    return front_matter.startswith("---") and "\nconfigs:" in front_matter


def _saved_rows(source: str, path: Path, task: str, split: str | None) -> tuple[Rows, bool]:
    """Rows of what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # missing or damaged files of many kinds
        raise UserError(f"{source}: not a readable folder of save_to_disk: {one_line(error)}") from None
    name, by_content = "", True
    if isinstance(saved, datasets.DatasetDict):
        name, by_content = _choose_split(source, list(map(str, saved)), task, split)
        saved = saved[name]
    where = f"{source} ({name})" if name else source
    return ((f"{where}, row {number}", row) for number, row in enumerate(saved, 1)), by_content


def _hub_rows(source: str, task: str, split: str | None) -> tuple[Rows, bool]:
    """Rows of a Hugging Face dataset; all its configurations in turn where it has several and none is named."""
    import datasets

    name, _, config = (source, "", "") if Path(source).is_dir() else source.partition(":")
    try:
        configs = [config] if config else datasets.get_dataset_config_names(name)
        if not config and "all" in configs:
            configs = ["all"]
        wanted, by_content = _choose_split(source, datasets.get_dataset_split_names(name, configs[0]), task, split)
        loaded = [(each, datasets.load_dataset(name, each, split=wanted)) for each in configs]
    except UserError:
        raise
    except Exception as error:  # many kinds: no such dataset, no network, gated, a broken file
        raise UserError(f"{source}: no such file, and not to be had as a dataset: {one_line(error)}") from error

    def rows() -> Rows:
        for each, data in loaded:
            for number, row in enumerate(data, 1):
                if len(loaded) > 1:
                    row = {**row, "subtask": each}
                yield f"{source} ({each}, {wanted}), row {number}", row

    return rows(), by_content
