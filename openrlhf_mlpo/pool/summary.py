"""What a pool holds: accuracy by agent and task, agreement, oracle and majority, tokens, what the filter drops."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.draw import MAX_CORRECT, keep_question
from openrlhf_mlpo.pool.format import count_rows, pool_files, reading
from openrlhf_mlpo.questions import COLUMNS, Question, majority
from openrlhf_mlpo.text import markdown_table

# All of `responses` but its texts, which are most of a pool.
_FIELDS = ("agent", "sample", "answer", "correct", "completion_tokens", "finish_reason")


def count(question: Question, responses: list[dict], max_correct: float) -> Counter:
    """What one question adds to the counts of a table. A draw is sample m of every agent: M draws per question.

    questions, kept, possible (one of all K·M responses is right), draws, oracle, majority (is right), pairs, agreeing;
    with an agent's name behind, responses, right, unanswered, cut, tokens; and ("draws", k): k agents are right.
    """
    counts: Counter = Counter(questions=1, kept=keep_question(responses, max_correct))
    counts["possible"] = any(response["correct"] for response in responses)
    draws = defaultdict(list)
    for response in responses:
        agent = response["agent"]
        counts["responses", agent] += 1
        counts["right", agent] += bool(response["correct"])
        counts["unanswered", agent] += response["answer"] is None
        counts["cut", agent] += response["finish_reason"] == "length"
        counts["tokens", agent] += response["completion_tokens"]
        draws[response["sample"]].append((question.key(response["answer"]), bool(response["correct"])))
    for draw in draws.values():
        keys, right = zip(*draw)
        pairs = [first is not None and first == second for first, second in combinations(keys, 2)]
        counts.update(draws=1, oracle=any(right), majority=majority(keys, right) is True)
        counts.update(pairs=len(pairs), agreeing=sum(pairs))
        counts["draws", sum(right)] += 1
    return counts


def summarize(path: str | Path, max_correct: float = MAX_CORRECT) -> dict[str, Counter]:
    """Counts of a finished pool: "all", then by task, subtasks as `bbh/NAME`. Reads the pool once, in batches."""
    files = pool_files(path)
    total = sum(count_rows(path, files))
    columns = set(pq.ParquetFile(files[0]).schema_arrow.names)
    if missing := [name for name in ("task", "responses") if name not in columns]:
        raise UserError(f"{path}: not a pool, column {missing[0]} is missing")
    wanted = [name for name in COLUMNS if name in columns]
    wanted += [f"responses.list.element.{name}" for name in _FIELDS]
    totals: dict[tuple[str, str], Counter] = defaultdict(Counter)
    with tqdm(total=total, desc="reading", unit="question", disable=None, leave=False) as bar:
        for file in files:
            with reading(file):
                for batch in pq.ParquetFile(file).iter_batches(batch_size=1024, columns=wanted):
                    for row in batch.to_pylist():
                        question = Question.from_row(row)
                        counts = count(question, row["responses"], max_correct)
                        totals[question.task, question.subtask].update(counts)
                    bar.update(len(batch))
    by_name: dict[str, Counter] = defaultdict(Counter)
    for task, subtask in sorted(totals):
        for name in ("all", task, *([f"{task}/{subtask}"] if subtask else [])):
            by_name[name].update(totals[task, subtask])
    return dict(by_name)


def table(tallies: dict[str, Counter], max_correct: float = MAX_CORRECT) -> str:
    """The summary as Markdown."""
    every = tallies["all"]
    agents = _agents(every)
    rows = []
    for name, c in tallies.items() if len(tallies) > 2 else [("all", every)]:
        cells = [_percent(c["right", agent], c["responses", agent]) for agent in agents]
        cells += [_percent(c["majority"], c["draws"]), _percent(c["oracle"], c["draws"])]
        cells += [_percent(c["possible"], c["questions"]), _percent(c["agreeing"], c["pairs"])]
        rows.append([name, c["questions"], *cells, _percent(c["kept"], c["questions"])])
    by_agent = []
    for agent in agents:
        responses, tokens = every["responses", agent], every["tokens", agent]
        cells = [_percent(every[what, agent], responses) for what in ("unanswered", "cut")]
        by_agent.append([agent, responses, *cells, f"{tokens / responses:.0f}", tokens])
    draws = [(k, every["draws", k], _percent(every["draws", k], every["draws"])) for k in range(len(agents) + 1)]
    heads = ("accuracy", "questions", *agents, "majority", "oracle", "any of all", "agreement", "kept")
    note = (
        "Majority and oracle are per draw (sample m of every agent); majority needs more than half of the agents. "
        "Agreement: pairs of agents with equal answers. Kept: what the filter leaves (fewer than "
        f"{max_correct:.0%} of the responses right); it drops {every['questions'] - every['kept']} questions."
    )
    samples = every["draws"] // every["questions"]
    lines = [f"{every['questions']} questions, {len(agents)} agents, {samples} samples each", ""]
    lines += [*markdown_table(heads, rows), "", note, ""]
    lines += markdown_table(("agent", "responses", "no answer", "cut at max_tokens", "tokens each", "tokens"), by_agent)
    return "\n".join([*lines, "", *markdown_table(("agents right", "draws", "share"), draws)])


def plot(tallies: dict[str, Counter], path: str | Path) -> None:
    """Draw accuracy by agent and task, and how many agents are right, into an image file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    every = tallies["all"]
    tasks = [name for name in tallies if "/" not in name]
    groups = tasks if len(tasks) > 2 else ["all", *(name for name in tallies if "/" in name)]
    lines: list[tuple[str, Any, Any]] = [(name, ("right", name), ("responses", name)) for name in _agents(every)]
    lines += [(name, name, "draws") for name in ("majority", "oracle")]
    bars = {name: [tallies[g][part] / max(tallies[g][whole], 1) for g in groups] for name, part, whole in lines}
    accuracy = pd.DataFrame(bars, index=[name.split("/")[-1] for name in groups])
    draws = pd.Series([every["draws", k] / every["draws"] for k in range(len(_agents(every)) + 1)])
    size = (max(10, 3 + len(groups)), 4)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=[2, 1], layout="constrained")
    accuracy.plot.bar(ax=left, width=0.8, ylabel="accuracy", ylim=(0, 1), title="Accuracy by agent", rot=45)
    left.legend(fontsize="small")
    draws.plot.bar(ax=right, rot=0, ylabel="share of draws", title="Right agents per draw")
    right.set_xlabel("agents that are right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _agents(counts: Counter) -> list[str]:
    return [key[1] for key in counts if key[0] == "responses"]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
