"""What a pool holds: accuracy by agent and task, agreement, oracle and majority, tokens, what the filter drops."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.draw import MAX_CORRECT, keep_question
from openrlhf_mlpo.pool.format import pool_files
from openrlhf_mlpo.questions import COLUMNS, Question, majority

# All of `responses` but its texts, which are most of a pool.
_FIELDS = ("agent", "sample", "answer", "correct", "completion_tokens", "finish_reason")


@dataclass
class Tally:
    """Counts over the questions of one task (or of all). A draw is sample m of every agent: M draws per question."""

    questions: int = 0
    kept: int = 0
    draws: int = 0
    oracle: int = 0
    best_possible: int = 0  # questions with at least one right response among all K·M
    majority: Counter = field(default_factory=Counter)  # True, False, None -> draws
    right_agents: Counter = field(default_factory=Counter)  # how many agents of a draw are right -> draws
    pairs: int = 0
    agreeing: int = 0
    samples: Counter = field(default_factory=Counter)  # agent -> responses
    correct: Counter = field(default_factory=Counter)
    unanswered: Counter = field(default_factory=Counter)
    cut: Counter = field(default_factory=Counter)
    tokens: Counter = field(default_factory=Counter)

    def add(self, row: dict, max_correct: float) -> None:
        """Count one question, given as a row of a pool."""
        responses = row["responses"]
        question = Question.from_row(row)
        self.questions += 1
        self.kept += keep_question(responses, max_correct)
        self.best_possible += any(response["correct"] for response in responses)
        draws: dict[int, list[dict]] = defaultdict(list)
        for response in responses:
            agent = response["agent"]
            self.samples[agent] += 1
            self.correct[agent] += bool(response["correct"])
            self.unanswered[agent] += response["answer"] is None
            self.cut[agent] += response["finish_reason"] == "length"
            self.tokens[agent] += response["completion_tokens"]
            draws[response["sample"]].append(response)
        for draw in draws.values():
            keys = [question.key(response["answer"]) for response in draw]
            right = [bool(response["correct"]) for response in draw]
            self.draws += 1
            self.oracle += any(right)
            self.right_agents[sum(right)] += 1
            self.majority[majority(keys, right)] += 1
            for first in range(len(keys)):
                for second in range(first):
                    self.pairs += 1
                    self.agreeing += keys[first] is not None and keys[first] == keys[second]


def summarize(path: str | Path, max_correct: float = MAX_CORRECT) -> dict[str, Tally]:
    """Tallies of a finished pool by task, BBH's subtasks as `bbh/NAME`, and "all". Reads the pool once, in batches."""
    import pyarrow.parquet as pq
    from tqdm import tqdm

    files = [pq.ParquetFile(file) for file in pool_files(path)]
    columns = set(files[0].schema_arrow.names)
    if missing := [name for name in ("task", "responses") if name not in columns]:
        raise UserError(f"{path}: not a pool, column {missing[0]} is missing")
    tallies: dict[str, Tally] = defaultdict(Tally)
    total = sum(file.metadata.num_rows for file in files)
    wanted = [name for name in COLUMNS if name in columns]
    wanted += [f"responses.list.element.{name}" for name in _FIELDS]
    with tqdm(total=total, desc="reading", unit="question", disable=None, leave=False) as bar:
        for file in files:
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for row in batch.to_pylist():
                    task, subtask = row["task"], row.get("subtask")
                    for name in ("all", task, *([f"{task}/{subtask}"] if subtask else [])):
                        tallies[name].add(row, max_correct)
                bar.update(len(batch))
    return dict(tallies)


def table(tallies: dict[str, Tally], max_correct: float = MAX_CORRECT) -> str:
    """The summary as Markdown."""
    every = tallies["all"]
    agents = list(every.samples)
    names = sorted((name for name in tallies if name != "all"), key=lambda name: (name.split("/")[0], name))
    if len(names) == 1:
        names = []
    lines = [
        f"{every.questions} questions, {len(agents)} agents, {every.draws // max(every.questions, 1)} samples each",
        "",
    ]
    lines += _rows(
        ["accuracy", "questions", *agents, "majority", "oracle", "any of all", "agreement", "kept"],
        (
            [
                name,
                str(t.questions),
                *(_percent(t.correct[agent], t.samples[agent]) for agent in agents),
                _percent(t.majority[True], t.draws),
                _percent(t.oracle, t.draws),
                _percent(t.best_possible, t.questions),
                _percent(t.agreeing, t.pairs),
                _percent(t.kept, t.questions),
            ]
            for name, t in ((name, tallies[name]) for name in ["all", *names])
        ),
    )
    lines += [
        "",
        "Majority and oracle are per draw (sample m of every agent); majority needs more than half of the agents. "
        "Agreement: pairs of agents with equal answers. Kept: what the filter leaves "
        f"(fewer than {max_correct:.0%} of the responses right); it drops {every.questions - every.kept} questions.",
        "",
    ]
    lines += _rows(
        ["agent", "responses", "no answer", "cut at max_tokens", "tokens each", "tokens"],
        (
            [
                a,
                str(every.samples[a]),
                _percent(every.unanswered[a], every.samples[a]),
                _percent(every.cut[a], every.samples[a]),
                f"{every.tokens[a] / max(every.samples[a], 1):.0f}",
                str(every.tokens[a]),
            ]
            for a in agents
        ),
    )
    lines += [""]
    lines += _rows(
        ["agents right", "draws", "share"],
        (
            [str(k), str(every.right_agents[k]), _percent(every.right_agents[k], every.draws)]
            for k in range(len(agents) + 1)
        ),
    )
    return "\n".join(lines)


def plot(tallies: dict[str, Tally], path: str | Path) -> None:
    """Draw accuracy by agent and task, and how many agents are right, into an image file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    every = tallies["all"]
    agents = list(every.samples)
    tasks = [name for name in tallies if "/" not in name and name != "all"]
    groups = ["all", *tasks] if len(tasks) > 1 else ["all", *sorted(name for name in tallies if "/" in name)]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(max(10, 3 + len(groups)), 4), width_ratios=[2, 1], layout="constrained"
    )
    bars = {agent: [t.correct[agent] / max(t.samples[agent], 1) for t in map(tallies.get, groups)] for agent in agents}
    bars["majority"] = [t.majority[True] / max(t.draws, 1) for t in map(tallies.get, groups)]
    bars["oracle"] = [t.oracle / max(t.draws, 1) for t in map(tallies.get, groups)]
    width = 0.8 / len(bars)
    for number, (name, values) in enumerate(bars.items()):
        left.bar([x + (number - len(bars) / 2 + 0.5) * width for x in range(len(groups))], values, width, label=name)
    left.set_xticks(
        range(len(groups)),
        [name.split("/")[-1] for name in groups],
        rotation=45 if len(groups) > 4 else 0,
        ha="right" if len(groups) > 4 else "center",
    )
    left.set(ylabel="accuracy", ylim=(0, 1), title="Accuracy by agent")
    left.legend(fontsize="small")
    right.bar(range(len(agents) + 1), [every.right_agents[k] / max(every.draws, 1) for k in range(len(agents) + 1)])
    right.set(xlabel="agents that are right", ylabel="share of draws", title="Right agents per draw")
    right.set_xticks(range(len(agents) + 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _rows(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| "
        + " | ".join(
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = "| " + " | ".join("-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return [lines[0], rule, *lines[1:]]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
