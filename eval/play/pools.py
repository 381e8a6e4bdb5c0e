"""What a training pool says about the agents: which is best, over all questions and by kind (task, subtask)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openrlhf_mlpo.errors import UserError, errors_at
from openrlhf_mlpo.pool.format import open_pool
from openrlhf_mlpo.questions import Question

Kind = tuple[str, str]  # task and subtask


@dataclass
class PoolRates:
    """Responses in a pool, all and right ones, by (kind, agent); kind None: of every kind.

    `shared`: how many of the evaluation's own questions the pool holds.
    """

    right: Counter = field(default_factory=Counter)
    seen: Counter = field(default_factory=Counter)
    shared: int = 0

    def rates(self, names: Iterable[str], kind: Kind | None = None) -> dict[str, float]:
        """How often each of these agents is right; agents without a response to questions of this kind are left out."""
        return {name: self.right[kind, name] / self.seen[kind, name] for name in names if self.seen[kind, name]}


def read_pool(path: str | Path, team: Sequence[str], questions: Sequence[Question]) -> PoolRates:
    """Count a pool's responses, and those of `questions` it holds (white space does not count).

    Raises UserError when there is no pool or an agent of the team has no response in it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    with errors_at("--pool "):
        pool = open_pool(path)
    if "subtask" not in pool.column_names:
        pool = pool.add_column("subtask", [""] * len(pool))
    pool = pool.select_columns(["task", "subtask", "question", "responses"]).with_format("arrow")
    counts = PoolRates()
    texts = {" ".join(question.text.split()) for question in questions}
    for batch in pool.iter(batch_size=20_000):
        lists = batch["responses"].combine_chunks()
        of_row, responses = pc.list_parent_indices(lists), lists.flatten()
        columns = {name: pc.fill_null(batch[name], "").take(of_row) for name in ("task", "subtask")}
        columns |= {name: pc.struct_field(responses, name) for name in ("agent", "correct")}
        sums = pa.table(columns).group_by(["task", "subtask", "agent"]).aggregate(
            [("correct", "sum"), ("agent", "count")]
        )  # fmt: skip
        for row in sums.to_pylist():
            for kind in (None, (row["task"], row["subtask"])):
                counts.right[kind, row["agent"]] += row["correct_sum"] or 0
                counts.seen[kind, row["agent"]] += row["agent_count"]
        asked = {" ".join(text.split()) for text in batch["question"].to_pylist()}
        counts.shared += len(texts & asked)
        texts -= asked
    if missing := [name for name in team if not counts.seen[None, name]]:
        there = ", ".join(sorted({name for _, name in counts.seen}))
        raise UserError(f"--pool {path} holds no responses of agent {missing[0]!r}; it has {there}")
    return counts
