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


def points(ax, x: Sequence[float], frame: pd.DataFrame, **style) -> None:
    """Accuracy over x with the interval's ends, joined by a line."""
    below, above = frame["accuracy"] - frame["low"], frame["high"] - frame["accuracy"]
    ax.errorbar(x, frame["accuracy"], yerr=[below.clip(lower=0), above.clip(lower=0)], marker="o", capsize=3, **style)


def comparison(systems: pd.DataFrame, path: Path, main: System) -> None:
    """Accuracy of each system with its 95 % Wilson interval; `main` stands out, the oracle, a ceiling, is pale."""
    shown = systems[::-1]
    fig, ax = plt.subplots(figsize=(7.5, 0.9 + 0.32 * len(shown)))
    colours = [LEADER if s == main else CEILING if s == ORACLE else OTHER for s in shown.index]
    ends = [(shown["accuracy"] - shown["low"]).clip(lower=0), (shown["high"] - shown["accuracy"]).clip(lower=0)]
    ax.barh(range(len(shown)), shown["accuracy"], color=colours, height=0.68, xerr=ends, error_kw={"capsize": 2})
    for y, (value, high) in enumerate(zip(shown["accuracy"], shown["high"], strict=True)):
        ax.text(high + 0.012, y, f"{value:.3f}", va="center", fontsize=8)
    ax.set_yticks(range(len(shown)), map(str, shown.index), fontsize=8)
    ax.set(xlim=(0, 1.1), xlabel="accuracy (95 % Wilson interval)")
    save(fig, path)


def rounds(by_round: pd.DataFrame, path: Path, flat: Mapping[System, float]) -> None:
    """Accuracy of each leader by round; `flat` gives levels to compare with, such as majority vote, as lines."""
    fig, ax = plt.subplots(figsize=(7, 4))
    for colour, (leader, frame) in zip(cycle(COLOURS), by_round.groupby("leader", sort=False), strict=False):
        points(ax, frame["round"] + 1, frame, color=colour, label=f"{leader} + team")
    for style, (system, level) in zip(cycle(("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))), flat.items(), strict=False):
        ax.axhline(level, color="#555555", linestyle=style, linewidth=1, label=str(system))
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.set(xlabel="rounds played", ylabel="accuracy")
    save(fig, path, legend=True)


def by_correct(strata: pd.DataFrame, path: Path, systems: Sequence[System]) -> None:
    """Accuracy against how many agents' first responses were right."""
    fig, ax = plt.subplots(figsize=(6, 3.8))
    for index, (colour, system) in enumerate(zip(cycle(COLOURS), systems, strict=False)):
        frame = strata[strata["system"] == system]
        points(ax, frame["group"] + 0.06 * (index - (len(systems) - 1) / 2), frame, color=colour, label=str(system))
    sizes = strata.drop_duplicates("group").set_index("group")["n"]
    ax.set_xticks(sizes.index, [f"{group}\nn={n}" for group, n in sizes.items()], fontsize=8)
    ax.set(ylim=(-0.03, 1.03), xlabel="agents whose first response is right", ylabel="accuracy")
    save(fig, path, legend=True)


def across(runs: Mapping[str, pd.DataFrame], path: Path, systems: Sequence[System]) -> None:
    """Accuracy of the same systems over several runs: teams, seeds, team sizes."""
    fig, ax = plt.subplots(figsize=(max(6, 1.3 * len(runs) + 3), 3.8))
    for colour, system in zip(cycle(COLOURS), systems, strict=False):
        have = {x: frame.loc[system] for x, frame in enumerate(runs.values()) if system in frame.index}
        points(ax, list(have), pd.DataFrame(have.values()), color=colour, label=str(system))
    ax.set_xticks(range(len(runs)), [title.replace(", ", "\n", 1) for title in runs], fontsize=8, rotation=20)
    ax.set_ylabel("accuracy")
    save(fig, path, legend=True)


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


def save(fig, path: Path, legend: bool = False) -> None:
    """Nothing of the machine or the moment goes into the file, so that equal results give equal bytes."""
    for ax in fig.axes:
        ax.spines[["top", "right"]].set_visible(False)
    if legend:
        fig.axes[0].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    fig.savefig(path, bbox_inches="tight", dpi=100, metadata={"Software": None})
    plt.close(fig)
