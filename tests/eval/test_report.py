"""eval/report.py: the numbers, the texts, and the page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.evaluate import evaluate
from eval.play.methods import Config
from eval.report import draw_rounds, main
from eval.reporting import claims as compared
from eval.reporting.across import groups_of, teams
from eval.reporting.analysis import backtracking, by_round, followed
from eval.reporting.claims import Pair, claim_pairs, combined, compare
from eval.reporting.curves import read_training
from eval.reporting.explorer import by_interest, to_html
from eval.reporting.markdown import MOST_LINES, fit, p_value, table
from eval.reporting.runs import MAJORITY, ROUTER, System, load_run
from eval.reporting.stats import paired, wilson
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.files import write_jsonl
from openrlhf_mlpo.prompts.templates import load_template
from tests import fake_players as fake
from tests.browser import in_browser, needs_browser

pytestmark = pytest.mark.slow  # a minute in all: plots and bootstraps

TEAM, SOLO = System("leader_team", "mlpo"), System("leader_solo", "mlpo")
BEFORE = System("leader_team", "untrained")
METHODS = ("leader_team", "leader_solo", "agent", "majority_vote", "best_agent", "debate", "oracle")


def make_run(
    folder: Path, *, n: int = 60, seed: int = 0, team: tuple = ("ann", "bob", "cat"), label: str = "team"
) -> Path:
    config = Config(methods=METHODS, rounds=3, template=load_template("compact"), seed=seed, budgets=("generations",))
    leaders = [fake.leader(), fake.leader("untrained", 0.4, 0.5), fake.leader("grpo", 0.5, 0.65)]
    manifest = {"label": label, "command": f"python3 eval/evaluate.py --seed {seed}", "versions": {"scipy": "1"}}
    evaluate(config, fake.team(*team), leaders, fake.questions(n), folder, manifest=manifest)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("eval") / "run")


@pytest.fixture(scope="module")
def reported(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    assert main([str(folder), "--out", str(out)]) == 0
    return out


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def by_name(rows: list[dict], key: str = "system") -> dict:
    return {row[key]: row for row in rows}


def test_numbers_are_those_of_the_rows(folder, reported):
    rows, report = rows_of(folder), json.loads((reported / "report.json").read_text())["runs"][0]
    systems = by_name(report["systems"])
    solo = [row["correct"] for row in rows if row["method"] == "leader_solo" and row["leader"] == "mlpo"]
    found = systems["leader_solo[mlpo]"]
    assert found["accuracy"] == pytest.approx(np.mean(solo))
    assert (found["low"], found["high"]) == pytest.approx(wilson(sum(solo), len(solo)))
    last = [row for row in rows if row["method"] == "leader_team" and row["leader"] == "mlpo" and row["round"] == 2]
    assert systems["leader_team[mlpo]"]["accuracy"] == pytest.approx(np.mean([row["correct"] for row in last]))
    assert systems["leader_team[mlpo]"]["tokens"] == pytest.approx(np.mean([row["tokens"] for row in last]))
    wrong = [row["correct"] for row in last if row["majority_now"] is False]
    right = [row["correct"] for row in last if row["majority_now"] is True]
    point = next(p for p in report["by_round"] if (p["leader"], p["round"]) == ("mlpo", 2))
    assert (point["override_n"], point["override"]) == (len(wrong), pytest.approx(np.mean(wrong)))
    assert (point["misled_n"], point["misled"]) == (len(right), pytest.approx(1 - np.mean(right)))
    strata = {row["group"]: row for row in report["by_correct_agents"] if row["system"] == "leader_team[mlpo]"}
    assert sum(group["n"] for group in strata.values()) == 60
    none = [row["correct"] for row in last if row["n_correct_agents"] == 0]
    assert strata[0]["n"] == len(none) and strata[0]["accuracy"] == pytest.approx(np.mean(none))
    assert {row["group"] for row in report["by_kind"]} == {"exact/sums0", "exact/sums1"}


def test_comparisons_pair_the_same_questions(folder):
    run = load_run(folder)
    tests = groups_of([run])[0].verdicts
    assert set(tests["claim"]) == {"", "a", "a, one round", "b", "c", "d"}
    assert not any("oracle" in str(pair) for pair in tests.index)
    assert tests.index.is_unique
    one = Pair(TEAM, BEFORE, right=1)
    chosen = run.questions["n_correct_agents"] == 1
    a, b = run.table.loc[chosen, TEAM], run.table.loc[chosen, BEFORE]
    assert 0 < len(a) < 60 and list(one.differences(run).index) == list(a.index)
    row = tests.loc[one]
    assert row["diff"] == pytest.approx(a.mean() - b.mean()) and row["n"] == len(a)
    assert (row["only_a"], row["only_b"]) == (((a - b) == 1).sum(), ((a - b) == -1).sum())
    assert tests.loc[tests["claim"] == "", "p_holm"].isna().all() and tests["p_holm"].notna().sum() > 5


def test_csv_holds_accuracies_and_comparisons(folder, reported):
    kept = pd.read_csv(reported / "report.csv", dtype={"seed": str}, keep_default_na=False, na_values={"value": ""})
    run = load_run(folder)
    accuracy = kept[(kept["metric"] == "accuracy") & (kept["system"] == "leader_team[mlpo]")]
    assert list(accuracy["value"]) == pytest.approx(run.rounds(TEAM).mean().tolist(), abs=1e-6)
    (test,) = kept[
        (kept["system"] == "leader_team[mlpo]") & (kept["against"] == "majority_vote") & (kept["round"] == "")
        & (kept["agents_right"] == "")
    ].to_dict("records")  # fmt: skip
    assert test["value"] == pytest.approx((run.table[TEAM] - run.table[MAJORITY]).mean(), abs=1e-6)
    assert set(kept.loc[kept["metric"] == "claim", "system"]) == set(compared.CLAIMS)


def test_the_same_results_give_the_same_report(folder, reported, tmp_path):
    main([str(folder), "--out", str(tmp_path)])
    names = sorted(path.name for path in reported.iterdir())
    assert names == [
        "by_correct_agents.png",
        "comparison.png",
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
        "rounds.png",
    ]
    for name in names:
        assert (tmp_path / name).read_bytes() == (reported / name).read_bytes(), name


def test_markdown_opens_with_what_one_wants_to_see(reported):
    text = (reported / "report.md").read_text()
    title, sentence, picture, overview, *_ = text.split("\n\n")
    assert title == "# Evaluation report" and sentence.startswith("**leader_team[mlpo] is right on ")
    assert "against majority vote (" in sentence and "(rounds.png)" in picture
    assert 4 < len(overview.splitlines()) <= 2 + 10 and overview.splitlines()[-1].startswith("| oracle |")
    assert "python3 eval/evaluate.py --seed 0" in text and "## team, seed 0" in text and "(comparison.png)" in text
    for heading in ("The claims", "Accuracy and cost", "By round", "Backtracking", "By number of correct", "By task"):
        assert heading in text
    assert text.count("\n") <= MOST_LINES
    assert "Paired comparisons" in (reported / "report.html").read_text()


def test_long_tables_are_cut_to_fit():
    frame = pd.DataFrame({"system": range(500), "value": 0.5})
    text = fit(["# Title", frame, "between", frame], lines=100)
    assert text.count("\n") <= 100 and text.count("more rows: report.html") == 2
    assert text.count("| 0.500 |") == 2 * 43


def test_seeds_are_pooled_and_teams_stand_side_by_side(tmp_path):
    folders = [make_run(tmp_path / f"s{seed}", n=40, seed=seed) for seed in (0, 1, 2)]
    folders.append(make_run(tmp_path / "other", n=40, team=("dan", "eve"), label="other team"))
    main_group, other = groups_of([load_run(path) for path in folders])
    assert (main_group.title, len(main_group.runs), other.title, other.together) == ("team", 3, "other team", None)
    pooled = main_group.test(TEAM, MAJORITY)
    assert pooled["n"] == 40  # the same questions: each counts once
    diffs = [run.table[TEAM].mean() - run.table[MAJORITY].mean() for run in main_group.runs]
    assert pooled["diff"] == pytest.approx(np.mean(diffs))
    out = tmp_path / "report"
    main([*map(str, folders), "--out", str(out)])
    text = (out / "report.md").read_text()
    assert "the mean of 3 runs" in text and "| other team |" in text and (out / "across.png").exists()
    assert text.count("\n") <= MOST_LINES and "(rounds.png)" in text and (out / "rounds_3.png").exists()
    assert "## other team, seed 0" not in text
    page = (out / "report.html").read_text()
    assert "<h2>other team, seed 0</h2>" in page and "<h2>team, seed 2</h2>" in page
    found = json.loads((out / "report.json").read_text())
    words = found["groups"][0]["claims"]
    assert list(words) == ["team, seed 0", "team, seed 1", "team, seed 2", "together"]
    assert list(words["together"]) == ["a", "a, one round", "b", "c", "d", "e"]
    rows = by_name(found["teams"], "team")
    assert [rows[name]["shared"] for name in ("team", "other team")] == [3, 0]
    every = [run.rounds(TEAM).mean() for run in main_group.runs]
    assert rows["team"]["rounds"] == pytest.approx(np.mean(every, axis=0))


def test_what_one_seed_was_not_evaluated_with_is_no_line_of_the_picture(tmp_path):
    folders = [make_run(tmp_path / f"s{seed}", n=20, seed=seed) for seed in (0, 1)]
    write_jsonl(folders[1] / "results.jsonl", [row for row in rows_of(folders[1]) if row["method"] != "oracle"])
    assert draw_rounds([load_run(path) for path in folders], tmp_path / "rounds.png")


def two_runs(differences: list[list[float]], ids: list[list[str]]) -> dict:
    """What runs with these differences (1, 0, -1) on these questions say together."""
    test = paired([pd.Series(d, index=names) for d, names in zip(differences, ids, strict=True)])
    return {**test, "ends": (test["low"], test["high"]), "width": test["high"] - test["low"]}


def test_runs_weigh_the_same_and_are_resampled_apart():
    """Other questions: the mean of the runs' means, and the standard error of a stratified sample."""
    rng = np.random.default_rng(0)
    many, few = rng.choice([1.0, 0.0], 400).tolist(), rng.choice([0.0, -1.0], 100).tolist()
    found = two_runs([many, few], [[f"a{i}" for i in range(400)], [f"b{i}" for i in range(100)]])
    assert found["diff"] == pytest.approx((np.mean(many) + np.mean(few)) / 2) and found["n"] == 500
    half = 1.96 / 2 * np.sqrt(np.var(many) / 400 + np.var(few) / 100)
    assert found["ends"] == pytest.approx((found["diff"] - half, found["diff"] + half), abs=0.006)


def test_shared_questions_move_all_runs_at_once():
    rng = np.random.default_rng(1)
    d = rng.choice([1.0, 0.0, -1.0], 200).tolist()
    names = [f"q{i}" for i in range(200)]
    same = two_runs([d, d], [names, names])
    apart = two_runs([d, d], [names, [f"r{i}" for i in range(200)]])
    assert same["width"] == pytest.approx(apart["width"] * np.sqrt(2), rel=0.1)
    assert (same["n"], apart["n"]) == (200, 400) and same["p"] > apart["p"]
    half_shared = two_runs([d, d], [names, names[:100] + [f"r{i}" for i in range(100)]])
    assert apart["width"] < half_shared["width"] < same["width"]


@pytest.mark.parametrize(
    ("words", "claim"),
    [
        (["holds", "holds", "holds"], "holds"),
        (["holds", "not shown", "holds"], "not shown"),
        (["holds", "not shown", "does not hold"], "does not hold"),
        (["holds", "too few", "holds"], "too few (n=9)"),
        (["too few", "not shown"], "not shown"),
        (["too few", "does not hold"], "does not hold"),
        (["holds", "not tested"], "holds (1 of 2 parts tested)"),
        (["not tested", "not tested"], "not tested"),
        ([], "not tested"),
    ],
)
def test_a_claim_holds_where_each_part_does(words, claim):
    assert combined(pd.DataFrame({"verdict": words, "n": 9})) == claim


def test_a_handful_of_questions_never_shows_a_claim(tmp_path):
    """Four questions, all of them won: every interval is [1, 1]."""
    config = Config(methods=("leader_team", "leader_solo", "majority_vote", "best_agent"), rounds=2, seed=1,
                    template=load_template("compact"))  # fmt: skip
    leaders = [fake.player("mlpo", always_right), fake.player("untrained", always_wrong), fake.leader("grpo", 0, 0)]
    evaluate(config, fake.team("ann", "bob", "cat"), leaders, fake.questions(4), tmp_path, manifest={})
    words = compared.claims(compare([load_run(tmp_path)]))
    assert words.pop("e") == "not tested"  # the team is the one that the leader was trained with
    assert words["a"] == "too few (n=4)" and all(word.startswith("too few") for word in words.values())
    main([str(tmp_path), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "(n=4)" in text and "holds |" not in text and "(holds)" not in text


def always_right(content, seed):
    return fake.lead(1.0, 1.0, content.replace("[answer]", ""), seed)


def always_wrong(content, seed):
    return fake.lead(0.0, -1.0, content.replace("[answer]", ""), seed)


def with_router(folder: Path, out: Path) -> Path:
    """The run with a router that takes ann for one kind and bob for the other, and whom the leader follows."""
    rows = rows_of(folder)
    takes = {"sums0": "ann", "sums1": "bob"}
    routed = [
        {**row, "method": "router"}
        for row in rows
        if row["method"] == "agent" and row["agent"] == takes[row["subtask"]]
    ]
    for row in rows:
        if row["method"] == "leader_team":
            row["follows"] = ["ann", None, ["ann", "bob"], ["cat"]][int(row["id"][1:]) % 4]
    shutil.copytree(folder, out)
    write_jsonl(out / "results.jsonl", [*rows, *routed])
    return out


def test_the_router_is_a_baseline_of_claim_a(folder, tmp_path):
    run = load_run(with_router(folder, tmp_path / "run"))
    assert Pair(TEAM, ROUTER) in [pair for pair in claim_pairs(run) if pair.claim == "a"]
    assert Pair(TEAM, ROUTER) not in claim_pairs(load_run(folder))
    assert run.has(ROUTER) and [s for s in run.table if s.method == "router"] == [ROUTER]  # whichever agent it took
    main([str(run.path), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "against the router" in text.split("\n\n")[1] and "(a) leader_team[mlpo] - router (n=60)" in text
    found = json.loads((tmp_path / "out" / "report.json").read_text())["runs"][0]
    assert by_name(found["systems"], "system")["router"]["accuracy"] == pytest.approx(run.table[ROUTER].mean())
    answers = {(row["id"], str(row["system"])): row["answer"] for row in run.final.to_dict("records")}
    same = [answers[i, "leader_team[mlpo]"] == answers[i, "router"] for i in run.table.index]
    assert by_name(found["router"], "leader")["mlpo"]["accuracy"] == pytest.approx(np.mean(same))
    shown = followed(run)
    every = shown[(shown["kind"] == "all") & (shown["leader"] == "mlpo") & (shown["round"] == 2)].iloc[0]
    assert (every["ann"], every["cat"], every["nobody"], every["several"]) == (0.25, 0.25, 0.25, 0.25)
    even = shown[(shown["kind"] == "exact/sums0") & (shown["leader"] == "mlpo")].iloc[0]
    assert (even["ann"], even["several"], even["cat"]) == (0.5, 0.5, 0.0)
    assert "### Whom leaders follow" in text
    old = load_run(folder)  # of an evaluation before it was recorded
    old.rows.drop(columns="follows", inplace=True)
    assert len(followed(old)) == 0


def test_steps_of_training(tmp_path):
    """Any number of leaders; those with known names are compared with what they were trained from."""
    names = ("mlpo", "untrained", "base", "grpo", "mlpo_no_sft", "other")
    leaders = [fake.leader(name, 0.9 - 0.1 * i, 0.7 - 0.1 * i) for i, name in enumerate(names)]
    config = Config(methods=("leader_team", "leader_solo"), rounds=1, template=load_template("compact"))
    evaluate(config, fake.team("ann", "bob", "cat"), leaders, fake.questions(40), tmp_path / "run", manifest={})
    run = load_run(tmp_path / "run")
    of_team = [(pair.a, pair.b) for pair, _ in compared.step_pairs(run.leaders) if pair.a.method == "leader_team"]
    assert [(a.leader, b.leader) for a, b in of_team if a.round is None] == [
        ("untrained", "base"), ("grpo", "untrained"), ("mlpo_no_sft", "base"), ("mlpo", "untrained"), ("mlpo", "grpo"),
        ("mlpo", "mlpo_no_sft"), ("mlpo", "base"),
    ]  # fmt: skip
    pair, what = next(
        (p, w) for p, w in compared.step_pairs(run.leaders) if (p.a.method, p.a.leader) == ("leader_solo", "untrained")
    )
    a, b = (run.table[System("leader_solo", name)] for name in ("untrained", "base"))
    assert what == "after SFT" and compared.compare([run]).loc[pair, "diff"] == pytest.approx((a - b).mean())
    more = Config(methods=("leader_team",), rounds=2, template=load_template("compact"))
    evaluate(more, fake.team("ann", "bob", "cat"), leaders[:2], fake.questions(40), tmp_path / "more", manifest={})
    more = load_run(tmp_path / "more")
    first = next(pair for pair, _ in compared.step_pairs(more.leaders) if pair.a == TEAM.at(0))
    a, b = (more.rounds(system)[0] for system in (TEAM, BEFORE))
    assert compared.compare([more]).loc[first, "diff"] == pytest.approx((a - b).mean())
    main([str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert "leader_solo[mlpo]: SFT + MLPO" in (tmp_path / "out" / "report.md").read_text()


def test_backtracking_is_counted(tmp_path):
    def reply(content, seed):
        text = fake.lead(0.9, 0.6, content, seed)
        return text.replace("</think>", "wait , look again </think>") if seed % 2 or "What is 3" in content else text

    config = Config(methods=("leader_team", "leader_solo"), rounds=2, template=load_template("compact"))
    run = evaluate_one(config, fake.player("mlpo", reply), tmp_path)
    found = backtracking(run)
    assert [(str(row["system"]), row["round"]) for row in found.to_dict("records")] == [
        ("leader_team[mlpo]", 0), ("leader_team[mlpo]", 1), ("leader_solo[mlpo]", 0),
    ]  # fmt: skip
    texts = [json.loads(line) for line in (tmp_path / "transcripts.jsonl").read_text().splitlines()]
    solo = [each["turns"][0] for each in texts if each["method"] == "leader_solo"]
    turned = [turn for turn in solo if "look again" in turn["text"]]
    point = found.iloc[-1]
    assert point["n_revises"] == len(turned) and point["revises"] == len(turned) / len(solo) > 0
    assert point["right"] == pytest.approx(np.mean([turn["correct"] for turn in turned]))


def evaluate_one(config, leader, folder):
    evaluate(config, fake.team("ann", "bob", "cat"), [leader], fake.questions(40), folder, manifest={})
    return load_run(folder)


def test_team_sizes_and_an_unseen_team_beside_the_main_run(folder, tmp_path):
    unseen = tuple(fake.SKILL)[3:] + ("ann",)
    runs = [folder]
    for k in (1, 3, 6):
        runs.append(make_run(tmp_path / f"k{k}", n=30, team=unseen[:k], label=f"unseen K={k}"))
    found = teams(groups_of([load_run(path) for path in runs]))
    assert [(row["team"], row["K"], row["shared"], row["n"]) for row in found.to_dict("records")] == [
        ("team", 3, 3, 60), ("unseen K=1", 1, 0, 30), ("unseen K=3", 3, 0, 30), ("unseen K=6", 6, 1, 30),
    ]  # fmt: skip
    assert all(test["low"] <= test["diff"] <= test["high"] for test in found["minus_majority_vote"])
    out = tmp_path / "out"
    main([*map(str, runs), "--out", str(out)])
    text = (out / "report.md").read_text()
    assert "## Teams and team sizes" in text and "| unseen K=3 | 1 | 3 | 0 |" in text


def test_unseen_teams_bear_on_claim_e_alone_and_share_the_adjustment(folder, tmp_path):
    config = Config(methods=("leader_team", "majority_vote"), rounds=1, seed=1, template=load_template("compact"))
    leaders = [fake.player("mlpo", always_right), fake.player("untrained", always_wrong)]
    for size, names in (("k1", ["dan"]), ("k3", ["dan", "eve", "fay"])):
        evaluate(config, fake.team(*names), leaders, fake.questions(40), tmp_path / size,
                 manifest={"label": f"unseen {size}"})  # fmt: skip
    seen = load_run(folder)
    one, three = load_run(tmp_path / "k1"), load_run(tmp_path / "k3")
    seen.seed = one.seed = three.seed = 1
    groups = groups_of([seen, one, three])
    assert [set(group.verdicts["claim"]) - {""} for group in groups[1:]] == [set(), {"e"}]
    pair = Pair(System("leader_team", "mlpo"), MAJORITY, "e")
    test = groups[2].verdicts.loc[pair]
    assert test["p_holm"] > test["p"] and test["verdict"] == "holds"
    alone = groups_of([three])[0].verdicts.loc[pair]  # the only team there is: taken for its own
    assert alone["claim"] == "a"


def test_pooling_does_not_count_a_question_twice(folder):
    run = load_run(folder)
    once, thrice = compare([run]), compare([run, run, run])
    assert once["low"].round(9).equals(thrice["low"].round(9)) and once["n"].equals(thrice["n"])


def test_names_and_cells():
    assert str(TEAM.at(0)) == "leader_team[mlpo] first round" and str(TEAM.at(2)) == "leader_team[mlpo] round 3"
    assert str(System("debate", budget="tokens")) == "debate (equal tokens)"
    assert str(System("agent", agent="ann")) == "agent[ann]"
    assert str(Pair(TEAM, TEAM.at(0))) == "leader_team[mlpo] last round - first round"
    assert (p_value(1e-9), p_value(0.0123)) == ("<0.0001", "0.0123")
    shown = table(pd.DataFrame({"x": ["a|b", None], "y": [-0.0001, 412.3]})).splitlines()
    assert shown == ["| x | y |", "| --- | --: |", "| a\\|b | 0.000 |", "|  | 412 |"]


def test_names_cannot_bring_html_in(tmp_path):
    page = to_html("# <script>alert(1)</script>\n\n| a |\n|---|\n| <img src=x> & |\n\n```\na < b && c\n```\n", tmp_path)
    assert "<script>" not in page and "<img" not in page and "a &lt; b &amp;&amp; c" in page


def test_won_and_lost_come_first():
    assert by_interest(["a", "b", "c", "d", "e"], ["11", "10", "10", "01", "00"], 0, 1) == ["b", "d", "c", "a", "e"]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no results.jsonl"), ("", "empty"), ('[1, 2]\n', "line 1: must be a JSON object"),
                             ('{"id": "q1"}\n', "line 1 has no 'task'"), (b"\xff\xfe{", "not UTF-8")]
)  # fmt: skip
def test_user_errors(tmp_path, content, message):
    if content is not None:
        (tmp_path / "results.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    fails_with(tmp_path, message)


def fails_with(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        main([str(folder), "--out", str(folder / "out")])
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def cut_last_line(lines: list[str]) -> list[str]:
    return [*lines[:-1], lines[-1][:50]]


def without(condition):
    return lambda lines: [line for line in lines if not condition(json.loads(line))]


DAMAGE = {
    r"line \d+: not valid JSON: .*; run the same evaluation again": cut_last_line,
    "line 4: not valid JSON": lambda lines: [*lines[:3], lines[3][:20] + "\n", *lines[4:]],
    r"leader_solo\[untrained\] has answers to 59 of 60 questions \(none to q00007\)": without(
        lambda row: (row["method"], row["leader"], row["id"]) == ("leader_solo", "untrained", "q00007")
    ),
    r"leader_team\[mlpo\] has answers to 50 of 60 questions in round 2 \(none to q00050\)": without(
        lambda row: (row["method"], row["leader"], row["round"]) == ("leader_team", "mlpo", 2) and row["id"] > "q00049"
    ),
    "58 questions, but manifest.json says 60": without(lambda row: row["id"] in ("q00003", "q00004")),
    r"two rows of agent\[ann\] for question q00000": lambda lines: [*lines, lines[0]],
    "line 1: 'correct' is None": lambda lines: [lines[0].replace('"correct": true', '"correct": null'), *lines[1:]],
}  # fmt: skip


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_and_half_written_runs(folder, tmp_path, message):
    shutil.copytree(folder, tmp_path / "run")
    file = tmp_path / "run" / "results.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace('"correct": false', '"correct": true')
    file.write_text("".join(DAMAGE[message](lines)))
    fails_with(tmp_path / "run", message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("manifest.json", "{}", "manifest.json: has no list 'team'"),
     ("manifest.json", None, "no manifest.json, so the evaluation did"), ("manifest.json", "[]", "no JSON object"),
     ("manifest.json", '{"seed"', "cut off"), ("transcripts.jsonl", '{"id": "q1", "que', "line 1: not valid JSON")],
)  # fmt: skip
def test_the_other_files_of_a_run(folder, tmp_path, name, content, message):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    if content is not None:
        (tmp_path / "run" / name).write_text(content)
    fails_with(tmp_path / "run", message)


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--out", "a_file"], "--out a_file: is a file"), (["--out", "a_file/out"], "--out a_file/out: Not a directory"),
     (["--out", "out", "--max_megabytes", "nan"], "--max_megabytes must be"),
     (["run/.", "--out", "out"], "run/.: named twice")],
)  # fmt: skip
def test_mistakes_on_the_command_line(folder, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    Path("a_file").touch()
    Path("run").symlink_to(folder)
    with pytest.raises(UserError, match=message):
        main(["run", *more])


def test_odd_text_does_not_stop_a_report(folder, tmp_path):
    """Byte order marks in front, and half a surrogate pair in what a model wrote."""
    shutil.copytree(folder, tmp_path / "run")
    for name in ("results.jsonl", "transcripts.jsonl", "manifest.json"):
        file = tmp_path / "run" / name
        file.write_text("\ufeff" + file.read_text().replace("I add", "\\ud83d I add"), encoding="utf-8")
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert "\ufffd I add" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_budgets_may_reach_to_other_rounds(tmp_path):
    """With a budget a question's round is as deep as its tokens reach: no sign of missing rows."""
    config = Config(methods=("leader_team", "debate"), rounds=2, template=load_template("compact"), budgets=("tokens",))
    evaluate(config, fake.team("ann", "bob"), [fake.leader()], fake.questions(20), tmp_path, manifest={})
    assert System("debate", budget="tokens") in load_run(tmp_path).table


def test_only_baselines(tmp_path):
    config = Config(methods=("agent", "majority_vote"), template=load_template("compact"))
    evaluate(config, fake.team("ann", "bob"), [], fake.questions(8), tmp_path / "run", manifest={})
    main([str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert len(by_round([load_run(tmp_path / "run")])) == 0
    assert (tmp_path / "out" / "report.md").read_text().split("\n\n")[1].startswith("**majority_vote is right on")


def test_learning_curves(folder, tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "tb" / "rollout"))
    for step in (1, 2, 3):
        value = Summary.Value(tag="train/reward", simple_value=step / 10)
        writer.add_event(Event(step=step, summary=Summary(value=[value])))
    writer.close()
    curves = read_training([f"mlpo={tmp_path / 'tb'}"])
    assert curves["train/reward"]["mlpo"] == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2)), (3, pytest.approx(0.3))]
    shutil.copytree(tmp_path / "tb", tmp_path / "both" / "grpo")
    shutil.copytree(tmp_path / "tb", tmp_path / "both" / "mlpo")
    assert set(read_training([str(tmp_path / "both")])["train/reward"]) == {"grpo", "mlpo"}
    main([str(folder), "--out", str(tmp_path / "out"), "--training", f"mlpo={tmp_path / 'tb'}"])
    assert (tmp_path / "out" / "learning_curves.png").stat().st_size > 1000
    with pytest.raises(UserError, match="no TensorBoard event files"):
        read_training([str(tmp_path / "out")])


FILTERS = """
  const count = () => Number(document.getElementById("count").textContent.split(" ")[0]);
  const rows = () => document.querySelectorAll("#list li").length;
  const found = {all: count(), rows: rows(), tables: document.querySelectorAll("table").length,
                 images: [...document.images].filter(i => i.naturalWidth > 0).length,
                 undone: [...document.images].filter(i => !i.naturalWidth).length};
  for (const outcome of ["won", "lost", "both", "neither"]) { set("outcome", outcome); found[outcome] = count(); }
  set("outcome", "won");
  document.querySelector("#list button").click();
  found.sides = [...document.querySelectorAll(".side h4")].map(h => h.textContent);
  found.turns = document.querySelectorAll(".side .turn").length;
  found.first = document.querySelector("#list button").dataset.id;
  document.querySelector("#list button").click();
  found.closed = document.querySelectorAll(".opened").length;
  set("outcome", ""); set("subject", "1"); found.subject = count();
  set("subject", ""); set("right", "0"); found.none_right = count();
  set("right", ""); set("search", "what is 17"); found.search = count();
  set("search", "no such words at all"); found.nothing = count(); found.empty = rows();
  found.hash = location.hash;
  return found;
"""


@needs_browser
def test_page_in_a_browser(folder, reported, tmp_path):
    found = in_browser(reported / "report.html", FILTERS, tmp_path)
    table = load_run(folder).table
    a, b = table[TEAM], table[BEFORE]
    assert (found["all"], found["rows"], found["undone"], found["images"]) == (60, 60, 0, 3)
    assert found["tables"] >= 5
    assert found["won"] == ((a == 1) & (b == 0)).sum() and found["lost"] == ((a == 0) & (b == 1)).sum()
    assert found["both"] + found["neither"] + found["won"] + found["lost"] == 60
    assert (
        found["sides"] == ["leader_team[mlpo] ✓", "leader_team[untrained] ✗"]
        and found["turns"] == 24
        and found["closed"] == 0
    )
    assert found["subject"] == 30 and 1 <= found["search"] < 10
    assert found["none_right"] == (load_run(folder).questions["n_correct_agents"] == 0).sum()
    assert found["nothing"] == found["empty"] == 0 and "search=no+such+words" in found["hash"]


@needs_browser
def test_a_link_restores_the_filters(folder, reported, tmp_path):
    script = "const at = id => document.getElementById(id);"
    script += " return {outcome: at('outcome').value, n: at('count').textContent}"
    found = in_browser(reported / "report.html", script, tmp_path, "#outcome=neither&a=0")
    assert found["outcome"] == "neither" and not found["n"].startswith("60")


def test_page_is_self_contained(reported):
    text = (reported / "report.html").read_text()
    assert (
        not re.search(r'(src|href)="(?!data:)', text) and '<link rel="stylesheet"' not in text and "@import" not in text
    )


def enlarge(folder: Path, out: Path, times: int) -> Path:
    """The run with every question `times` times, under ids of their own."""
    out.mkdir()
    for name in ("results.jsonl", "transcripts.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        write_jsonl(out / name, [{**row, "id": f"{row['id']}-{i}"} for i in range(times) for row in rows])
    manifest = json.loads((folder / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "n_questions": times * manifest["n_questions"]}))
    return out


@needs_browser
def test_ten_thousand_questions_under_five_megabytes(tmp_path):
    run = make_run(tmp_path / "run", n=100)
    big = enlarge(run, tmp_path / "big", 100)
    main([str(big), "--out", str(tmp_path / "out")])
    page = tmp_path / "out" / "report.html"
    assert page.stat().st_size < 5_000_000
    found = in_browser(page, FILTERS, tmp_path)
    assert found["all"] == 10_000 and found["rows"] == 100 and found["turns"] == 24 and found["undone"] == 0
