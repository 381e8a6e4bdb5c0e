"""Draws, labels and prompts of `TeamPromptDataset`."""

import copy
import datetime
import json
from types import SimpleNamespace

import pytest

from openrlhf_mlpo import cpu

cpu.activate() if cpu.use_cpu() else None

from openrlhf_mlpo.errors import UserError  # noqa: E402
from openrlhf_mlpo.pool.draw import keep_question, keep_questions, make_draw, parse_team_size  # noqa: E402
from openrlhf_mlpo.pool.format import open_pool  # noqa: E402
from openrlhf_mlpo.questions import Question  # noqa: E402
from openrlhf_mlpo.train.dataset import TeamPromptDataset, agents_by_row, make_label, read_row  # noqa: E402
from openrlhf_mlpo.verify import reward  # noqa: E402
from tests.small import AGENTS, make_pool, make_rows, write_pool  # noqa: E402
from tests.tiny import CHAT_TEMPLATE, make_tiny_model  # noqa: E402


def strategy(pool, **mlpo):
    settings = {
        "pool": str(pool),
        "template": "compact",
        "team_size": "0",
        "balance_draws": False,
        "solo_fraction": 0.0,
        "show": "full",
        "drop_correct": 2.0,
        "rounds": 1,
        "drop_long": False,
        "chat_template_kwargs": "",
        **mlpo,
    }
    args = SimpleNamespace(
        mlpo=SimpleNamespace(**settings),
        data=SimpleNamespace(max_len=256),
        rollout=SimpleNamespace(max_new_tokens=64),
        train=SimpleNamespace(seed=3),
        eval=SimpleNamespace(dataset=str(pool)),
    )
    return SimpleNamespace(args=args, is_rank_0=lambda: True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("pool") / "pool", n=40)


def test_draw_has_one_response_of_each_agent_in_shuffled_order():
    rows = make_rows(60)
    draws = [make_draw(Question.from_row(row), row["responses"], seed=0, episode=0) for row in rows]
    orders = {tuple(text.split()[0] for text in draw.texts) for draw in draws}
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(AGENTS))}
    assert len(orders) == 6, "all orders of three agents occur, so position tells nothing"


def test_draw_depends_on_seed_episode_and_question_only():
    row = make_rows(1)[0]
    draw = lambda **change: make_draw(  # noqa: E731
        Question.from_row(row), row["responses"], **{"seed": 0, "episode": 0, **change}
    )
    assert draw() == draw()
    assert len({draw(episode=e).texts for e in range(20)}) > 10
    assert len({draw(seed=s).texts for s in range(20)}) > 10
    reordered = make_draw(Question.from_row(row), row["responses"][::-1], seed=0, episode=0)
    assert {t.split()[0] for t in reordered.texts} == set(AGENTS)


def test_solo_fraction_and_team_size():
    rows = make_rows(400)
    solo = [
        not make_draw(Question.from_row(r), r["responses"], seed=1, episode=0, solo_fraction=0.3).texts for r in rows
    ]
    assert 0.22 < sum(solo) / len(solo) < 0.38
    sizes = {
        len(make_draw(Question.from_row(r), r["responses"], seed=1, episode=0, team_size=(2, 2)).texts) for r in rows
    }
    assert sizes == {2}


def test_majority_of_a_draw():
    rows = make_rows(200)
    for row in rows:
        draw = make_draw(Question.from_row(row), row["responses"], seed=0, episode=0)
        assert draw.majority is (sum(draw.correct) >= 2)  # two possible answers, three agents: always a majority
    assert make_draw(Question.from_row(row), row["responses"], seed=0, episode=0, solo_fraction=1.0).majority is None


def test_items_are_what_openrlhf_expects(pool, tokenizer):
    dataset = TeamPromptDataset(open_pool(pool), tokenizer, strategy(pool, solo_fraction=0.5))
    items = [dataset[i] for i in range(len(dataset))]
    sources, prompts, labels, images = dataset.collate_fn(items)
    assert len(dataset) == 40
    assert set(sources) == {"bbh_team", "bbh_solo"}
    assert images == [None] * 40
    for source, prompt, text in zip(sources, prompts, labels):
        label = json.loads(text)
        assert label["task"] == "bbh"
        assert ("agents_correct" in label) == (" says " in prompt) == (source == "bbh_team")
        assert prompt.endswith("<|im_start|> assistant ")
        assert "<answer>" not in prompt, "agents' answer tags must not stand in a prompt as they are"


def test_same_prompts_after_a_resume_and_new_ones_each_episode(pool, tokenizer):
    first = TeamPromptDataset(open_pool(pool), tokenizer, strategy(pool))
    again = TeamPromptDataset(open_pool(pool), tokenizer, strategy(pool))
    zero = [first[i][1] for i in range(40)]
    first.set_episode(1)
    one = [first[i][1] for i in range(40)]
    again.set_episode(1)
    assert [again[i][1] for i in range(40)] == one
    assert sum(a != b for a, b in zip(zero, one)) > 30


def test_evaluation_set_has_every_question_with_and_without_team(pool, tokenizer):
    dataset = TeamPromptDataset(open_pool(pool), tokenizer, strategy(pool, drop_correct=0.01), evaluation=True)
    items = [dataset[i] for i in range(len(dataset))]
    assert len(dataset) == 80, "the filter is for training only"
    assert [item[0] for item in items] == ["bbh_team", "bbh_solo"] * 40
    dataset.set_episode(5)
    assert [dataset[i] for i in range(80)] == items, "evaluation draws stay the same"


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.75, 1.01])
def test_filter_on_columns_equals_the_rule(pool, threshold):
    rows = open_pool(pool)
    expected = [keep_question(row["responses"], threshold) for row in rows]
    assert keep_questions(rows, threshold).tolist() == expected
    # A selection is an index over the table: the columns must follow it.
    assert keep_questions(rows.select([5, 3, 9]), threshold).tolist() == [expected[i] for i in (5, 3, 9)]


def test_a_row_read_from_arrow_is_the_row(pool):
    rows = open_pool(pool)
    for dataset, index in ((rows, 0), (rows, 39), (rows.select([7, 3, 9]), 1)):
        expected, (question, responses) = dataset[index], read_row(dataset.with_format("arrow")[index])
        assert question == Question.from_row(expected)
        assert responses == [{k: r[k] for k in responses[0]} for r in expected["responses"]]


def test_nothing_left_is_one_clear_line(pool, tokenizer):
    with pytest.raises(UserError, match="no question is left.*--mlpo.drop_correct"):
        TeamPromptDataset(open_pool(pool), tokenizer, strategy(pool, drop_correct=0.001))


def test_long_questions_are_left_out_and_counted(tmp_path, tokenizer, capsys):
    rows = make_rows(8)
    for number in (2, 5):
        rows[number]["question"] = "not " * 300 + "True"
    pool = open_pool(write_pool(tmp_path / "pool", rows))
    dataset = TeamPromptDataset(pool, tokenizer, strategy(tmp_path / "pool", drop_long=True))
    assert dataset.rows.tolist() == [0, 1, 3, 4, 6, 7]
    assert "6 of 8 questions; left out: 2 too long for --data.max_len (--mlpo.drop_long)" in capsys.readouterr().out
    evaluation = TeamPromptDataset(pool, tokenizer, strategy(tmp_path / "pool", drop_long=True), evaluation=True)
    assert len(evaluation) == 12


def test_agents_by_row(pool, tmp_path):
    rows = make_rows(5)
    del rows[1]["responses"][4:8]
    rows[3]["responses"] = []
    team, responded = agents_by_row(open_pool(write_pool(tmp_path / "pool", rows)))
    assert team == sorted(AGENTS)
    assert responded.tolist() == [[True] * 3, [True, False, True], [True] * 3, [False] * 3, [True] * 3]
    assert agents_by_row(open_pool(pool).select([3, 1]))[1].all()


def with_template(tokenizer, template: str):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def test_chat_template_variables_reach_the_prompts(pool, tokenizer):
    thinking = with_template(tokenizer, CHAT_TEMPLATE + "{% if enable_thinking %}<think> {% endif %}")
    on, off = (
        TeamPromptDataset(open_pool(pool), thinking, strategy(pool, chat_template_kwargs=text))[0][1]
        for text in ('{"enable_thinking": true}', '{"enable_thinking": false}')
    )
    assert on == off + "<think> "


def test_a_prompt_is_the_same_on_the_next_day(pool, tokenizer, monkeypatch):
    """A template that prints the date must not change the prompts of a run that is resumed tomorrow."""
    import transformers.utils.chat_template_utils as chat_template_utils

    dated = with_template(tokenizer, "{{ strftime_now('%A %d %B %Y') + ' . ' }}" + CHAT_TEMPLATE)

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, *_):
            return datetime.datetime(2031, 1, 2)

    today = TeamPromptDataset(open_pool(pool), dated, strategy(pool))[0][1]
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert "2031" in dated.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert TeamPromptDataset(open_pool(pool), dated, strategy(pool))[0][1] == today


def test_format_is_judged_right_where_the_template_opens_the_thinking(pool, tokenizer):
    opening = with_template(tokenizer, CHAT_TEMPLATE + "{{ '<think>\\n' }}")
    _, prompt, label, _ = TeamPromptDataset(open_pool(pool), opening, strategy(pool))[0]
    answer = json.loads(label)["answer"]
    assert prompt.count("<think>") == 1
    for output, formatted in (
        (f"I think </think> <answer> {answer} </answer>", 1.0),
        (f"<think> I think </think> <answer> {answer} </answer>", 0.0),  # a second opening tag
        (f"<answer> {answer} </answer>", 0.0),  # never closed
    ):
        result = reward([prompt + output], [prompt], [label])
        assert result["extra_logs"]["format"] == formatted


def test_show_answer_only(pool, tokenizer):
    dataset = TeamPromptDataset(open_pool(pool), tokenizer, strategy(pool, show="answer"))
    assert not any(f"{agent} says" in dataset[0][1] for agent in AGENTS)


def test_label_carries_what_reward_and_metrics_need():
    row = {**make_rows(1)[0], "choices": ["a", "b"]}
    label = json.loads(
        make_label(Question.from_row(row), make_draw(Question.from_row(row), row["responses"], seed=0, episode=0))
    )
    assert label["answer"] == row["answer"]
    assert label["choices"] == ["a", "b"]
    assert set(label) == {"answer", "task", "id", "subtask", "choices", "agents_correct", "majority"}


def test_team_sizes_of_a_range_and_beyond_the_team():
    rows = make_rows(200)
    draws = [make_draw(Question.from_row(r), r["responses"], seed=1, episode=0, team_size=(1, 5)) for r in rows]
    assert {len(draw.texts) for draw in draws} == {1, 2, 3, 4, 5}
    for draw in draws:
        assert len(set(draw.texts)) == len(draw.texts), "no response twice"
        assert len(set(draw.agents)) == min(len(draw.texts), len(AGENTS))
    assert [parse_team_size(text) for text in ("0", "3", "1-5")] == [(0, 0), (3, 3), (1, 5)]


def test_balanced_draws_are_draws_with_few_and_many_right():
    rows = make_rows(400, samples=8)
    plain, balanced = (
        [make_draw(Question.from_row(r), r["responses"], seed=1, episode=0, balance=balance) for r in rows]
        for balance in (False, True)
    )
    shares = [[sum(sum(d.correct) == n for d in draws) / len(rows) for n in range(4)] for draws in (plain, balanced)]
    assert max(shares[1]) - min(shares[1]) < 0.5 * (max(shares[0]) - min(shares[0]))
    for row, draw in zip(rows, balanced, strict=True):
        known = {(r["agent"], r["text"]): r["correct"] for r in row["responses"]}
        assert [known[pair] for pair in zip(draw.agents, draw.texts, strict=True)] == list(draw.correct)
