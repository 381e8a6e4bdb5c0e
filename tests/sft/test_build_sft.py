"""The warm-start builder from a pool to train.jsonl, with a function in the leader's place; OpenRLHF's SFT reads it."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from openrlhf_mlpo.cli import build_sft
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.draw import make_draw
from openrlhf_mlpo.pool.format import open_pool
from openrlhf_mlpo.prompts.budget import count_tokens
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.sft.traces import KINDS
from openrlhf_mlpo.verify import verify_response
from tests.small import make_pool
from tests.tiny import make_tiny_model

CALLS = []


def leader(prompt: str, *, seed: int, sampling) -> str:
    """Answers yes or no whatever it is asked, and says how it thought."""
    CALLS.append(prompt)
    rng = random.Random(seed)
    why, answer = rng.choice(("it is", "I say", "because")), rng.choice(("True", "False"))
    return f"<think> I think {why} </think> <answer> {answer} </answer>"


def breaks(prompt: str, *, seed: int, sampling) -> str:
    """`leader`, until it has been asked `breaks.limit` times."""
    if len(CALLS) >= breaks.limit:
        raise UserError("the machine is gone")
    return leader(prompt, seed=seed, sampling=sampling)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    return make_pool(tmp_path_factory.mktemp("pool") / "pool", 30)


def command(pool: Path, model: Path, out: Path, *more: str, function: str = "leader") -> list[str]:
    return [
        *("--pool", str(pool), "--leader", f"{__name__}:{function}", "--engine", "callable", "--tokenizer", str(model)),
        *("--out", str(out), "--template", "compact", "--max_len", "256", "--max_new_tokens", "100"),
        *("--samples", "6", "--drop_correct", "2", *more),
    ]


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def built(pool, model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sft")
    assert build_sft.main(command(pool, model, out, "--draws", "2")) == 0
    return out


def test_traces_end_right_in_the_form_and_fit(built, pool, model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    gold = {row["id"]: row["answer"] for row in open_pool(pool)}
    rows = rows_of(built)
    assert {row["kind"] for row in rows} == set(KINDS)
    for row in rows:
        assert row["output"].endswith(tokenizer.eos_token)
        verdict = verify_response(row["output"], gold[row["id"]], row["task"], subtask=row["subtask"])
        assert verdict.correct and verdict.formatted, row
        assert count_tokens(tokenizer, row["output"]) <= 100
        assert count_tokens(tokenizer, row["input"]) <= 156
        assert (row["agents"] == 0) == (" says " not in row["input"])
        assert row["later_round"] == ("leader :" in row["input"])


def test_the_card_tells_what_the_data_are(built):
    card, rows = json.loads((built / "card.json").read_text()), rows_of(built)
    assert card["verified"] == card["yield"]["traces"] == len(rows)
    for kind in KINDS:
        made = sum(row["kind"] == kind for row in rows)
        assert card["kinds"]["made"][kind] == made <= card["kinds"]["candidates"][kind]
        lost = sum(card["kinds"]["dropped"][kind].values())
        assert card["kinds"]["offered"][kind] == card["kinds"]["candidates"][kind] + lost
    assert card["yield"]["outputs"] == 6 * card["yield"]["prompts"]
    assert card["all_agents_wrong"] == sum(not row["agents_correct"] for row in rows if row["agents"]) > 0
    assert card["tokens"]["trace"]["max"] <= 100
    assert card["pool"]["agents"] == []  # this pool was not made by sample_team
    page = (built / "card.md").read_text()
    assert f"{len(rows)} traces" in page and "| own_line " in page


def test_same_seed_same_bytes_and_other_seeds_other_rows(built, pool, model, tmp_path):
    for name, seed in (("same", "0"), ("other", "1")):
        build_sft.main(command(pool, model, tmp_path / name, "--draws", "2", "--seed", seed))
    for name in ("train.jsonl", "card.json", "card.md"):
        assert (tmp_path / "same" / name).read_bytes() == (built / name).read_bytes()
    assert rows_of(tmp_path / "other") != rows_of(built)


def test_a_broken_run_goes_on_and_ends_the_same(built, pool, model, tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(breaks, "limit", len(CALLS) + 150, raising=False)
    with pytest.raises(UserError, match="the machine is gone.*same command continues"):
        build_sft.main(command(pool, model, tmp_path / "a", "--draws", "2", function="breaks"))
    assert not (tmp_path / "a" / "train.jsonl").exists()
    begun = len(CALLS)
    monkeypatch.setattr(breaks, "limit", sys.maxsize)
    build_sft.main(command(pool, model, tmp_path / "a", "--draws", "2", function="breaks"))
    asked = json.loads((built / "card.json").read_text())["yield"]["outputs"]
    assert asked - 150 <= len(CALLS) - begun < asked, "what was answered is not asked again"
    assert (tmp_path / "a" / "train.jsonl").read_bytes() == (built / "train.jsonl").read_bytes()


def test_another_mix_asks_the_leader_nothing(built, pool, model):
    before, begun = (built / "train.jsonl").read_bytes(), len(CALLS)
    build_sft.main(command(pool, model, built, "--draws", "2", "--mix", "own_line=1", "--n", "9"))
    assert [row["kind"] for row in rows_of(built)] == ["own_line"] * 9
    build_sft.main(command(pool, model, built, "--draws", "2"))
    assert (built / "train.jsonl").read_bytes() == before and len(CALLS) == begun


def test_draws_are_not_those_of_training(pool):
    """An SFT draw of a question is its own, so that MLPO does not start on prompts that were memorised."""
    row = open_pool(pool)[0]
    question = Question.from_row(row)
    seen = {make_draw(question, row["responses"], seed=0, episode=f"sft {n}").texts for n in range(20)}
    assert len(seen) > 5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mix", "own=1"], "--mix: unknown kind 'own'"),
        (["--mix", "plain"], "--mix 'plain': write KIND=SHARE"),
        (["--mix", "plain=0"], "one must be above 0"),
        (["--samples", "0"], "--samples must be at least 1"),
        (["--solo_fraction", "2"], "--solo_fraction must be between 0 and 1"),
        (["--max_new_tokens", "256"], "--max_len 256 must exceed --max_new_tokens 256"),
        (["--max_new_tokens", "220"], "cannot fit 36 tokens"),
        (["--engine_args", "{"], "--engine_args {: not a JSON object"),
        (["--chat_template_kwargs", "[1]"], "--chat_template_kwargs .1.: not a JSON object"),
        (["--drop_correct", "0"], "--drop_correct must be above 0"),
        (["--drop_correct", "0.0001"], "no question is left of 30; raise --drop_correct"),
        (["--phrases", "none.yaml"], "--phrases none.yaml: No such file"),
        (["--pool", "nowhere"], "nowhere: no pool here"),
        (["--tokenizer", "nowhere"], "--tokenizer nowhere: no tokenizer can be read there"),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(pool, model, tmp_path, more, message):
    begun = len(CALLS)
    with pytest.raises(UserError, match=message) as caught:
        build_sft.main(command(pool, model, tmp_path / "out", *more))
    assert len(str(caught.value).splitlines()) == 1 and len(CALLS) == begun


def opens(prompt: str, *, seed: int, sampling) -> str:
    """A leader whose chat template has opened the thinking already: mostly in the form, sometimes not."""
    rng = random.Random(seed)
    why, answer = rng.choice(("it is", "I say", "because")), rng.choice(("True", "False"))
    return rng.choice(
        ("I think {} </think> <answer> {} </answer>", "<think> {} </think> so <answer> {} </answer>")
    ).format(why, answer)


@pytest.mark.parametrize(("end", "kwargs"), [("<think> ", ""), ("<think>", ""), ("{{ mark }} ", '{"mark": "<think>"}')])
def test_a_chat_template_that_opens_the_thinking(pool, tmp_path, end, kwargs):
    """No tag is there twice: the output goes on where the prompt ends, and together they have the form."""
    from transformers import AutoTokenizer

    folder = make_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant ' }}", f"assistant ' }}}}{end}")
    tokenizer.save_pretrained(folder)
    more = ["--chat_template_kwargs", kwargs] if kwargs else []
    assert build_sft.main(command(pool, folder, tmp_path / "out", *more, function="opens")) == 0
    gold = {row["id"]: row["answer"] for row in open_pool(pool)}
    rows = rows_of(tmp_path / "out")
    assert {row["kind"] for row in rows} == set(KINDS)
    for row in rows:
        assert row["input"].rstrip().endswith("<think>") and "<think>" not in row["output"]
        verdict = verify_response("<think>" + row["output"], gold[row["id"]], row["task"], subtask=row["subtask"])
        assert verdict.correct and verdict.formatted, row
    later = [row["question"] for row in open_pool(tmp_path / "out/outputs/later_round")]
    assert later and all("leader : [think]" in prompt for prompt in later), "as a turn of inference holds it"
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["settings"]["chat_template_kwargs"] == json.loads(kwargs or "{}")


def test_more_draws_and_samples_ask_only_for_those(pool, model, tmp_path):
    begun = len(CALLS)
    build_sft.main(command(pool, model, tmp_path / "a"))
    build_sft.main(command(pool, model, tmp_path / "a", "--draws", "2", "--samples", "7"))
    asked = len(CALLS) - begun
    build_sft.main(command(pool, model, tmp_path / "b", "--draws", "2", "--samples", "7"))
    assert asked == len(CALLS) - begun - asked
    assert (tmp_path / "a" / "train.jsonl").read_bytes() == (tmp_path / "b" / "train.jsonl").read_bytes()


REVISED = []


def reviser(messages: list[dict], *, seed: int, sampling) -> str:
    """An agent that says what it was told: its own last response and the leader's output are in its prompt."""
    REVISED.append(messages[-1]["content"])
    return f"now {len(REVISED)} <answer> {random.Random(seed).choice(('True', 'False'))} </answer>"


def team_file(folder: Path, *names: str) -> str:
    agents = [{"name": name, "engine": "callable", "model": f"{__name__}:reviser"} for name in names]
    (folder / "team.yaml").write_text(json.dumps({"agents": agents}))
    return str(folder / "team.yaml")


def test_with_a_team_later_rounds_show_its_revisions(pool, model, tmp_path):
    """Each agent saw its own response of the first prompt and the leader's output to it; what it answered stands in
    the later prompt, in the place where its response stood, and is judged."""
    begun, more = len(REVISED), ("--team", team_file(tmp_path, "ann", "bob", "cyd"), "--later_fraction", "0.7")
    build_sft.main(command(pool, model, tmp_path / "a", *more))
    first = {row["id"]: row for row in open_pool(tmp_path / "a/outputs/first_round")}
    revised = [row["responses"] for row in open_pool(tmp_path / "a/outputs/revised")]
    later = [row["question"] for row in open_pool(tmp_path / "a/outputs/later_round")]
    assert len(REVISED) - begun == 3 * len(revised) and len(later) == len(revised) > 10
    assert not any(" says " in prompt for prompt in later)
    outputs = {row["responses"][0]["text"].replace("<", "[").replace(">", "]") for row in first.values()}
    for prompt, responses in zip(later, revised):
        assert all(response["text"].partition(" <")[0] in prompt for response in responses)
        assert any(" ".join(output.split()) in " ".join(prompt.split()) for output in outputs)
    for name, content in zip(("ann", "bob", "cyd"), REVISED[begun :: len(revised)]):
        assert f"{name} says" in content and "I think" in content
    rows = [row for row in rows_of(tmp_path / "a") if row["later_round"]]
    right = {r["text"].partition(" <")[0]: r["correct"] for responses in revised for r in responses}
    for row in rows:
        assert row["agents_correct"] == sum(right[text] for text in re.findall(r"now \d+", row["input"]))
    again = len(REVISED)
    build_sft.main(command(pool, model, tmp_path / "a", *more))
    assert len(REVISED) == again, "what is stored is not asked again"


def test_a_team_that_is_not_the_pools_is_refused(pool, model, tmp_path):
    with pytest.raises(UserError, match="team.yaml has no agent 'cyd', whose responses .* holds"):
        build_sft.main(command(pool, model, tmp_path / "out", "--team", team_file(tmp_path, "ann", "bob", "dan")))


def test_changed_settings_are_refused(built, pool, model):
    with pytest.raises(UserError, match="begun with other settings: .*samples 6 in the pool, 5 now"):
        build_sft.main(command(pool, model, built, "--draws", "2", "--samples", "5"))


def test_openrlhf_reads_it_and_learns_the_output_alone(built, model):
    """Stock SFTDataset keeps every row, and its loss mask covers the leader's output, end token included."""
    from types import SimpleNamespace

    from datasets import load_dataset
    from openrlhf.datasets import SFTDataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    data = SimpleNamespace(input_key="input", output_key="output", apply_chat_template=False)
    strategy = SimpleNamespace(args=SimpleNamespace(data=data), is_rank_0=lambda: True)
    rows = load_dataset("json", data_files=str(built / "train.jsonl"), split="train")
    dataset = SFTDataset(rows, tokenizer, 256, strategy, input_template="{}", num_processors=1)
    assert len(dataset) == len(rows), "a row was dropped in silence"
    wanted = [tokenizer(row["output"], add_special_tokens=False)["input_ids"] for row in rows]
    for index in range(0, len(dataset), 7):
        ids, _, mask = dataset[index]
        assert [int(token) for token, use in zip(ids[0][1:], mask[0][:-1].bool()) if use] in wanted
