"""The protocol: who is asked what, in which order, in how many batches."""

from __future__ import annotations

import pytest

from openrlhf_mlpo.engines import Completion
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.rounds import Player, leader_solo, leader_team, shown_order, team_answers
from tests import fake_players as fake

COMPACT, CHAT = load_template("compact"), load_template("chat")


@pytest.mark.parametrize("template", [COMPACT, CHAT], ids=["compact", "chat"])
def test_who_sees_what(template):
    team, boss, questions = fake.team("ann", "bob"), fake.leader(), fake.questions(4)
    played = leader_team(team, [boss], questions, template, rounds=3)["mlpo"]
    for question, rounds in zip(questions, played, strict=True):
        assert [r.output.round for r in rounds] == [0, 1, 2]
        for t, this in enumerate(rounds):
            assert [turn.player for turn in this.responses] == ["ann", "bob"]
            leader_saw = this.output.prompt[-1]["content"]
            assert question.text in leader_saw
            for k, turn in enumerate(this.responses):
                said = turn.text.replace("<answer>", "[answer]").replace("</answer>", "[/answer]")
                assert said in leader_saw
                agent_saw = turn.prompt[-1]["content"]
                if t == 0:
                    assert "[answer]" not in agent_saw
                else:
                    before = rounds[t - 1]
                    assert before.responses[k].text.split("<")[0] in agent_saw
                    assert before.output.text.split("> ")[1].split(" <")[0] in agent_saw
                    assert before.responses[1 - k].text.replace("<", "[") not in agent_saw
            assert ("[think]" in leader_saw) == (t > 0)  # its own last output, carried in the user turn


def test_one_batch_per_model_and_round():
    calls = []
    team, leaders = fake.team("ann", "bob", calls=calls), [fake.leader(n, calls=calls) for n in ("mlpo", "untrained")]
    leader_team(team, leaders, fake.questions(5), COMPACT, rounds=2)
    assert calls == [
        ("ann", 5), ("bob", 5), ("mlpo", 5), ("untrained", 5),  # round 0 of the team is shared
        ("ann", 5), ("ann", 5), ("bob", 5), ("bob", 5), ("mlpo", 5), ("untrained", 5),
    ]  # fmt: skip


def test_first_responses_are_the_same_for_all_leaders():
    leaders = [fake.leader(), fake.leader("untrained", 0.1)]
    played = leader_team(fake.team("ann", "bob"), leaders, fake.questions(6), COMPACT, rounds=2)
    for mine, theirs in zip(played["mlpo"], played["untrained"], strict=True):
        assert mine[0].responses == theirs[0].responses


def test_playing_twice_is_the_same():
    def once():
        return leader_team(fake.team("ann", "bob"), [fake.leader()], fake.questions(5), COMPACT, rounds=2, seed=4)

    assert once() == once()


def test_early_stop():
    asked = []

    def settled(question, last, now):
        asked.append((question.id, last, now))
        return question.id == "q00001"

    played = leader_team(
        fake.team("ann"), [fake.leader()], fake.questions(3), COMPACT, rounds=4, settled=settled
    )["mlpo"]  # fmt: skip
    assert [len(rounds) for rounds in played] == [4, 2, 4]
    assert asked[0][1:] == (played[0][0].output.text, played[0][1].output.text)


def test_no_leader_no_calls():
    assert leader_team([], [], fake.questions(2), COMPACT, rounds=1) == {}


def test_solo_shows_no_team():
    turns = leader_solo(fake.leader(), fake.questions(2), CHAT, n=3)
    assert [len(samples) for samples in turns] == [3, 3]
    assert "team" not in turns[0][0].prompt[-1]["content"]


def test_team_answers_shape():
    answers = team_answers(fake.team("ann", "bob"), fake.questions(4), COMPACT, n=2)
    assert (len(answers), len(answers[0]), len(answers[0][0])) == (4, 2, 2)


def test_order_is_shuffled_by_question_and_stable():
    orders = {tuple(shown_order(3, 0, f"q{i}")) for i in range(60)}
    assert len(orders) == 6
    assert shown_order(3, 0, "q1") == shown_order(3, 0, "q1")


def test_seeds_differ_by_model_and_round():
    seeds = []

    def generate(prompts, n, seed):
        seeds.append(seed)
        return [[Completion("hi")] * n for _ in prompts], 0.0

    for seed in (0, 1):
        for t in (0, 1, 0):
            for name in ("ann", "bob"):
                Player(name, generate).ask(["q"], round=t, seed=seed)
    assert len(set(seeds)) == 8 and all(0 <= seed < 2**31 for seed in seeds)  # round 0 asked again: the same seeds


def test_seconds_are_shared_out():
    turns = fake.team("ann")[0].ask(["What is 1 + 1?"] * 4, n=2)
    assert sum(turn.seconds for samples in turns for turn in samples) == pytest.approx(0.008)


def words():
    """A tokenizer of words without a chat template, enough to fit prompts with."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


def test_what_an_agent_is_shown_is_cut_to_fit():
    agent = Player("ann", generate=None, tokenizer=words(), max_prompt_tokens=30)
    long = " ".join(f"w{i}" for i in range(200))
    content = agent.agent_prompt(COMPACT, "What is 1 + 2?", long + " end", "leader says 3")[-1]["content"]
    assert len(content.split()) <= 30
    assert content.startswith("What is 1 + 2?") and "w199 end" in content and "leader says 3" in content
    assert agent.agent_prompt(COMPACT, "q", "own", "lead") == Player("x", None).agent_prompt(
        COMPACT, "q", "own", "lead"
    )


def test_the_variables_of_an_agents_chat_template_count():
    tokenizer = words()
    tokenizer.chat_template = "{{ messages[-1]['content'] }}{% if long %}" + " more" * 10 + "{% endif %}"
    lengths = []
    for variables in ({}, {"long": True}):
        agent = Player("ann", None, tokenizer=tokenizer, max_prompt_tokens=30, chat_template_kwargs=variables)
        content = agent.agent_prompt(COMPACT, "What is 1 + 2?", "w " * 200, "leader says 3")[-1]["content"]
        lengths.append(len(content.split()))
    assert lengths[0] <= 30 and lengths[1] <= 20


def test_texts_that_fit_are_not_tokenized():
    def never(*args, **kwargs):
        raise AssertionError("tokenized")

    never.chat_template = None
    agent = Player("ann", generate=None, tokenizer=never, max_prompt_tokens=300)
    shown = agent.agent_prompt(COMPACT, "What is 1 + 2?", "I say 3", "leader says 3")
    assert shown == Player("x", None).agent_prompt(COMPACT, "What is 1 + 2?", "I say 3", "leader says 3")


def test_system_message_of_an_agent():
    agent = Player("ann", generate=None, system="Be brief.")
    assert agent.agent_prompt(CHAT, "q", None, None)[0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(("prompt", "opened"), [("question <think>\n", "<think>\n"), ("question", ""), ([], "")])
def test_thinking_that_the_prompt_opened_belongs_to_the_output(prompt, opened):
    """Else the form would be judged wrong, and the next round would show half a thought."""
    said = "so </think> <answer> 1 </answer>"
    leader = Player("boss", lambda prompts, n, seed: ([[fake.completion(said, "")]], 0.1))
    assert leader.ask([prompt])[0][0].text == opened + said
