"""Transcripts of training: whole groups with their rewards, steps that are repeated, the page that shows them."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch

from openrlhf_mlpo import cpu

cpu.activate() if cpu.use_cpu() else None

from openrlhf_mlpo.cli import samples as page  # noqa: E402
from openrlhf_mlpo.errors import UserError  # noqa: E402
from openrlhf_mlpo.train.samples import SampleLog  # noqa: E402
from tests.browser import in_browser, needs_browser  # noqa: E402


class Letters:
    """A tokenizer of one token a character."""

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(chr(token) for token in tokens if token)


def batch(*groups: tuple[str, dict, list[tuple[str, float]]], at_once: int = 3) -> list[SimpleNamespace]:
    """Experiences as OpenRLHF makes them, padded on the right, `at_once` outputs each; groups may be split."""
    outputs = [(prompt, json.dumps(label), text, reward) for prompt, label, group in groups for text, reward in group]
    experiences = []
    for start in range(0, len(outputs), at_once):
        part = outputs[start : start + at_once]
        length = max(len(prompt + text) for prompt, _, text, _ in part)
        sequences = torch.tensor([[*map(ord, (p + t).ljust(length, "\0"))] for p, _, t, _ in part])
        mask = torch.zeros(len(part), length - 1)
        for row, (prompt, _, text, _) in enumerate(part):
            mask[row, len(prompt) - 1 : len(prompt + text) - 1] = 1
        rewards = torch.tensor([reward for *_, reward in part])
        experiences.append(
            SimpleNamespace(
                sequences=sequences, action_mask=mask,
                prompts=[p for p, *_ in part], labels=[label for _, label, *_ in part],
                info={"reward": rewards, "accuracy": (rewards > 0.5).float()}, scores=rewards,
            )
        )  # fmt: skip
    return experiences


def label(id_: str, round: int = 0, **more) -> dict:
    return {"answer": "4", "task": "bbh", "id": id_, "subtask": "object_counting", "round": round, **more}


EASY = ("2 + 2 ?", label("easy", agents_correct=3, majority=True), [("<answer> 4 </answer>", 1.0)] * 2)
MIXED = (
    "1 + 3 ?",
    label("mixed", agents_correct=1, majority=False),
    [("<answer> 4 </answer>", 1.0), ("<answer> </script><b>5</b> </answer>", 0.0)],
)
LATER = (
    "3 + 1 ?",
    label("later", 1, agents_correct=2, majority=True, last_correct=False, agents_right=[1, 1, 0]),
    [("it is 9", 0.0), ("<answer> 4 </answer>", 1.0)],
)


def test_groups_are_whole_and_the_rounds_take_turns(tmp_path):
    log = SampleLog(str(tmp_path), 2, Letters())
    log.choose(batch(EASY, MIXED, LATER))
    log.write(7)
    (file,) = (tmp_path / "_samples").iterdir()
    assert file.name == "step_000007.jsonl"
    mixed, later = map(json.loads, file.read_text().splitlines())
    assert (mixed["id"], mixed["step"], mixed["kind"], mixed["gold"]) == ("mixed", 7, "bbh/object_counting", "4")
    assert mixed["outputs"] == [
        {"text": "<answer> 4 </answer>", "answer": "4", "reward": 1.0, "correct": True},
        {
            "text": "<answer> </script><b>5</b> </answer>",
            "answer": "</script><b>5</b>",
            "reward": 0.0,
            "correct": False,
        },
    ]
    assert later["round"] == 1 and later["last_correct"] is False and later["agents_right"] == [1, 1, 0]
    assert [output["answer"] for output in later["outputs"]] == [None, "4"]
    text, reward = log.as_text()
    assert reward == 0.5 and "1 + 3 ?" in text and "output 2, wrong, reward 0" in text


def test_a_repeated_step_is_written_again_and_a_full_disk_stops_nothing(tmp_path):
    log = SampleLog(str(tmp_path), 9, Letters())
    log.choose(batch(EASY))
    log.write(1)
    log.choose(batch(MIXED, LATER))
    log.write(1)
    (file,) = (tmp_path / "_samples").iterdir()
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ["mixed", "later"]
    (tmp_path / "taken").write_text("a file where the folder should be")
    other = SampleLog(str(tmp_path / "taken"), 9, Letters())
    other.choose(batch(EASY))
    other.write(1)
    other.write(2)


@pytest.mark.parametrize("wanted", [0, 1])
def test_as_many_groups_as_asked(tmp_path, wanted):
    log = SampleLog(str(tmp_path), wanted, Letters())
    log.choose(batch(EASY, MIXED))
    log.write(1)
    assert (tmp_path / "_samples").exists() == bool(wanted) and (log.as_text() is None) == (not wanted)


def written(folder, *groups):
    log = SampleLog(str(folder), 9, Letters())
    for step, group in enumerate(groups, 1):
        log.choose(batch(group))
        log.write(step)
    return folder


def test_the_page_holds_the_groups_and_runs_none_of_their_text(tmp_path, capsys):
    assert page.main([str(written(tmp_path, EASY, MIXED, LATER))]) == 0
    assert "3 groups of 3 steps" in capsys.readouterr().out
    html = (tmp_path / "_samples" / "samples.html").read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    assert [group["id"] for group in json.loads(data)] == ["easy", "mixed", "later"]
    assert "</script><b>" not in html and html.count("<script") == 2 and "showRecords({" in html
    assert not re.search(r"""(?:src|href)=["']?http""", html)


FILTERS = """
  const shown = {};
  const look = (id, value) => {
    set(id, value);
    shown[value] = [...document.querySelectorAll("#list button")].map(b => b.textContent.includes("2 + 2") ? "easy"
      : b.textContent.includes("1 + 3") ? "mixed" : "later");
    set(id, "");
  };
  look("result", "right"); look("result", "mixed"); look("round", "1");
  look("meets", "overridden"); look("search", "b>5");
  document.querySelectorAll("#list button")[1].click();
  shown.outputs = [...document.querySelectorAll(".sides .turn")].map(turn => turn.textContent);
  shown.bold = [...document.querySelectorAll(".sides b")].map(b => b.textContent);
  return shown;
"""


@pytest.mark.slow
@needs_browser
def test_the_page_in_a_browser(tmp_path):
    page.main([str(written(tmp_path, EASY, MIXED, LATER))])
    shown = in_browser(tmp_path / "_samples" / "samples.html", FILTERS, tmp_path)
    assert "error" not in shown, shown["error"]
    assert shown["right"] == ["easy"] and "mixed" in shown["mixed"] and shown["1"] == ["later"]
    assert shown["overridden"] == shown["b>5"] == ["mixed"]
    assert len(shown["outputs"]) == 2 and "</script><b>5</b>" in shown["outputs"][1]
    assert "reward 1" in shown["outputs"][0] and "5" not in shown["bold"]  # text of the model is text


def test_a_page_that_would_be_too_big_leaves_out_the_first_steps(tmp_path, capsys):
    long = [(f"{n} ?", label(str(n)), [("x" * 60_000, 0.0)]) for n in range(3)]
    page.main([str(written(tmp_path, *long)), "--max_megabytes", "0.15", "--out", str(tmp_path / "page.html")])
    out = capsys.readouterr().out
    assert "steps up to 000001 are left out" in out and "2 groups of 2 steps" in out


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no transcripts here"):
        page.main([str(tmp_path)])
    folder = written(tmp_path, EASY) / "_samples"
    file = folder / "step_000001.jsonl"
    file.write_text(file.read_text() + '{"step": 1}\n')
    with pytest.raises(UserError, match=r"step_000001.jsonl, line 2: .*'prompt' is missing"):
        page.main([str(folder)])
    file.write_text("{broken\n")
    with pytest.raises(UserError, match="line 1: not valid JSON"):
        page.main([str(folder)])
