"""`Question`: one way to verify, one form of an answer, one majority, in training and evaluation alike."""

from types import SimpleNamespace

import pytest

from eval.play.methods import Config
from eval.play.recorder import Judge
from openrlhf_mlpo.pool.draw import make_draw
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player, Turn
from tests.small import write_pool

SORTING = Question("w", "bbh", "Sort: pear fig", "fig pear", "word_sorting")
ROMAN = Question("m", "mmlu", "Whose?\nA. Cato\nB. Nero", "A", choices=("Cato", "Nero"))
HALF = Question("h", "math", "What is half of 3/2?", r"\frac{3}{4}")


def responses(question: Question, *answers: str) -> list[dict]:
    texts = [f"I say <answer>{answer}</answer>" for answer in answers]
    return [
        {"agent": f"a{number}", "model": "m", "sample": 0, "text": text, "answer": answer, "prompt_tokens": 1,
         "correct": question.verify(text).correct, "completion_tokens": 1, "finish_reason": "stop"}
        for number, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]  # fmt: skip


def turns(rows: list[dict]) -> list[Turn]:
    return [Turn(row["agent"], 0, "", row["text"], 1, 1, "stop", 0.0) for row in rows]


def test_a_row_becomes_a_question_and_the_same_row_again():
    row = {"id": "x", "task": "mmlu", "subtask": "", "question": "q", "answer": "A", "choices": ["1", "2"]}
    assert Question.from_row(row).row() == row
    bare = Question.from_row({**row, "subtask": None, "choices": None})
    assert (bare.subtask, bare.choices) == ("", ())
    assert bare.key(None) is None


@pytest.mark.parametrize(
    ("question", "answers", "right"),
    [
        (SORTING, ("fig, pear", "fig pear", "pear fig"), True),
        (ROMAN, ("A", "(A) Cato", "B"), True),
        (ROMAN, ("B. Nero", "Nero", "A"), False),
        (HALF, (r"\frac{3}{4}", "0.75", "1"), True),
        (HALF, ("1", "2", "3"), None),
    ],
)
def test_majority_is_the_same_in_training_and_evaluation(question, answers, right):
    rows = responses(question, *answers)
    assert make_draw(question, rows, seed=0, episode=0).majority is right
    assert Judge().majority(question, turns(rows)) is right


@pytest.mark.parametrize("answer", [r"\frac{3}{4}", "True", r"\sqrt{2}"])
def test_the_leader_sees_the_same_answers_in_training_and_evaluation(answer, tmp_path):
    """With `--show answer`: as the agent gave them, not in the form in which votes are counted."""
    from eval.play.calls import Models
    from eval.play.players import Players
    from openrlhf_mlpo import cpu

    cpu.activate()
    from transformers import AutoTokenizer

    from openrlhf_mlpo.pool.format import open_pool
    from openrlhf_mlpo.prompts.templates import load_template
    from openrlhf_mlpo.train.dataset import TeamPromptDataset
    from tests.tiny import make_tiny_model
    from tests.train.test_dataset import strategy

    question = Question("q", "exact", "What is it?", answer)
    rows = responses(question, answer)
    pool = write_pool(tmp_path / "pool", [{**question.row(), "responses": rows}])
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(tmp_path / "model"))
    dataset = TeamPromptDataset(
        open_pool(pool), tokenizer, strategy(pool, show="answer", team_size="1", drop_correct=1.01)
    )
    in_training = dataset[0][1]
    args = SimpleNamespace(engine_args={}, temperature=0.0, max_new_tokens=8, show="answer", max_prompt_tokens=0)
    template = load_template("chat")
    config = Config(methods=("leader_team",), template=template)
    players = Players(args, config, [], {"boss": "callable:tests/fake_players.py:boss"}, Models())
    messages = players.leaders[0].leader_prompt(template, question.text, [row["text"] for row in rows])
    for prompt in (in_training, messages[-1]["content"]):
        assert answer in prompt and "I say" not in prompt


def test_a_configuration_needs_no_template():
    assert Config(methods=("agent",)).template.name == "chat"


def test_a_leader_without_renderer_shows_what_it_was_asked_to_show():
    leader = Player("boss", None, show="answer")
    content = leader.leader_prompt(Config(methods=()).template, "Q?", ["because <answer>7</answer>"])[-1]["content"]
    assert "because" not in content and "7" in content
