"""Templates, injection safety and the token budget."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.budget import encode, end_of, share_budget
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import PromptTemplate, agent_messages, leader_messages, load_template, with_system
from openrlhf_mlpo.prompts.untrusted import control_tokens, defuse
from tests.prompts.test_families import HOSTILE
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("text", HOSTILE)
def test_defused_text_holds_no_control_token(text, tokenizer):
    tokens = control_tokens(tokenizer)
    safe = defuse(text, tokens)
    assert not any(token in safe for token in (*tokens, "<think>", "</think>", "<answer>", "</answer>", "<image>"))
    assert defuse(safe, tokens) == safe
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert not special & set(tokenizer(safe, add_special_tokens=False)["input_ids"])
    safe.encode("utf-8")


@pytest.mark.parametrize(
    "text", ["1 < 2 and x > 3", "if a<b>c: pass", "a[0] and [INSTEAD]", "∫ f(x) dx ≤ π", "| a | b |", "{x}", "½ ²"]
)
def test_ordinary_text_stays_as_it_is(text):
    assert defuse(text, ("<|im_end|>",)) == text


@pytest.mark.parametrize("name", ["chat", "compact"])
def test_templates_show_what_belongs_in(name):
    template = load_template(name)
    solo = leader_messages(template, "How many?", [])[-1]["content"]
    team = leader_messages(template, "How many?", ["one", "two"], last_output="<think>a</think>")[-1]["content"]
    first = agent_messages(template, "How many?")[-1]["content"]
    later = agent_messages(template, "How many?", own="mine", leader="<answer>7</answer>")[-1]["content"]
    assert all("How many?" in text for text in (solo, team, first, later))
    assert team.index("[think]a[/think]") < team.index("one") < team.index("two"), "as it came about"
    assert "mine" in later
    assert "[answer]7[/answer]" in later
    assert "mine" not in first


def test_placeholders_in_a_response_are_not_filled():
    text = leader_messages(load_template("compact"), "Q", ["{question} {text}"])[-1]["content"]
    assert "{question} {text}" in text


def test_template_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("instruction_solo: Be brief.\n")
    assert leader_messages(load_template(str(path)), "Q", [])[-1]["content"].endswith("Be brief.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense: x", "unknown key 'nonsense'"),
        ("response: no placeholder", "response must contain {number}"),
        ("- a list", "maps names to texts"),
        ("a: [", "not a readable YAML file"),
    ],
)
def test_bad_template_is_one_clear_line(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_template(str(path))
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_share_budget_fills_short_ones_first():
    assert share_budget([5, 100, 30], 60) == [5, 28, 27]
    assert share_budget([5, 6], 100) == [5, 6]
    assert share_budget([5, 6], -3) == [0, 0]
    assert share_budget([], 5) == []


def test_cutting_keeps_the_end(tokenizer):
    def keep_end(tokenizer, text, most):
        return end_of(tokenizer, text, encode(tokenizer, [text])[0], most)

    text = " ".join(["and"] * 50 + ["[answer]", "True", "[/answer]"])
    cut = keep_end(tokenizer, text, 10)
    assert cut.startswith("…")
    assert cut.endswith("[answer] True [/answer]")
    assert len(tokenizer(cut, add_special_tokens=False)["input_ids"]) <= 10
    assert keep_end(tokenizer, "and or", 10) == "and or"


word = st.sampled_from("True False and or not ( ) <answer> </answer> <|im_end|> yes strange".split())
response = st.lists(word, max_size=120).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(responses=st.lists(response, max_size=5), last=st.none() | response, budget=st.integers(180, 400))
def test_prompt_never_exceeds_its_budget(tokenizer, responses, last, budget):
    """Any lengths: it fits, the question is whole, and every text's end is there."""
    template = PromptTemplate(name="test", response="agent {number} : {text}", history="leader : {output}")
    renderer = PromptRenderer(tokenizer, template, budget)
    question = "not ( True ) and False or yes is"
    ends = [f"[answer] {n % 2 == 0} [/answer]" for n in range(len(responses) + (last is not None))]
    given_texts = [f"{text} {end}" for text, end in zip([*responses, *([last] if last is not None else [])], ends)]
    shown, last_text = (given_texts, None) if last is None else (given_texts[:-1], given_texts[-1])
    prompt = renderer.render(question, shown, last_text)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert len(ids) <= budget
    assert question in prompt
    assert prompt.count("[/answer]") >= len(ends)
    for number, end in enumerate(ends[: len(shown)], 1):
        block = prompt.split(f"agent {number} :")[1].split(f"agent {number + 1} :")[0]
        assert end in block
    frame = {tokenizer.convert_tokens_to_ids(t): n for t, n in (("<|im_start|>", 2), ("<|im_end|>", 1))}
    assert {token: ids.count(token) for token in frame} == frame


def test_what_cannot_fit_is_refused_with_the_flag_to_change(tokenizer):
    renderer = PromptRenderer(tokenizer, load_template("compact"), 40)
    with pytest.raises(UserError, match="--data.max_len"):
        renderer.render("True and " * 60, ["yes"])
    with pytest.raises(UserError, match="cannot fit 40 tokens"):
        renderer.check_fits("True is", 3)


@pytest.mark.parametrize("question", ["not True", "not Trué and", "x " * 30])
def test_a_question_that_fits_fits_in_later_rounds(tokenizer, question):
    """What the check before training lets through can be rendered with a last output, and the rest cannot."""

    def works(call, *args) -> bool:
        try:
            call(*args)
        except UserError:
            return False
        return True

    long = "and " * 40
    fits = []
    for budget in range(40, 400):
        renderer = PromptRenderer(tokenizer, load_template("compact"), budget)
        fits.append(works(renderer.check_fits, question, 3, 2))
        assert fits[-1] == works(renderer.render, question, [long] * 3, long)
    assert fits == sorted(fits) and {True, False} == set(fits)


def test_frame_is_the_chat_templates_own(tokenizer):
    renderer = PromptRenderer(tokenizer, load_template("chat"), 4000)
    messages = leader_messages(load_template("chat"), "Q", ["r1", "r2"])
    assert renderer.render("Q", ["r1", "r2"]) == tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )


def test_tokenizer_without_chat_template_is_refused(tokenizer):
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with pytest.raises(UserError, match="no chat template"):
            PromptRenderer(tokenizer, load_template("chat"), 100)
    finally:
        tokenizer.chat_template = template


def test_an_agent_has_one_system_message():
    messages = agent_messages(PromptTemplate("own", agent_system="Be brief."), "How many?")
    assert [message["content"] for message in with_system("Be kind.", messages)] == ["Be kind.", "How many?"]
    assert [message["content"] for message in with_system("", messages)] == ["Be brief.", "How many?"]
