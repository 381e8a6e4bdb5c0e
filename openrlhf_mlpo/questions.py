"""`Question`: what is asked, its gold answer, how a response is verified and in which form answers are compared."""

from __future__ import annotations

import hashlib
import json
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from openrlhf_mlpo import verify
from openrlhf_mlpo.verify import Verdict

COLUMNS = ("id", "task", "subtask", "question", "answer", "choices")
TASKS = verify.TASKS
TEST_FRACTION = 0.2

_key = lru_cache(maxsize=1 << 16)(verify.canonical)  # few answers, many draws and votes


@dataclass(frozen=True)
class Question:
    """A question x with its gold answer.

    `id`: see `question_id`; `task`: one of `TASKS`; `text`: what models see, options included; `answer`: the gold
    answer; `subtask`: "" if none; `choices`: the options of a multiple-choice question, () if none.
    """

    id: str
    task: str
    text: str
    answer: str
    subtask: str = ""
    choices: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Question:
        """The question of a row with `COLUMNS`; subtask and choices may be missing or null."""
        return cls(
            id=row["id"],
            task=row["task"],
            text=row["question"],
            answer=row["answer"],
            subtask=row.get("subtask") or "",
            choices=tuple(row.get("choices") or ()),
        )

    def row(self) -> dict[str, Any]:
        """The row with `COLUMNS` that files and pools hold."""
        return {
            "id": self.id,
            "task": self.task,
            "subtask": self.subtask,
            "question": self.text,
            "answer": self.answer,
            "choices": list(self.choices),
        }

    def verify(self, response: str) -> Verdict:
        """Whether one response (without its prompt) is right."""
        return verify.verify_response(response, self.answer, self.task, subtask=self.subtask, choices=self.choices)

    def key(self, answer: str | None) -> str | None:
        """The form in which answers to this question are compared and votes counted; None (no answer) stays None."""
        if answer is None:
            return None
        return _key(answer, self.task, subtask=self.subtask, choices=self.choices, gold=self.answer)

    def gold_problem(self) -> str | None:
        """Why the gold answer can never pay, or is none, in one clause; None when it can."""
        return verify.gold_problem(self.answer, self.task, subtask=self.subtask, choices=self.choices)


def majority(keys: Sequence[str | None], correct: Sequence[bool]) -> bool | None:
    """Whether the answer that more than half of K responses give is right; None when no answer has that many.

    `keys`: `Question.key` of each response's answer; None counts towards K and votes for nothing.
    """
    votes = Counter(key for key in keys if key is not None)
    if not votes:
        return None
    winner, count = votes.most_common(1)[0]
    if 2 * count <= len(keys):
        return None
    # Keys are cheaper than the verifier, which may tell two equal ones apart: the majority of its verdicts decides.
    verdicts = [right for key, right in zip(keys, correct, strict=True) if key == winner]
    return 2 * sum(verdicts) > len(verdicts)


def question_id(task: str, question: str, choices: Iterable[str] = ()) -> str:
    """16 hex digits from task, question (white space does not count) and choices: the same everywhere, for ever."""
    content = json.dumps([task, " ".join(question.split()), [" ".join(choice.split()) for choice in choices]])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def split_of(question_id: str, test_fraction: float = TEST_FRACTION) -> str:
    """ "train" or "test", decided by the id alone: it stays when rows are added, removed or reordered."""
    place = int(hashlib.sha256(f"split {question_id}".encode()).hexdigest()[:8], 16) / 16**8
    return "test" if place < test_fraction else "train"


def with_options(question: str, choices: Sequence[str]) -> str:
    """The question followed by its lettered options, added once however often this is called."""
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))
    return question if question.endswith(options) else f"{question.rstrip()}\n{options}"


def questions_dataset(questions: Iterable[Question]):
    """A `datasets.Dataset` with `COLUMNS` and fixed types (so that empty `choices` are lists of strings)."""
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    rows = [question.row() for question in questions]
    features = Features({name: List(text) if name == "choices" else text for name in COLUMNS})
    return Dataset.from_dict({name: [row[name] for row in rows] for name in COLUMNS}, features=features)
