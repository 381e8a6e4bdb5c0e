"""eval/report.py: the numbers, the texts, and the page in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.evaluate import evaluate, write_jsonl
from eval.play.methods import Config
from eval.report import build, main, read_training, summarise
from eval.reporting import claims as compared
from eval.reporting.analysis import backtracking, by_round, load_run, system_name
from eval.reporting.claims import comparisons, over_runs, verdict
from eval.reporting.markdown import p_value, table
from eval.reporting.page import by_interest, to_html
from eval.reporting.stats import wilson
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.templates import load_template
from tests import fake_players as fake

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
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


def test_numbers_are_those_of_the_rows(folder, reported):
    rows, report = rows_of(folder), json.loads((reported / "report.json").read_text())["runs"][0]
    solo = [row["correct"] for row in rows if row["method"] == "leader_solo" and row["leader"] == "mlpo"]
    found = report["systems"]["leader_solo[mlpo]"]
    assert found["accuracy"] == pytest.approx(np.mean(solo)) and found["ci95"] == list(wilson(sum(solo), len(solo)))
    last = [row for row in rows if row["method"] == "leader_team" and row["leader"] == "mlpo" and row["round"] == 2]
    assert report["systems"]["leader_team[mlpo]"]["accuracy"] == pytest.approx(
        np.mean([row["correct"] for row in last])
    )
    assert report["systems"]["leader_team[mlpo]"]["tokens"] == pytest.approx(np.mean([row["tokens"] for row in last]))
    wrong = [row["correct"] for row in last if row["majority_now"] is False]
    right = [row["correct"] for row in last if row["majority_now"] is True]
    point = report["by_round"]["mlpo"][2]
    assert point["override"] == {
        "n": len(wrong),
        "accuracy": pytest.approx(np.mean(wrong)),
        "ci95": list(wilson(sum(wrong), len(wrong))),
    }
    assert point["misled"]["n"] == len(right) and point["misled"]["accuracy"] == pytest.approx(1 - np.mean(right))
    strata = report["by_correct_agents"]["leader_team[mlpo]"]
    assert sum(group["n"] for group in strata.values()) == 60
    none = [row["correct"] for row in last if row["n_correct_agents"] == 0]
    assert strata["0"]["n"] == len(none) and strata["0"]["accuracy"] == pytest.approx(np.mean(none))
    assert report["by_correct_agents"]["majority_vote"]["0"]["accuracy"] == 0
    assert set(report["by_subject"]["oracle"]) == {"exact/sums0", "exact/sums1"}


def test_comparisons_pair_the_same_questions(folder):
    made = {c.name: c for c in comparisons(load_run(folder))}
    assert {c.claim for c in made.values()} == {"", "a", "a, one round", "b", "c", "d"}
    assert not any("oracle" in name for name in made)
    assert made["leader_team[mlpo] - majority_vote, no agent right"].b.sum() == 0
    assert 0 < len(made["leader_team[mlpo] - leader_team[untrained], one agent right"].a) < 60
    for c in made.values():
        assert list(c.a.index) == list(c.b.index)


def test_summary_has_the_keys_of_the_quickstart(folder):
    summary = summarise(folder, wall_seconds={"eval": 1.5})
    assert set(summary["accuracy"]) == {
        "leader_team", "leader_solo", "leader_team_untrained", "leader_solo_untrained", "grpo_solo", "majority_vote",
        "best_agent", "oracle", "agents",
    }  # fmt: skip
    assert len(summary["accuracy"]["leader_team"]) == len(summary["accuracy"]["leader_team_untrained"]) == 3
    assert set(summary["accuracy"]["agents"]) == {"ann", "bob", "cat"}
    assert (
        summary["n_test"] == 60 and summary["wall_seconds"] == {"eval": 1.5} and summary["versions"] == {"scipy": "1"}
    )
    paired = summary["paired"]["leader_team[mlpo] - majority_vote"]
    assert set(paired) >= {"diff", "ci95", "p"} and paired["diff"] == pytest.approx(
        summary["accuracy"]["leader_team"][-1] - summary["accuracy"]["majority_vote"]
    )
    json.dumps(summary)


def test_the_same_results_give_the_same_report(folder, reported, tmp_path):
    main([str(folder), "--out", str(tmp_path)])
    names = sorted(path.name for path in reported.iterdir())
    assert names == [
        "by_correct_agents.png",
        "comparison.png",
        "cost.png",
        "report.html",
        "report.json",
        "report.md",
        "rounds.png",
    ]
    for name in names:
        assert (tmp_path / name).read_bytes() == (reported / name).read_bytes(), name


def test_markdown_names_seed_command_and_plots(reported):
    text = (reported / "report.md").read_text()
    assert "python3 eval/evaluate.py --seed 0" in text and "## team, seed 0" in text and "(comparison.png)" in text
    sections = (
        "The claims",
        "Accuracy and cost",
        "Paired comparisons",
        "By round",
        "Backtracking",
        "By number of correct",
    )
    for heading in sections:
        assert heading in text


@pytest.mark.slow
def test_seeds_are_pooled_and_teams_stand_side_by_side(tmp_path):
    folders = [make_run(tmp_path / f"s{seed}", n=40, seed=seed) for seed in (0, 1, 2)]
    folders.append(make_run(tmp_path / "other", n=40, team=("dan", "eve"), label="other team"))
    runs = [load_run(path) for path in folders]
    report = build(runs)
    assert list(report["pooled"]) == ["team"]
    pooled = next(t for t in report["pooled"]["team"] if t["name"] == "leader_team[mlpo] - majority_vote")
    assert pooled["runs"] == 3 and pooled["n"] == 40  # the same questions: each counts once
    assert pooled["diff"] == pytest.approx(np.mean(pooled["diffs"]))
    out = tmp_path / "report"
    main([*map(str, folders), "--out", str(out)])
    text = (out / "report.md").read_text()
    assert "team: 3 runs together" in text and "other team, seed 0" in text and (out / "across.png").exists()
    found = json.loads((out / "report.json").read_text())
    claims = found["groups"][0]["claims"]
    assert list(claims) == ["a", "a, one round", "b", "c", "d"]
    assert all(len(claim["runs"]) == 3 and claim["together"] for claim in claims.values())
    (beats,) = (c for c in claims["a"]["comparisons"] if c["name"] == "leader_team[mlpo] - majority_vote")
    assert [test["diff"] for test in beats["runs"]] == pytest.approx(pooled["diffs"])
    assert beats["together"]["verdict"] == verdict(*beats["together"]["ci95"])
    rows = {row["run"]: row for row in found["teams"]}
    assert [rows[name]["shared"] for name in ("team, seed 0", "other team, seed 0")] == [3, 0]
    assert rows["team: 3 runs together"]["rounds"] == pytest.approx(
        np.mean([rows[f"team, seed {seed}"]["rounds"] for seed in (0, 1, 2)], axis=0)
    )


def two_runs(differences: list[list[float]], ids: list[list[str]]) -> dict:
    """What `over_runs` says of runs with these differences (1, 0, -1) on these questions."""

    class Seed:
        seed = 0

        def __init__(self, d, names):
            self.made = pd.Series(d, index=names, dtype=float)

    def make(run):
        return [compared.Comparison("x", "a", run.made, run.made * 0)]

    (found,) = over_runs([Seed(d, names) for d, names in zip(differences, ids, strict=True)], make)
    return found


def test_runs_weigh_the_same_and_are_resampled_apart():
    """Other questions: the mean of the runs' means, and the standard error of a stratified sample."""
    rng = np.random.default_rng(0)
    many, few = rng.choice([1.0, 0.0], 400).tolist(), rng.choice([0.0, -1.0], 100).tolist()
    found = two_runs([many, few], [[f"a{i}" for i in range(400)], [f"b{i}" for i in range(100)]])
    assert found["diff"] == pytest.approx((np.mean(many) + np.mean(few)) / 2) and found["n"] == 500
    half = 1.96 / 2 * np.sqrt(np.var(many) / 400 + np.var(few) / 100)
    assert found["ci95"] == pytest.approx((found["diff"] - half, found["diff"] + half), abs=0.006)


def test_shared_questions_move_all_runs_at_once():
    rng = np.random.default_rng(1)
    d = rng.choice([1.0, 0.0, -1.0], 200).tolist()
    names = [f"q{i}" for i in range(200)]
    same = two_runs([d, d], [names, names])
    apart = two_runs([d, d], [names, [f"r{i}" for i in range(200)]])
    width = {key: np.diff(found["ci95"])[0] for key, found in (("same", same), ("apart", apart))}
    assert width["same"] == pytest.approx(width["apart"] * np.sqrt(2), rel=0.1)
    assert (same["n"], apart["n"]) == (200, 400) and same["p"] > apart["p"]
    half_shared = two_runs([d, d], [names, names[:100] + [f"r{i}" for i in range(100)]])
    assert width["apart"] < np.diff(half_shared["ci95"])[0] < width["same"]


def test_a_claim_holds_where_each_part_does():
    def parts(*verdicts):
        return [{"verdict": word} for word in verdicts]

    assert compared.combined("a", parts("holds", "holds", "holds")) == "holds"
    assert compared.combined("a", parts("holds", "not shown", "holds")) == "not shown"
    assert compared.combined("a", parts("holds", "not shown", "does not hold")) == "does not hold"
    assert compared.combined("c", parts("holds")) == "holds (1 of 2 parts tested)"
    assert compared.combined("b", []) == "not tested"


def test_steps_of_training(tmp_path):
    """Any number of leaders; those with known names are compared with what they were trained from."""
    names = ("mlpo", "untrained", "base", "grpo", "mlpo_no_sft", "other")
    leaders = [fake.leader(name, 0.9 - 0.1 * i, 0.7 - 0.1 * i) for i, name in enumerate(names)]
    config = Config(methods=("leader_team", "leader_solo"), rounds=1, template=load_template("compact"))
    evaluate(config, fake.team("ann", "bob", "cat"), leaders, fake.questions(40), tmp_path / "run", manifest={})
    run = load_run(tmp_path / "run")
    rows = compared.steps([run])
    team = [(row["leader"], row["against"]) for row in rows if row["system"].startswith("leader_team")]
    assert team == [
        ("base", ""), ("untrained", "base"), ("grpo", "untrained"), ("mlpo_no_sft", "base"), ("mlpo", "untrained"),
        ("mlpo", "grpo"), ("mlpo", "mlpo_no_sft"), ("mlpo", "base"), ("other", ""),
    ]  # fmt: skip
    step = next(row for row in rows if row["system"] == "leader_solo[untrained]")
    a, b = run.table["leader_solo[untrained]"], run.table["leader_solo[base]"]
    assert step["what"] == "after SFT" and step["accuracy"] == [pytest.approx(a.mean())]
    assert step["runs"][0]["diff"] == pytest.approx((a - b).mean()) and step["together"] is None
    more = Config(methods=("leader_team",), rounds=2, template=load_template("compact"))
    evaluate(more, fake.team("ann", "bob", "cat"), leaders[:2], fake.questions(40), tmp_path / "more", manifest={})
    more = load_run(tmp_path / "more")
    first = next(row for row in compared.steps([more]) if row["system"] == "leader_team[mlpo] first round")
    a, b = (more.by_round(f"leader_team[{name}]")[0] for name in ("mlpo", "untrained"))
    assert first["against"] == "untrained" and first["runs"][0]["diff"] == pytest.approx((a - b).mean())
    main([str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert "leader_solo[mlpo]: SFT + MLPO" in (tmp_path / "out" / "report.md").read_text()


def test_backtracking_is_counted(tmp_path):
    def reply(content, seed):
        text = fake.lead(0.9, 0.6, content, seed)
        return text.replace("</think>", "wait , look again </think>") if seed % 2 or "What is 3" in content else text

    config = Config(methods=("leader_team", "leader_solo"), rounds=2, template=load_template("compact"))
    run = evaluate_one(config, fake.player("mlpo", reply), tmp_path)
    found = backtracking(run)
    assert [point["round"] for point in found["leader_team[mlpo]"]] == [0, 1]
    assert [point["round"] for point in found["leader_solo[mlpo]"]] == [0]
    texts = [json.loads(line) for line in (tmp_path / "transcripts.jsonl").read_text().splitlines()]
    solo = [told["turns"][0] for told in texts if told["method"] == "leader_solo"]
    turned = [turn for turn in solo if "look again" in turn["text"]]
    (point,) = found["leader_solo[mlpo]"]
    assert point["revised"]["accuracy"] == len(turned) / len(solo) > 0
    assert point["right"]["accuracy"] == pytest.approx(np.mean([turn["correct"] for turn in turned]))
    assert point["right"]["n"] + point["others"]["n"] == len(solo)
    assert summarise(run)["backtracking"] == found


def evaluate_one(config, leader, folder):
    evaluate(config, fake.team("ann", "bob", "cat"), [leader], fake.questions(40), folder, manifest={})
    return load_run(folder)


@pytest.mark.slow
def test_team_sizes_and_an_unseen_team_beside_the_main_run(folder, tmp_path):
    unseen = tuple(fake.SKILL)[3:] + ("ann",)
    runs = [folder]
    for k in (1, 3, 6):
        runs.append(make_run(tmp_path / f"k{k}", n=30, team=unseen[:k], label=f"unseen K={k}"))
    out = tmp_path / "out"
    main([*map(str, runs), "--out", str(out)])
    rows = json.loads((out / "report.json").read_text())["teams"]
    assert [(row["run"], row["team_size"], row["shared"], row["n"]) for row in rows] == [
        ("team, seed 0", 3, 3, 60), ("unseen K=1, seed 0", 1, 0, 30), ("unseen K=3, seed 0", 3, 0, 30),
        ("unseen K=6, seed 0", 6, 1, 30),
    ]  # fmt: skip
    assert all(row["differences"]["majority_vote"]["ci95"] for row in rows)
    text = (out / "report.md").read_text()
    assert "## Teams and team sizes" in text and "| unseen K=3, seed 0 | 3 | 0 of 3 |" in text


def test_pooling_does_not_count_a_question_twice(folder):
    run = load_run(folder)
    once, thrice = over_runs([run]), over_runs([run, run, run])
    assert [t["ci95"] for t in once] == [t["ci95"] for t in thrice]


@pytest.mark.parametrize(
    ("ends", "word"), [((0.01, 0.2), "holds"), ((-0.1, 0.0), "not shown"), ((-0.2, -0.1), "does not hold")]
)
def test_verdict(ends, word):
    assert verdict(*ends) == word


def test_names_and_cells():
    assert system_name("leader_team", "mlpo") == "leader_team[mlpo]"
    assert system_name("best_agent", agent="ann") == "best_agent"
    assert system_name("debate", budget="tokens") == "debate (equal tokens)"
    assert (p_value(1e-9), p_value(0.0123)) == ("<0.0001", "0.0123")
    assert "a\\|b" in table(("x",), [("a|b",)])


def test_names_cannot_bring_html_in(tmp_path):
    page = to_html("# <script>alert(1)</script>\n\n| a |\n|---|\n| <img src=x> & |\n\n```\na < b && c\n```\n", tmp_path)
    assert "<script>" not in page and "<img" not in page and "a &lt; b &amp;&amp; c" in page


def test_won_and_lost_come_first():
    assert by_interest(["a", "b", "c", "d", "e"], ["11", "10", "10", "01", "00"], 0, 1) == ["b", "d", "c", "a", "e"]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no results.jsonl"), ("", "empty"), ('{"id": 1}\n{"id"', "line 2 is not JSON")]
)
def test_user_errors(tmp_path, content, message):
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        main([str(tmp_path), "--out", str(tmp_path / "out")])


def test_only_baselines(tmp_path):
    config = Config(methods=("agent", "majority_vote"), template=load_template("compact"))
    evaluate(config, fake.team("ann", "bob"), [], fake.questions(8), tmp_path / "run", manifest={})
    main([str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert by_round(load_run(tmp_path / "run")) == {}


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


def in_browser(page: Path, script: str, tmp_path: Path, fragment: str = "") -> dict:
    """Open the page offline in headless Chromium, run `script` in it, and give back the object it returns."""
    probe = (
        "<script>addEventListener('load', () => { let found; try { found = (() => {" + script + "})(); }"
        " catch (error) { found = {error: String(error)}; }"
        " const pre = document.createElement('pre'); pre.id = 'probe'; pre.textContent = JSON.stringify(found);"
        " document.body.append(pre); });</script>"
    )
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", probe + "</body>"))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000", "--dump-dom", f"file://{copy}{fragment}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1]))


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
FILTERS = """
  const set = (id, value) => {
    const e = document.getElementById(id);
    e.value = value;
    e.dispatchEvent(new Event("input"));
  };
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
  found.closed = document.querySelectorAll(".told").length;
  set("outcome", ""); set("subject", "1"); found.subject = count();
  set("subject", ""); set("right", "0"); found.none_right = count();
  set("right", ""); set("search", "what is 17"); found.search = count();
  set("search", "no such words at all"); found.nothing = count(); found.empty = rows();
  found.hash = location.hash;
  return found;
"""


@pytest.mark.slow
@needs_browser
def test_page_in_a_browser(folder, reported, tmp_path):
    found = in_browser(reported / "report.html", FILTERS, tmp_path)
    table = load_run(folder).table
    a, b = table["leader_team[mlpo]"], table["leader_team[untrained]"]
    assert (found["all"], found["rows"], found["undone"], found["images"]) == (60, 60, 0, 4)
    assert found["tables"] >= 5
    assert found["won"] == ((a == 1) & (b == 0)).sum() and found["lost"] == ((a == 0) & (b == 1)).sum()
    assert found["both"] + found["neither"] + found["won"] + found["lost"] == 60
    assert (
        found["sides"] == ["leader_team[mlpo] ✓", "leader_team[untrained] ✗"]
        and found["turns"] == 24
        and found["closed"] == 0
    )
    assert found["subject"] == 30 and 1 <= found["search"] < 10
    assert found["none_right"] == (load_run(folder).agents_right == 0).sum()
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
    shutil.copy(folder / "manifest.json", out)
    return out


@pytest.mark.slow
@needs_browser
def test_ten_thousand_questions_under_five_megabytes(tmp_path):
    run = make_run(tmp_path / "run", n=100)
    big = enlarge(run, tmp_path / "big", 100)
    main([str(big), "--out", str(tmp_path / "out")])
    page = tmp_path / "out" / "report.html"
    assert page.stat().st_size < 5_000_000
    found = in_browser(page, FILTERS, tmp_path)
    assert found["all"] == 10_000 and found["rows"] == 100 and found["turns"] == 24 and found["undone"] == 0
