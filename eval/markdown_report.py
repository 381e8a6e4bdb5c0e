"""The Markdown text of a report, from the dictionary that `eval.report.build` makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CLAIMS = {
    "a": "leader + team beats the best agent, majority vote and the untrained leader with the same team",
    "b": "accuracy rises with rounds",
    "c": "the trained leader is better alone, also against plain GRPO",
    "d": "it holds up when few agents, or none, are right",
}
MEANING = (
    "Intervals: Wilson (accuracy), percentile bootstrap over questions, 9,999 resamples (differences). p: McNemar, "
    "exact below 25 discordant pairs; Holm: adjusted for all comparisons of the run. *holds*: the interval of the "
    "difference is above 0; *the contrary*: below; *open*: it contains 0."
)
COST_MEANING = (
    "Means per question. *steps*: model calls that must follow each other; *serial tokens*: tokens generated along the "
    "longest of them, a latency that does not depend on the machine; *seconds*: this machine's share of batched time."
)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---" if i == 0 else "--:" for i in range(len(head))) + "|"]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float | None, signed: bool = False) -> str:
    return "" if value is None else f"{value:+.3f}" if signed else f"{value:.3f}"


def interval(ends: Sequence[float], signed: bool = False) -> str:
    return f"[{number(ends[0], signed)}, {number(ends[1], signed)}]"


def p_value(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def rate_cell(rate: Mapping) -> str:
    return f"{number(rate['accuracy'])} (n={rate['n']})" if rate["n"] else ""


def test_rows(tests: Sequence[Mapping]) -> list[list[str]]:
    return [
        [
            t["name"], t["claim"], number(t["diff"], True), interval(t["ci95"], True), f"{t['only_a']} / {t['only_b']}",
            p_value(t["p"]), p_value(t["p_holm"]), t["n"], t["verdict"],
        ]
        for t in tests
    ]  # fmt: skip


TEST_HEAD = (
    "comparison",
    "claim",
    "difference",
    "95 % interval",
    "only first / second right",
    "p",
    "p (Holm)",
    "n",
    "verdict",
)


def claims_section(report: Mapping) -> list[str]:
    """Claims (a) to (d): every run's difference, and what the runs of a label say together."""
    parts = ["## The claims\n", *(f"- ({key}) {text}" for key, text in CLAIMS.items()), "", MEANING, ""]
    for label, pooled in report["pooled"].items():
        seeds = [run["seed"] for run in report["runs"] if run["label"] == label]
        rows = [
            [f"({t['claim']}) {t['name']}", ", ".join(number(d, True) for d in t["diffs"]), number(t["diff"], True),
             interval(t["ci95"], True), t["n"], t["verdict"]]
            for t in sorted(pooled, key=lambda t: t["claim"]) if t["claim"]
        ]  # fmt: skip
        title = f"### {label}, seeds {', '.join(map(str, seeds))} together\n"
        parts += [
            title,
            table(("claim and comparison", "by run", "mean", "95 % interval", "questions", "verdict"), rows),
            "",
        ]
    return parts


def run_section(run: Mapping) -> list[str]:
    parts = [f"## {run['label']}, seed {run['seed']}\n", f"{run['n_questions']} questions."]
    if run["team"]:
        parts.append("Team: " + ", ".join(f"{a['name']} ({a.get('model', '')})" for a in run["team"]) + ".")
    if run["leaders"]:
        parts.append("Leaders: " + ", ".join(f"{a['name']} ({a.get('model', '')})" for a in run["leaders"]) + ".")
    if best := run["best_agent"]:
        parts.append(f"The best agent is {best['name']}, chosen on {best['chosen_on']}.")
    if run["command"]:
        parts.append(f"\n```\n{run['command']}\n```")
    systems = run["systems"]
    rows = [
        [name, number(s["accuracy"]), interval(s["ci95"]), f"{s['generations']:.1f}", f"{s['tokens']:.0f}",
         f"{s['steps']:.1f}", f"{s['serial_tokens']:.0f}", f"{s['seconds']:.3f}"]
        for name, s in systems.items()
    ]  # fmt: skip
    head = ("system", "accuracy", "95 % interval", "generations", "tokens", "steps", "serial tokens", "seconds")
    parts += ["\n### Accuracy and cost\n", table(head, rows), "", COST_MEANING]
    if run["tests"]:
        parts += ["\n### Paired comparisons\n", table(TEST_HEAD, test_rows(run["tests"]))]
    if run["by_round"]:
        rows = [
            [leader, point["round"] + 1, number(point["accuracy"]), interval(point["ci95"]), number(point["agents"]),
             rate_cell(point["override"]), rate_cell(point["misled"]), f"{point['tokens']:.0f}"]
            for leader, points in run["by_round"].items() for point in points
        ]  # fmt: skip
        head = ("leader", "round", "accuracy", "95 % interval", "agents' mean", "overrides a wrong majority",
                "misled from a right one", "tokens so far")  # fmt: skip
        parts += ["\n### By round\n", table(head, rows)]
    for title, key in (("By number of correct agents", "by_correct_agents"), ("By task and subject", "by_subject")):
        groups = list(dict.fromkeys(group for rates in run[key].values() for group in rates))
        if key == "by_correct_agents":
            groups.sort(key=int)
        if groups:
            sizes = {g: max(rates.get(g, {"n": 0})["n"] for rates in run[key].values()) for g in groups}
            rows = [[name, *(number(rates[g]["accuracy"]) if g in rates else "" for g in groups)]
                    for name, rates in run[key].items()]  # fmt: skip
            parts += [f"\n### {title}\n", table(("system", *(f"{g} (n={sizes[g]})" for g in groups)), rows)]
    return [*parts, ""]


def across_section(runs: Sequence[Mapping]) -> list[str]:
    """One column per run: other teams, team sizes, seeds."""
    names = list(dict.fromkeys(name for run in runs for name in run["systems"]))
    head = ("system", *(f"{run['label']}, seed {run['seed']}" for run in runs))
    rows = [[name, *(number(run["systems"][name]["accuracy"]) if name in run["systems"] else "" for run in runs)]
            for name in names]  # fmt: skip
    return ["## Across runs\n", table(head, rows), ""]


def markdown(report: Mapping, plots: Mapping[str, str]) -> str:
    """The whole text; `plots` are file names beside it, with captions."""
    runs = report["runs"]
    parts = ["# Evaluation report\n", *claims_section(report)]
    if len(runs) > 1:
        parts += across_section(runs)
    else:
        rows = [row for row in test_rows(sorted(runs[0]["tests"], key=lambda t: t["claim"])) if row[1]]
        parts += [table(TEST_HEAD, rows), ""] if rows else []
    for file, caption in plots.items():
        parts.append(f"![{caption}]({file})\n\n*{caption}*\n")
    for run in runs:
        parts += run_section(run)
    versions = runs[0]["versions"]
    if versions:
        parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".\n")
    return "\n".join(parts)
