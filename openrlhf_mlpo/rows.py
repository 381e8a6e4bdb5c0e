"""One row of a benchmark or of the user's own data as a `Question`."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from typing import Any

from openrlhf_mlpo.questions import Question, question_id, with_options
from openrlhf_mlpo.text import readable
from openrlhf_mlpo.verify.choices import gold_letter, letter_at
from openrlhf_mlpo.verify.extract import box_contents

# Where a row's fields are found, by task, first match wins: the names of the usual distributions of each benchmark.
_CHOICES, _GOLD_OPTION = ("choices", "options"), ("answer", "answerKey")
_FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "math": {
        "question": ("question", "problem"),
        "answer": ("answer", "solution"),
        "subtask": ("subtask", "subject", "type"),
    },
    "bbh": {"question": ("question", "input"), "answer": ("answer", "target"), "subtask": ("subtask", "task")},
    "mmlu": {
        "question": ("question",),
        "answer": _GOLD_OPTION,
        "subtask": ("subtask", "subject", "category"),
        "choices": _CHOICES,
    },
    "exact": {
        "question": ("question", "input", "prompt", "problem"),
        "answer": ("answer", "target", "label", "answerKey"),
        "subtask": ("subtask",),
        "choices": _CHOICES,
    },
}


def to_question(row: Mapping[str, Any], task: str, columns: Mapping[str, str] | None = None) -> Question:
    """One row of any known layout as a question; `columns`: see `sources.load_questions`.

    Raises ValueError saying what the row lacks. Whether its answer can be matched is for `Question.gold_problem`.
    """
    if not all(map(str.isascii, row)):
        row = {readable(name): value for name, value in row.items()}
    fields = {**_FIELDS[task], **{ours: (theirs,) for ours, theirs in (columns or {}).items()}}

    def find(name: str) -> tuple[str, Any]:
        named = ((theirs, _lookup(row, theirs)) for theirs in fields.get(name, ()))
        present = ((theirs, value) for theirs, value in named if value is not None and value == value)  # NaN is not
        return next(present, ("", None))

    def require(name: str) -> tuple[str, Any]:
        theirs, value = find(name)
        if value is None or isinstance(value, str) and not readable(value).strip():
            raise ValueError(f"no {name} (looked for {' or '.join(fields[name])} among {', '.join(row)})")
        return theirs, value

    theirs, text = require("question")
    if not isinstance(text, str):
        inside = f"; if it is inside, name it: --columns question={theirs}.0.content" if isinstance(text, list) else ""
        raise ValueError(f"the question must be text, not {_short(text)}{inside}")
    text = readable(text)
    column, gold = require("answer")
    choices, labels = _choices(find("choices")[1])
    answer = _answer(gold, column, task)
    if answer in labels:
        answer = string.ascii_uppercase[labels.index(answer)]
    elif task == "mmlu":
        answer = _letter(gold, answer, choices)
    if choices:
        text = with_options(text, choices)
    subtask = find("subtask")[1]
    return Question(
        id=question_id(task, text, choices),
        task=task,
        text=text,
        answer=answer,
        subtask="" if subtask is None else readable(str(subtask)),
        choices=tuple(choices),
    )


def last_boxed(solution: str) -> str | None:
    r"""The content of the last \boxed{} (or \fbox{}, or `\boxed x`) of a MATH reference solution, or None."""
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        return None
    rest = solution[start:].removeprefix("\\boxed").removeprefix("\\fbox").lstrip()
    if rest.startswith("{"):
        contents = box_contents("\\boxed" + rest)
        return contents[-1].strip() or None if contents else None
    words = rest.partition("$")[0].split()
    return words[0].rstrip(".") if words else None


def _lookup(value: Any, path: str) -> Any:
    """The value at `reward_model.ground_truth` or `prompt.0.content`; None when there is none."""
    if isinstance(value, Mapping) and path in value:
        return value[path]
    name, _, rest = path.partition(".")
    if isinstance(value, list) and name.isdecimal():
        value = value[int(name)] if int(name) < len(value) else None
    else:
        value = value.get(name) if isinstance(value, Mapping) and rest else None
    return _lookup(value, rest) if rest else value


def _answer(gold: Any, column: str, task: str) -> str:
    """The gold answer, out of GSM8K's working or MATH's solution where it is inside."""
    text = _one_text(gold, "answer").strip()
    if "####" in text and task in ("math", "exact"):
        text = text.rpartition("####")[2].strip()
        if not text or "\n" in text:
            raise ValueError("no final answer on the line of the last ####, where GSM8K has it")
    elif task == "math" and column.rpartition(".")[2] == "solution":
        boxed = last_boxed(text)
        if boxed is None:
            raise ValueError("the solution has no \\boxed{} answer")
        text = boxed
    return text


def _one_text(value: Any, name: str) -> str:
    if isinstance(value, Mapping | list | tuple | set | bytes):
        fix = "; --columns can name a part of it with a dot" if isinstance(value, Mapping) else ""
        raise ValueError(f"the {name} must be one text, not {_short(value)}{fix}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the {name} is {value}")
    if isinstance(value, float) and value.is_integer():  # whole numbers of a column that also has gaps
        value = int(value)
    return readable(str(value))


def _choices(value: Any) -> tuple[list[str], list[str]]:
    """Texts and labels of the options: of a list of texts, which has no labels, or of ARC's
    `{"text": […], "label": […]}`, also option by option."""
    labels: Any = []
    if isinstance(value, Mapping) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
        value, labels = value["text"], value["label"]
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) and "text" in each for each in value):
        value, labels = [each["text"] for each in value], [each["label"] for each in value if "label" in each]
    if value is None:
        return [], []
    if not isinstance(value, list):
        raise ValueError(
            f'choices must be a list of texts or {{"text": […], "label": […]}}, which {_short(value)} is not'
        )
    if len(value) > len(string.ascii_uppercase):
        raise ValueError(f"{len(value)} choices are more than there are letters")
    if labels and len(labels) != len(value):
        raise ValueError(f"{len(value)} choices but {len(labels)} labels")
    if None in value:
        raise ValueError(f"choice {value.index(None) + 1} is null")
    return [_one_text(each, "choice") for each in value], [_one_text(each, "label").strip() for each in labels]


def _letter(gold: Any, answer: str, choices: list[str]) -> str:
    """MMLU's gold as a letter: it is distributed as a letter, an option's text, or an index from 0. `answer`: its text;
    a number is an index even where an option is that number."""
    if len(choices) < 2:
        raise ValueError("no choices")
    name = gold_letter(answer, choices) if isinstance(gold, str) else letter_at(answer, choices)
    if name is None:
        names = ", ".join(string.ascii_uppercase[: len(choices)])
        raise ValueError(f"answer {answer!r} is none of {names}, nor an option's text, nor an index from 0")
    return name


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:59] + '…'}"
