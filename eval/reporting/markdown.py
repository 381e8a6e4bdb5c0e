"""The Markdown text of a report, from the dictionary that `eval.report.build` makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MEANING = (
    "A verdict follows from the 95 % interval alone: *holds*, it is above 0; *does not hold*, below; *not shown*, it "
    "contains 0. A claim holds where each of its parts does. Intervals: Wilson (accuracy); percentile bootstrap over "
    "questions, 9,999 resamples (differences). p: McNemar, exact below 25 discordant pairs; Holm: adjusted for all "
    "comparisons of the run."
)
TOGETHER = (
    "*Together*: the mean over the runs. Each run is a training of its own, so questions are resampled within each run "
    "and runs weigh the same; a question that is in several runs is resampled in all of them at once. p: random signs, "
    "at least 0.0002. It is about these trainings and more questions; how far trainings differ, the columns show."
)
COST_MEANING = (
    "Means per question. *steps*: model calls that must follow each other; *serial tokens*: tokens generated along the "
    "longest of them, a latency that does not depend on the machine; *seconds*: this machine's share of batched time."
)
BACKTRACKING = (
    "An output revises when its thinking takes something back (*wait*, *look again*, *I made a mistake*, …) or states "
    "two different answers as its own: `eval/play/backtracking.py`."
)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---" if i == 0 else "--:" for i in range(len(head))) + "|"]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float | None, signed: bool = False) -> str:
    if value is None:
        return ""
    value = round(value, 3) + 0.0  # no "-0.000"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


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


def difference_cell(test: Mapping | None, verdict: bool = True) -> str:
    """`+0.049 [+0.016, +0.081], p 0.0031, n 900: holds`."""
    if not test:
        return ""
    if not test["n"]:
        return "no question"
    text = f"{number(test['diff'], True)} {interval(test['ci95'], True)}, p {p_value(test['p'])}"
    return f"{text}, n {test['n']}: {test['verdict']}" if verdict else text


def claims_section(report: Mapping) -> list[str]:
    """Claims (a) to (d): for the first group of seeds in full, for other teams and team sizes the verdicts."""
    if not report["groups"]:
        return []
    parts = ["## The claims\n", MEANING, ""]
    if report["pooled"]:
        parts += [TOGETHER, ""]
    group, *others = report["groups"]
    several = len(group["runs"]) > 1
    heads = [*group["runs"], "together"] if several else group["runs"]

    def cells(of_runs: Sequence, together: object) -> list:
        return [*of_runs, together] if several else list(of_runs)

    verdicts = [
        [f"({claim}) {found['text']}", *cells(found["runs"], found["together"])]
        for claim, found in group["claims"].items()
    ]
    details = [
        [f"({claim}) {c['name']}", *map(difference_cell, cells(c["runs"], c["together"]))]
        for claim, found in group["claims"].items()
        for c in found["comparisons"]
    ]
    parts += [f"### {group['title']}\n", table(("claim", *heads), verdicts), ""]
    if details:
        parts += [table(("difference, 95 % interval", *heads), details), ""]
    if group["steps"]:
        parts += steps_table(group["steps"], heads, cells)
    if others:
        rows = [
            [
                f"({claim})",
                *(other["claims"][claim]["together"] or other["claims"][claim]["runs"][0] for other in others),
            ]
            for claim in group["claims"]
        ]
        parts += ["### The other runs\n", table(("claim", *(other["title"] for other in others)), rows), ""]
    return parts


def steps_table(steps: Sequence[Mapping], heads: Sequence[str], cells) -> list[str]:
    """What each step of the leader's training brought."""
    rows, seen = [], set()
    for step in steps:
        who = step["system"]
        name = f"{who}: {step['what']}" if step["what"] else who
        accuracy = " / ".join(number(value) for value in step["accuracy"])
        rows.append(
            ["" if who in seen else name, "" if who in seen else accuracy, step["against"],
             *(difference_cell(test, verdict=False) for test in cells(step["runs"], step["together"]))]
        )  # fmt: skip
        seen.add(who)
    head = ("leader", "accuracy", "against", *(f"difference, {head}" for head in heads))
    return [
        "What each step of training brought, with the team (last round, unless it says otherwise) and alone:\n",
        table(head, rows),
        "",
    ]


OTHERS = ("untrained", "majority_vote", "best_agent")


def teams_section(rows: Sequence[Mapping]) -> list[str]:
    """Other teams and team sizes: the leader's accuracy by round beside what the same team reaches without it."""
    if not rows:
        return []
    cells = [
        [row["run"], row["team_size"], f"{row['shared']} of {row['team_size']}", row["n"],
         " → ".join(map(number, row["rounds"])), *(number(row[key]) for key in (*OTHERS, "oracle")),
         *(difference_cell(row["differences"][key], verdict=False) for key in OTHERS)]
        for row in rows
    ]  # fmt: skip
    head = ("run", "K", "agents of the first team", "questions", "leader + team, by round", "untrained leader + team",
            "majority vote", "best agent", "oracle", "− untrained", "− majority vote", "− best agent")  # fmt: skip
    note = (
        "*agents of the first team*: how many agents were also in the team of the first run given for this leader; 0 "
        "is a team that this leader never met there. Differences: last round, paired, with 95 % interval."
    )
    return ["## Teams and team sizes\n", note, "", table(head, cells), ""]


def run_section(run: Mapping) -> list[str]:
    parts = [f"## {run['title']}\n", f"{run['n_questions']} questions."]
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
    if run["backtracking"]:
        rows = [
            [name, point["round"] + 1, *(rate_cell(point[key]) for key in ("revised", "right", "others"))]
            for name, points in run["backtracking"].items()
            for point in points
        ]
        head = ("leader", "round", "outputs that revise an answer", "of these right", "of the others right")
        parts += ["\n### Backtracking\n", table(head, rows), "", BACKTRACKING]
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
    head = ("system", *(run["title"] for run in runs))
    rows = [[name, *(number(run["systems"][name]["accuracy"]) if name in run["systems"] else "" for run in runs)]
            for name in names]  # fmt: skip
    return ["## Across runs\n", table(head, rows), ""]


def markdown(report: Mapping, plots: Mapping[str, str]) -> str:
    """The whole text; `plots` are file names beside it, with captions."""
    runs = report["runs"]
    parts = ["# Evaluation report\n", *claims_section(report), *teams_section(report["teams"])]
    if len(runs) > 1:
        parts += across_section(runs)
    for file, caption in plots.items():
        parts.append(f"![{caption}]({file})\n\n*{caption}*\n")
    for run in runs:
        parts += run_section(run)
    versions = runs[0]["versions"]
    if versions:
        parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".\n")
    return "\n".join(parts)
