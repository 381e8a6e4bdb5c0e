"""The text of a report: blocks of Markdown and tables, and the one function that turns a table into Markdown."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from eval.reporting import analysis
from eval.reporting.across import Group
from eval.reporting.claims import CLAIMS, GRPO, UNTRAINED, Pair, claims, step_pairs
from eval.reporting.runs import BEST, IN_ROUNDS, MAJORITY, ORACLE, ROUTER, Run, System
from eval.reporting.stats import UNTESTED
from openrlhf_mlpo.text import markdown_table

MOST_LINES = 200  # of report.md; the HTML page has all rows of all runs
MEANING = """*holds*: the 95 % interval of the paired difference is above 0 and its p below 0.05, in the claims'
comparisons the p adjusted after Holm; *does not hold*: the same below 0; *not shown*: neither; *too few*: no outcome of
so few questions could have shown it (the two differ on under six; to be not below by more than 0.03 takes 122
questions). A claim holds where each of its parts does. Intervals: Wilson (accuracy); percentile bootstrap over
questions, 9,999 resamples (differences). p: McNemar's exact test; Holm: adjusted over the claims' comparisons.
*together*: the mean over runs, each resampled by itself, as each is its own training."""
NOTES = {
    "Accuracy and cost": """Means per question. *steps*: model calls that must follow each other; *serial tokens*: those
generated along the longest of them, a latency without the machine; *seconds*: this machine's share of batched time.""",
    "Backtracking": """An output revises when its thinking takes something back (*wait*, *look again*, …) or states two
different answers as its own: `eval/play/backtracking.py`.""",
    "Whom leaders follow": "Shares of outputs whose answer is that of one agent, of several, or of nobody.",
    "Teams and team sizes": """*shared*: how many of the K agents were also in the team of the first run given for this
leader; 0 is a team that it never met there. Differences: last round, paired, with 95 % interval.""",
}
Block = str | pd.DataFrame
HEADS = {
    "agents": "agents' mean",
    "low": "95 % interval",
    "misled": "misled from a right one",
    "misled_n": "of ",
    "n_revises": "how many",
    "only_a": "only first / second right",
    "others_right": "of the others right",
    "override": "overrides a wrong majority",
    "override_n": "of",
    "p_holm": "p (Holm)",
    "revises": "outputs that revise an answer",
    "right": "of these right",
    "rounds": "leader + team, by round",
}


def table(frame: pd.DataFrame, most: int | None = None) -> str:
    """Markdown of a DataFrame as it stands, without its index; beyond `most` rows a line says how many are left out."""
    rows = (map(cell, row) for row in frame[:most].itertuples(index=False))
    more = f"\n\n*{len(frame) - most} more rows: report.html.*" if most is not None and len(frame) > most else ""
    return "\n".join(markdown_table(frame.columns, rows, aligned=False)) + more


def cell(value: object) -> str:
    """Floats with three decimals, large ones (costs) with fewer; None and NaN are blank."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and abs(value) < 2:
        value = fixed(value)
    elif isinstance(value, float):
        value = f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def tidy(frame: pd.DataFrame, **heads: str) -> pd.DataFrame:
    """Headings for column names, the ends of an interval in one cell, rounds counted from 1."""
    if "low" in frame:
        ends = [interval(low, high) for low, high in zip(frame["low"], frame["high"], strict=True)]
        frame = frame.assign(low=ends).drop(columns="high")
    if "round" in frame:
        frame = frame.assign(round=frame["round"] + 1)
    heads = {name: name.replace("minus_", "− ").replace("_", " ") for name in frame if name.islower()} | HEADS | heads
    return frame.rename(columns=heads)


def fixed(value: float, sign: str = "") -> str:
    return f"{round(value, 3) + 0.0:{sign}.3f}"  # + 0.0: no "-0.000"


def interval(low: float, high: float, sign: str = "") -> str:
    return f"[{fixed(low, sign)}, {fixed(high, sign)}]"


def difference(test: Mapping | None, word: bool = False) -> str:
    """`+0.158 [+0.117, +0.200]`, with the verdict if asked for; blank where nothing was tested."""
    if test is None or test["diff"] != test["diff"]:
        return ""
    text = f"{fixed(test['diff'], '+')} {interval(test['low'], test['high'], '+')}"
    return f"{text} {test['verdict']}" if word else text


def p_value(p: float) -> str:
    return "" if p != p else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def arrows(values: Iterable[float]) -> str:
    return " → ".join(f"{value:.3f}" for value in values)


def overview(group: Group) -> list[Block]:
    """One sentence and a table of at most ten rows."""
    runs, leader = group.runs, (group.runs[0].leaders or [""])[0]
    team, before = System("leader_team", leader), System("leader_team", UNTRAINED)
    solos = [System("leader_solo", name) for name in (leader, UNTRAINED, GRPO)]
    equal = [system for system in runs[0].table if system.budget == "generations"]
    votes = [MAJORITY, BEST, ROUTER, System("team_vote", leader)]
    usual = dict.fromkeys([team, before, *votes, *solos, *equal, *runs[0].table])
    shown = [system for system in usual if all(run.has(system) for run in runs)]
    ceiling = [ORACLE] if ORACLE in shown else []
    costs, rows = [analysis.systems(run)["tokens"] for run in runs], []
    for system in [*[s for s in shown if s != ORACLE][: 10 - len(ceiling)], *ceiling]:
        level = analysis.accuracy(runs, system)
        rounds = runs[0].rounds(system) if system.method in IN_ROUNDS else [None]
        by_round = arrows(analysis.accuracy(runs, system.at(number))["accuracy"] for number in rounds)
        tokens = sum(cost[system] for cost in costs) / len(runs)
        rows.append({"system": system, **level, "accuracy": by_round, "tokens": tokens})
        if team in shown:
            rows[-1][f"{leader} + team − it"] = difference(group.test(team, system), word=True)
    first = analysis.accuracy(runs, rows[0]["system"])
    parts = [f"{rows[0]['system']} is right on {first['accuracy']:.3f} {interval(first['low'], first['high'])} of "
             f"{first['n']} questions" + (f", the mean of {len(runs)} runs" if len(runs) > 1 else "")]  # fmt: skip
    for other, words in ((MAJORITY, "majority vote"), (ROUTER, "the router"), (before, "the same leader before MLPO")):
        if (test := group.test(team, other)) is not None:
            parts.append(f"{difference(test)} against {words} ({test['verdict']})")
    return [f"**{'; '.join(parts)}.**", table(tidy(pd.DataFrame(rows), accuracy="accuracy, by round"))]


def side_by_side(group: Group, pairs: Sequence[Pair], word: bool = True) -> pd.DataFrame:
    """The differences of pairs, a column per run and one for all of them together."""
    cells = {head: tests.apply(difference, axis=1, word=word) for head, tests in group.columns().items()}
    return pd.DataFrame({head: column.reindex(pairs).to_numpy() for head, column in cells.items()})


def claims_blocks(groups: Sequence[Group]) -> list[Block]:
    """Verdicts on the claims, the differences behind them, and what each step of training brought."""
    groups = [group for group in groups if group.runs[0].leaders]
    if not groups:
        return []
    words = {head: claims(tests) for head, tests in groups[0].columns().items()}
    words |= {other.title: claims(other.verdicts) for other in groups[1:]}
    rows = [{"claim": f"({c}) {text}", **{head: word[c] for head, word in words.items()}} for c, text in CLAIMS.items()]
    tests = groups[0].verdicts.query(f"claim != '' and verdict != '{UNTESTED}'")
    details = side_by_side(groups[0], list(tests.index))
    names = [f"({pair.claim}) {pair} (n={n:.0f})" for pair, n in tests["n"].items()]
    details.insert(0, "difference, 95 % interval", names)
    blocks: list[Block] = ["## The claims", table(pd.DataFrame(rows)), MEANING, details]
    if len(steps := steps_table(groups[0])):
        blocks += ["What each step of training brought (with the team: last round, unless it says otherwise):", steps]
    return blocks


def steps_table(group: Group) -> pd.DataFrame:
    """What each step of training brought; a first round only where there are more."""
    run = group.runs[0]
    steps = [(pair, what) for pair, what in step_pairs(run.leaders) if group.test(pair.a, pair.b) is not None]
    steps = [(pair, what) for pair, what in steps if pair.a.round is None or run.has(pair.a.at(1))]
    names = pd.Series([f"{pair.a}: {what}" for pair, what in steps], dtype=object)
    levels = [" / ".join(f"{run.outcomes(pair.a).mean():.3f}" for run in group.runs) for pair, _ in steps]
    frame = pd.DataFrame({"leader": names, "accuracy": levels, "against": [pair.b.leader for pair, _ in steps]})
    frame.loc[names.duplicated(), ["leader", "accuracy"]] = ""  # a name stands once
    return frame.join(side_by_side(group, [pair for pair, _ in steps], word=False))


def teams_blocks(teams: pd.DataFrame) -> list[Block]:
    """Other teams and team sizes."""
    if len(teams) < 2:
        return []
    minus = {key: [difference(test) for test in teams[key]] for key in teams if key.startswith("minus_")}
    shown = teams.assign(rounds=[arrows(rounds) for rounds in teams["rounds"]], **minus)
    return ["## Teams and team sizes", NOTES["Teams and team sizes"], tidy(shown)]


def comparisons(tests: pd.DataFrame) -> pd.DataFrame:
    """All that was tested, with the numbers of questions that only one got right."""
    tested = tests[tests["verdict"] != UNTESTED]
    if not len(tested):
        return tested
    counts = [f"{test.only_a} / {test.only_b}" for test in tested.itertuples()]
    p = {name: tested[name].map(p_value) for name in ("p", "p_holm")}
    shown = tested.assign(diff=tested.apply(difference, axis=1), only_a=counts, **p)
    return shown.drop(columns=["low", "high", "only_b"]).reset_index()


def run_blocks(run: Run, title: str, tests: pd.DataFrame) -> list[Block]:
    """Everything about one run, with its comparisons where `tests` has any."""
    about = [f"{len(run.table)} questions."]
    for who in ("team", "leaders"):
        players = [f"{player['name']} ({player.get('model', '')})" for player in run.manifest.get(who, [])]
        about += [f"{who.title()}: {', '.join(players)}."] if players else []
    if best := run.manifest.get("best_agent"):
        about.append(f"The best agent is {best['name']}, chosen on {best['chosen_on']}.")
    blocks: list[Block] = [f"## {title}", " ".join(about)]
    blocks += [f"```\n{run.manifest['command']}\n```"] if run.manifest.get("command") else []
    parts = {"Accuracy and cost": analysis.systems(run).reset_index(), "Paired comparisons": comparisons(tests),
             "By round": analysis.team_effects(run), "Same answer as the router": analysis.router_agreement(run),
             "Whom leaders follow": analysis.followed(run), "Backtracking": analysis.backtracking(run)}  # fmt: skip
    for heading, frame in parts.items():
        if len(frame):
            blocks += [f"### {heading}", tidy(frame), *([NOTES[heading]] if heading in NOTES else [])]
    strata = {"number of correct agents": analysis.by_correct_agents(run), "task and subject": analysis.by_kind(run)}
    for heading, frame in strata.items():
        if len(frame):
            frame["group"] = [f"{group} (n={n})" for group, n in zip(frame["group"], frame["n"], strict=True)]
            wide = frame.set_index([frame["system"].map(str), "group"])["accuracy"].unstack(sort=False)
            blocks += [f"### By {heading}", wide.reset_index()]
    return blocks


def render(blocks: Iterable[Block], most: int | None = None) -> str:
    return "\n\n".join(block if isinstance(block, str) else table(block, most) for block in blocks) + "\n"


def fit(blocks: Sequence[Block], lines: int = MOST_LINES) -> str:
    """The text with as many rows in each table as keep it within `lines` lines, the same limit for all, at least 4."""
    fitting = bisect_right(range(4, 61), lines, key=lambda most: render(blocks, most).count("\n"))
    return render(blocks, max(4, 3 + fitting))
