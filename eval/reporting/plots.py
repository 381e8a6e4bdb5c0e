"""The plots of a report, as PNG files. Each function draws one picture from a table of eval/reporting/analysis.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib import ticker  # noqa: E402

from eval.reporting.runs import ORACLE, System  # noqa: E402

LEADER, OTHER, CEILING = "#1f6f8b", "#9aa5b1", "#d9dde2"
COLOURS = ("#1f6f8b", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#2e4057", "#b5838d", "#606c38")


def ends(frame: pd.DataFrame) -> list[pd.Series]:
    """An interval's ends as matplotlib wants them: distances below and above."""
    return [(frame["accuracy"] - frame["low"]).clip(lower=0), (frame["high"] - frame["accuracy"]).clip(lower=0)]


def comparison(systems: pd.DataFrame, path: Path, main: System) -> None:
    """Accuracy of each system with its 95 % Wilson interval; `main` stands out, the oracle, a ceiling, is pale."""
    shown = systems[::-1]
    fig, ax = plt.subplots(figsize=(7.5, 0.9 + 0.32 * len(shown)))
    colours = [LEADER if s == main else CEILING if s == ORACLE else OTHER for s in shown.index]
    ax.barh(range(len(shown)), shown["accuracy"], color=colours, height=0.68, xerr=ends(shown), error_kw={"capsize": 2})
    for y, (value, high) in enumerate(zip(shown["accuracy"], shown["high"], strict=True)):
        ax.text(high + 0.012, y, f"{value:.3f}", va="center", fontsize=8)
    ax.set_yticks(range(len(shown)), map(str, shown.index), fontsize=8)
    ax.set(xlim=(0, 1.1), xlabel="accuracy (95 % Wilson interval)")
    save(fig, path)


def lines(
    frame: pd.DataFrame, path: Path, x: str, label: str, names: Sequence[str], flat: Mapping | None = None
) -> None:
    """Accuracy with its interval over column `x` (0, 1, …, that stand for `names`), a line per `series`.

    `flat`: levels to compare with, such as majority vote, as horizontal lines.
    """
    fig, ax = plt.subplots(figsize=(max(6.5, 1.3 * len(names) + 2), 4))
    several = frame.groupby(frame["series"].map(str), sort=False)
    for index, (colour, (name, line)) in enumerate(zip(cycle(COLOURS), several, strict=False)):
        at = line[x] + 0.015 * len(names) * (index - (len(several) - 1) / 2)  # side by side, so that intervals show
        ax.errorbar(at, line["accuracy"], yerr=ends(line), marker="o", capsize=3, color=colour, label=name)
    for style, (name, level) in zip(
        cycle(("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))), (flat or {}).items(), strict=False
    ):
        ax.axhline(level, color="#555555", linestyle=style, linewidth=1, label=str(name))
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set(xlabel=label, ylabel="accuracy (95 % intervals)")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(fig, path)


def learning_curves(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """`{tag: {run: [(step, value)]}}`, one small plot per tag."""
    lines = -(-len(curves) // 3)
    fig, axes = plt.subplots(lines, 3, figsize=(11, 2.4 * lines), squeeze=False, layout="constrained")
    for ax, (tag, runs) in zip(axes.flat, curves.items(), strict=False):
        for colour, (run, values) in zip(cycle(COLOURS), runs.items(), strict=False):
            few = "." if len(values) < 30 else None
            ax.plot(*zip(*values, strict=True), color=colour, label=run, linewidth=1.2, marker=few)
        ax.set_title(tag, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=6))
        if len(runs) > 1:
            ax.legend(fontsize=7)
    for ax in axes.flat[len(curves) :]:
        ax.set_visible(False)
    save(fig, path)


def save(fig, path: Path) -> None:
    """Nothing of the machine or the moment goes into the file, so that equal results give equal bytes."""
    for ax in fig.axes:
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, bbox_inches="tight", dpi=100, metadata={"Software": None})
    plt.close(fig)
