"""Questions of MATH, BBH, MMLU or the user's own data in one schema, with ids and splits that follow from content.

A question is a row with `COLUMNS`: id (hash of task, text and choices), task, subtask ("" if none), question (the text
that models see, options included), answer (the gold answer), choices ([] if none).
"""

from __future__ import annotations

import hashlib
import json
import string
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from openrlhf_mlpo.errors import UserError

COLUMNS = ("id", "task", "subtask", "question", "answer", "choices")
TASKS = ("math", "bbh", "mmlu", "exact")
TEST_FRACTION = 0.2

# Where a row's fields are found, by task, first match wins: the names of the usual distributions of each benchmark.
_FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "math": {
        "question": ("question", "problem"),
        "answer": ("answer", "solution"),
        "subtask": ("subtask", "subject", "type"),
    },
    "bbh": {"question": ("question", "input"), "answer": ("answer", "target"), "subtask": ("subtask", "task")},
    "mmlu": {
        "question": ("question",),
        "answer": ("answer",),
        "subtask": ("subtask", "subject"),
        "choices": ("choices",),
    },
    "exact": {
        "question": ("question", "input", "prompt", "problem"),
        "answer": ("answer", "target", "label"),
        "subtask": ("subtask",),
        "choices": ("choices",),
    },
}


def load_questions(
    source: str,
    task: str,
    *,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    test_fraction: float = TEST_FRACTION,
    skip_bad: bool = False,
    check_gold: bool = True,
):
    """Questions of `source` as a `datasets.Dataset` with `COLUMNS`, in the order of the source.

    `source`: a .jsonl or .parquet file, a directory of them, or a Hugging Face dataset (`NAME` or `NAME:CONFIG`;
    `EleutherAI/hendrycks_math`, `HuggingFaceH4/MATH-500`, `lukaemon/bbh`, `cais/mmlu:all`, …). `columns` maps our names
    to the source's (`{"question": "prompt_text"}`). `split`: a split the source has; or "train"/"test" where it has
    none, and for BBH: then rows are divided by a hash of their content, `test_fraction` of them to "test", so that
    equal questions never end up on both sides. None: all rows of a file, the only split of a dataset.
    A row without question or answer, an id of the source's own used for two questions, one question with two answers,
    or a gold answer that could never be matched raises UserError with its place; with `skip_bad` such rows are left out
    and counted on stderr. A row that repeats another is always left out, with a note.
    """
    if task not in TASKS:
        raise UserError(f"--task {task!r} is unknown; the tasks are {', '.join(TASKS)}")
    if unknown := sorted(set(columns or {}) - set(COLUMNS[2:])):
        raise UserError(f"--columns: {unknown[0]!r} is no column of ours; they are {', '.join(COLUMNS[2:])}")
    if not 0 < test_fraction < 1:
        raise UserError(f"--test-fraction must be between 0 and 1, not {test_fraction}")
    rows, split_by_content = open_source(source, task, split)
    if split_by_content and split not in (None, "train", "test"):
        raise UserError(f"{source}: has no split {split!r}; train and test are made from content")
    kept: dict[str, list] = {name: [] for name in COLUMNS}
    first_seen: dict[str, tuple[str, str]] = {}  # our id -> place, answer
    own_ids: dict[Any, tuple[str, str]] = {}  # the source's id -> place, our id
    bad: list[str] = []
    repeats: list[str] = []
    for place, raw in rows:
        try:
            row = to_question(raw, task, columns)
            if row["id"] in first_seen:
                earlier, answer = first_seen[row["id"]]
                if answer != row["answer"]:
                    raise ValueError(f"answer {row['answer']!r}, but {answer!r} for the same question at {earlier}")
                repeats.append(f"{place} repeats {earlier}")
                continue
            given = raw.get("id")
            if given is not None and own_ids.setdefault(str(given), (place, row["id"]))[1] != row["id"]:
                raise ValueError(f"id {given!r} is that of another question at {own_ids[str(given)][0]}")
            if check_gold and (problem := _gold_problem(row)):
                raise ValueError(problem)
        except ValueError as error:
            bad.append(f"{place}: {error}")
            if not skip_bad:
                raise UserError(f"{bad[0]}; mend the row, or pass --skip-bad-rows to leave such rows out") from None
            continue
        first_seen[row["id"]] = (place, row["answer"])
        if split_by_content and split and split_of(row["id"], test_fraction) != split:
            continue
        for name in COLUMNS:
            kept[name].append(row[name])
    if repeats:  # harmless, and BBH itself has some
        print(f"note: {len(repeats)} repeated questions left out, the first: {repeats[0]}", file=sys.stderr)
    if bad:
        print(f"warning: {len(bad)} rows left out, the first: {bad[0]}", file=sys.stderr)
    if not kept["id"]:
        raise UserError(f"{source}: no questions" + (f" in split {split!r}" if split else ""))
    return questions_dataset(kept)


def questions_dataset(columns: dict[str, list]):
    """A `datasets.Dataset` of question columns with fixed types (so that an empty `choices` is a list of strings)."""
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    return Dataset.from_dict(columns, features=Features({n: List(text) if n == "choices" else text for n in COLUMNS}))


def to_question(row: dict[str, Any], task: str, columns: dict[str, str] | None = None) -> dict[str, Any]:
    """One row of any known layout as a question. Raises ValueError saying what it lacks."""
    fields = {**_FIELDS[task], **{name: (source,) for name, source in (columns or {}).items()}}

    def get(name: str) -> Any:
        for key in fields.get(name, ()):
            if row.get(key) is not None:
                return row[key]
        return None

    def require(name: str) -> Any:
        value = get(name)
        if value is None or isinstance(value, str) and not value.strip():
            raise ValueError(f"no {name} (looked for {' or '.join(fields[name])} among {', '.join(map(str, row))})")
        return value

    question, answer = require("question"), require("answer")
    choices = [str(choice) for choice in (get("choices") if get("choices") is not None else [])]
    if not isinstance(question, str):
        raise ValueError(f"the question must be text, not {question!r}")
    if task == "math" and "answer" not in row and not (columns or {}).get("answer"):
        answer = last_boxed(str(answer))
        if answer is None:
            raise ValueError("the solution has no \\boxed{} answer")
    if task == "mmlu":
        if len(choices) < 2:
            raise ValueError("no choices")
        answer = _letter(answer, choices)
    if choices:
        question = with_options(question, choices)
    return {
        "id": question_id(task, question, choices),
        "task": task,
        "subtask": str(get("subtask") or ""),
        "question": question,
        "answer": str(answer).strip(),
        "choices": choices,
    }


def question_id(task: str, question: str, choices: Iterable[str] = ()) -> str:
    """16 hex digits from task, question (white space does not count) and choices: the same everywhere, for ever."""
    content = json.dumps([task, " ".join(question.split()), [" ".join(choice.split()) for choice in choices]])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def split_of(question_id: str, test_fraction: float = TEST_FRACTION) -> str:
    """ "train" or "test", decided by the id alone: it stays when rows are added, removed or reordered."""
    place = int(hashlib.sha256(f"split {question_id}".encode()).hexdigest()[:8], 16) / 16**8
    return "test" if place < test_fraction else "train"


def with_options(question: str, choices: list[str]) -> str:
    """The question followed by its lettered options, added once however often this is called."""
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))
    return question if question.endswith(options) else f"{question.rstrip()}\n{options}"


def parse_columns(text: str) -> dict[str, str] | None:
    """`question=prompt,answer=gold` as a mapping from our names to the file's. Raises UserError."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if any(not (ours.strip() and theirs.strip()) for ours, _, theirs in pairs):
        raise UserError(f"--columns {text!r}: write OURS=THEIRS, for example question=prompt,answer=gold")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs} or None


def last_boxed(solution: str) -> str | None:
    r"""The content of the last \boxed{} (or \fbox{}, or `\boxed x`) of a MATH reference solution, or None."""
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        return None
    rest = solution[start:].split("boxed" if solution.startswith("\\boxed", start) else "fbox", 1)[1]
    if not rest.lstrip().startswith("{"):
        return rest.split("$")[0].split()[0].rstrip(".") if rest.split("$")[0].split() else None
    rest, depth = rest.lstrip(), 0
    for position, character in enumerate(rest):
        escaped = position > 0 and rest[position - 1] == "\\"
        depth += (character == "{") - (character == "}") if not escaped else 0
        if depth == 0 and character == "}" and not escaped:
            return rest[1:position].strip() or None
    return None


def _letter(answer: Any, choices: list[str]) -> str:
    """MMLU's gold as a letter: it is distributed as a letter or as an index."""
    letters = string.ascii_uppercase[: len(choices)]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(letters):
        return letters[answer]
    text = str(answer).strip()
    if len(text) == 1 and text.upper() in letters:
        return text.upper()
    if text.isdigit() and int(text) < len(letters) and text not in choices:
        return letters[int(text)]
    raise ValueError(f"answer {answer!r} is none of {', '.join(letters)} and no index of the {len(choices)} choices")


def _gold_problem(row: dict) -> str | None:
    from openrlhf_mlpo.verify import gold_problem

    return gold_problem(row["answer"], row["task"], subtask=row["subtask"] or None, choices=row["choices"])


Rows = Iterator[tuple[str, dict]]


def open_source(source: str, task: str, split: str | None) -> tuple[Rows, bool]:
    """(place, row) pairs, and whether a split has to be made from content."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if file.suffix in _READERS and not file.name.startswith((".", "_"))
        )
        if not files:
            raise UserError(f"{source}: the directory holds no {' or '.join(_READERS)} file")
        return (pair for file in files for pair in _READERS[file.suffix](file)), True
    if path.is_file():
        if path.suffix not in _READERS:
            raise UserError(f"{source}: unknown kind of file; questions come as {', '.join(_READERS)}")
        return _READERS[path.suffix](path), True
    if path.suffix in _READERS or source.startswith((".", "/", "~")):
        raise UserError(f"{source}: no such file")
    return _hub_rows(source, task, split)


def _read_jsonl(path: Path) -> Rows:
    with path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path}, line {number}: not valid JSON: {error}") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: must be a JSON object, not {type(row).__name__}")
                yield f"{path}, line {number}", row
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text: {error}") from None


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file: {' '.join(str(error).split())}") from None


_READERS: dict[str, Callable[[Path], Rows]] = {".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _hub_rows(source: str, task: str, split: str | None) -> tuple[Rows, bool]:
    """Rows of a Hugging Face dataset; all its configurations in turn where it has several and none is named."""
    import datasets

    name, _, config = source.partition(":")
    try:
        configs = [config] if config else datasets.get_dataset_config_names(name)
        if not config and "all" in configs:
            configs = ["all"]
        native = datasets.get_dataset_split_names(name, configs[0])
        # BBH has one split, called test or train, in every distribution: its two halves come from content.
        by_content = task == "bbh" or len(native) == 1 and split is not None and split not in native
        wanted = native[0] if by_content else split or (native[0] if len(native) == 1 else None)
        if wanted not in native:
            raise UserError(f"{source}: choose --split from {', '.join(native)}")
        loaded = [(each, datasets.load_dataset(name, each, split=wanted)) for each in configs]
    except UserError:
        raise
    except Exception as error:  # many kinds: no such dataset, no network, gated, a broken file
        raise UserError(
            f"{source}: no such file, and not to be had as a dataset: {' '.join(str(error).split())[:300]}"
        ) from error

    def rows() -> Rows:
        for each, data in loaded:
            for number, row in enumerate(data, 1):
                if len(loaded) > 1:
                    row = {**row, "subtask": each}
                yield f"{source} ({each}, {wanted}), row {number}", row

    return rows(), by_content
