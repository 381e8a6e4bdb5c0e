"""The plots of a report, as PNG files. Each function draws one picture from the dictionaries of eval/analysis.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import matplotlib.ticker  # noqa: E402

LEADER, OTHER, CEILING = "#1f6f8b", "#9aa5b1", "#d9dde2"
CYCLE = ("#1f6f8b", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#2e4057", "#b5838d", "#606c38")
# Nothing of the machine or the moment goes into the file, so that equal results give equal bytes.
SAVE = {"dpi": 100, "metadata": {"Software": None}}


def comparison(systems: Mapping[str, Mapping], path: Path, main: str = "") -> None:
    """Accuracy of each system with its 95 % Wilson interval; `main` stands out, the oracle, a ceiling, is pale."""
    names = [name for name in systems if systems[name]["accuracy"] is not None][::-1]
    fig, ax = plt.subplots(figsize=(7.5, 0.9 + 0.32 * len(names)))
    values = [systems[name]["accuracy"] for name in names]
    colours = [LEADER if name == main else CEILING if name == "oracle" else OTHER for name in names]
    ax.barh(range(len(names)), values, color=colours, height=0.68)
    ax.errorbar(values, range(len(names)), xerr=_bars(values, [systems[n]["ci95"] for n in names]), fmt="none",
                ecolor="#333333", elinewidth=1, capsize=2)  # fmt: skip
    for y, (name, value) in enumerate(zip(names, values, strict=True)):
        ax.text(max(systems[name]["ci95"][1], value) + 0.012, y, f"{value:.3f}", va="center", fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_xlim(0, 1.1)
    ax.set_xlabel("accuracy (95 % Wilson interval)")
    _save(fig, ax, path)


def rounds(by_round: Mapping[str, Sequence[Mapping]], path: Path, flat: Mapping[str, float] | None = None) -> None:
    """Accuracy of each leader by round; `flat` gives levels to compare with, such as majority vote."""
    fig, ax = plt.subplots(figsize=(6, 3.8))
    for colour, (leader, points) in zip(_cycle(), by_round.items(), strict=False):
        x, y = [p["round"] + 1 for p in points], [p["accuracy"] for p in points]
        ax.errorbar(x, y, yerr=_bars(y, [p["ci95"] for p in points]), marker="o", color=colour, capsize=3, label=leader)
    for style, (name, level) in zip(("--", ":", "-."), (flat or {}).items(), strict=False):
        ax.axhline(level, color="#555555", linestyle=style, linewidth=1, label=name)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    ax.set_xlabel("rounds played")
    ax.set_ylabel("accuracy of leader + team")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(fig, ax, path)


def by_correct(strata: Mapping[str, Mapping[str, Mapping]], path: Path, systems: Sequence[str]) -> None:
    """Accuracy against how many agents' first responses were right."""
    fig, ax = plt.subplots(figsize=(6, 3.8))
    shown = [name for name in systems if name in strata]
    for index, (colour, name) in enumerate(zip(_cycle(), shown, strict=False)):
        groups = sorted(strata[name].items(), key=lambda item: int(item[0]))
        x = [int(group) + 0.06 * (index - (len(shown) - 1) / 2) for group, _ in groups]
        y = [r["accuracy"] for _, r in groups]
        ax.errorbar(
            x, y, yerr=_bars(y, [r["ci95"] for _, r in groups]), marker="o", color=colour, capsize=2, label=name
        )
    if shown:
        groups = sorted(strata[shown[0]].items(), key=lambda item: int(item[0]))
        ax.set_xticks([int(g) for g, _ in groups], [f"{g}\nn={r['n']}" for g, r in groups], fontsize=8)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("agents whose first response is right")
    ax.set_ylabel("accuracy")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(fig, ax, path)


def cost(
    systems: Mapping[str, Mapping], by_round: Mapping[str, Sequence[Mapping]], path: Path, skip=("oracle",)
) -> None:
    """Accuracy against tokens per question; a leader's rounds are joined by a line."""
    fig, ax = plt.subplots(figsize=(7, 4.2))
    for colour, (leader, points) in zip(_cycle(), by_round.items(), strict=False):
        ax.plot([p["tokens"] for p in points], [p["accuracy"] for p in points], marker="o", color=colour,
                label=f"leader_team[{leader}], rounds 1 to {len(points)}")  # fmt: skip
    others = [n for n in systems if n not in skip and not (n.startswith("leader_team[") or n.startswith("agent["))]
    for marker, name in zip("sD^vP*X<>ph8d" * 3, others, strict=False):
        ax.plot(systems[name]["tokens"], systems[name]["accuracy"], marker, markersize=6, label=name)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    ax.set_xlabel("tokens per question, prompt and completion (log scale)")
    ax.set_ylabel("accuracy")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(fig, ax, path)


def across(table: Mapping[str, Mapping[str, Mapping]], path: Path, systems: Sequence[str]) -> None:
    """Accuracy of the same systems over several runs: teams, seeds, team sizes."""
    labels = list(table)
    fig, ax = plt.subplots(figsize=(max(6, 1.3 * len(labels) + 3), 3.8))
    for colour, name in zip(_cycle(), systems, strict=False):
        have = [(x, table[label][name]) for x, label in enumerate(labels) if name in table[label]]
        if have:
            y = [r["accuracy"] for _, r in have]
            ax.errorbar([x for x, _ in have], y, yerr=_bars(y, [r["ci95"] for _, r in have]), marker="o", capsize=3,
                        color=colour, label=name)  # fmt: skip
    ax.set_xticks(range(len(labels)), labels, fontsize=8, rotation=20 if len(labels) > 4 else 0)
    ax.set_ylabel("accuracy")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(fig, ax, path)


def learning_curves(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """`{tag: {run: [(step, value)]}}`, one small plot per tag."""
    tags = list(curves)
    columns = 3
    lines = -(-len(tags) // columns)
    fig, axes = plt.subplots(lines, columns, figsize=(11, 2.4 * lines), squeeze=False, layout="constrained")
    for ax, tag in zip(axes.flat, tags, strict=False):
        for colour, (run, points) in zip(_cycle(), curves[tag].items(), strict=False):
            few = "." if len(points) < 30 else None
            ax.plot(*zip(*points, strict=True), color=colour, label=run, linewidth=1.2, marker=few)
        ax.set_title(tag, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=6))
        if len(curves[tag]) > 1:
            ax.legend(fontsize=7)
    for ax in axes.flat[len(tags) :]:
        ax.set_visible(False)
    _save(fig, axes.flat[0], path, all_axes=axes.flat)


def _cycle() -> Sequence[str]:
    return CYCLE * 8


def _bars(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[list[float]]:
    """Interval ends as matplotlib wants them: distances below and above."""
    return [
        [max(0.0, v - low) for v, (low, _) in zip(values, intervals, strict=True)],
        [max(0.0, high - v) for v, (_, high) in zip(values, intervals, strict=True)],
    ]


def _save(fig, ax, path: Path, all_axes=None) -> None:
    for axis in all_axes if all_axes is not None else [ax]:
        axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, bbox_inches="tight", **SAVE)
    plt.close(fig)
