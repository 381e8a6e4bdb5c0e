"""Where the response starts, and which answer it commits to."""

from __future__ import annotations

import unicodedata

import pytest

from openrlhf_mlpo.verify import extract_answer, is_formatted, response_of
from openrlhf_mlpo.verify.extract import clean

PROMPT = (
    "<|im_start|>user\nWhat is 6 x 7?\nagent 1 : \\boxed{41} <answer>41</answer><|im_end|>\n<|im_start|>assistant\n"
)
OUTPUT = "<think>six sevens</think>\n<answer>42</answer>"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (PROMPT + OUTPUT, OUTPUT),
        (PROMPT + OUTPUT + "<|im_end|>\n<|endoftext|>", OUTPUT),
        (PROMPT.replace("\n", " ").replace(" :", ":") + OUTPUT, OUTPUT),  # decoded with other white space
        (PROMPT[20:] + OUTPUT, OUTPUT),  # cut from the left
        (PROMPT[51:].replace("\n", " ") + OUTPUT, OUTPUT),  # both
        (PROMPT + "", ""),
        (PROMPT.replace("user", "us<unk>er") + OUTPUT, None),  # not the prompt: nothing is searched
        (OUTPUT, None),
        ("\n" + OUTPUT, None),
        (PROMPT[-10:] + OUTPUT, None),  # too little of the prompt to be sure
        (PROMPT[:-30], None),
    ],
)
def test_response_of(query: str, expected: str | None) -> None:
    found = response_of(query, PROMPT)
    assert (found if found is None else found.strip()) == expected


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC"])
def test_response_of_where_the_tokenizer_normalises(form: str) -> None:
    prompt = PROMPT.replace("6 x 7", "the ﬁrst cafe\u0301 menu\u2019s price in \u212b, x²")
    assert (decoded := unicodedata.normalize(form, prompt)) != prompt
    response = "<think>cafe\u0301</think><answer>x²</answer>"
    assert response_of(decoded + response, prompt) == response
    cut = decoded[30:].replace("\n", " ")  # from the left, and with other white space
    assert response_of(cut + response, prompt).strip() == response
    assert response_of(decoded[:-40] + response, prompt) is None  # never searched


def test_response_of_keeps_a_response_that_repeats_the_prompt() -> None:
    assert response_of(PROMPT + PROMPT + OUTPUT, PROMPT) == PROMPT + OUTPUT
    assert response_of(PROMPT[9:] + PROMPT + OUTPUT, PROMPT).strip() == PROMPT + OUTPUT


@pytest.mark.timeout(60)  # in quadratic time it would take hours
@pytest.mark.parametrize("words", ["ab", "a", "a b\n", "("])
def test_response_of_is_linear(words: str) -> None:
    prompt = words * (2_000_000 // len(words)) + "x"
    response_of(prompt[15_001:] + "b" * 1000, prompt)
    response_of("b" + prompt, prompt)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>42</answer>", "42"),
        ("<answer>41</answer> no, <answer>42</answer>", "42"),
        ("<think><answer>41</answer></think> <answer>42</answer>", "42"),
        ("<think>\\boxed{41}</think> so \\boxed{42}", "42"),
        ("<think>\\boxed{41}</think> so", None),
        ("<think>not closed <answer>42</answer>", None),
        ("no opening tag</think><answer>42</answer>", "42"),
        ("<answer>41</answer> <answer>42", "41"),
        ("<answer><answer>42</answer></answer>", "42"),
        ("<answer>42</answer><answer></answer>", None),
        ("\\boxed{41}<answer> </answer>", None),
        ("\\boxed{41} <answer>42</answer>", "42"),
        ("<answer>the answer is \\boxed{42}</answer>", "42"),
        ("<answer>\\boxed{41} \\boxed{42}</answer>", "\\boxed{41} \\boxed{42}"),
        ("\\boxed{41} then \\boxed{42}", "42"),
        ("\\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{1}{\\sqrt{2}}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\text{a \\{ brace}}", "\\text{a \\{ brace}"),
        ("\\boxed{41} \\boxed{42", "41"),
        ("\\fbox{42}", "42"),
        ("\\boxed {42}", "42"),
        ("$\\boxed{ 42 }$.", "42"),
        ("<answer>\\(42\\)</answer>", "42"),
        ("<answer>\n 42\n</answer>", "42"),
        ("<answer>\u0664\u0662</answer>", "42"),
        ("<answer>\u22124\uff12</answer>", "-42"),
        ("<Answer>42</ANSWER>", "42"),
        ("</answer>42<answer>", None),
        ("<think>a</think><answer>42</answer></think>", "42"),
        ("<think>a</think><answer>42</answer><think>more <answer>43</answer></think>", "42"),
        ("<think>a</think><answer>42</answer> </think> done", "42"),
        ("<Think>a <answer>41</answer></Think>", None),
        ("<answer>41</answer></think>", None),
        ("<answer>（1，2）</answer>", "(1,2)"),
        ("<answer>__42__</answer>", "42"),
        ("42", None),
        ("", None),
    ],
)
def test_extract_answer(text: str, expected: str | None) -> None:
    assert extract_answer(text) == expected


def test_boxed_can_be_refused() -> None:
    assert extract_answer("\\boxed{42}", boxed=False) is None
    assert extract_answer("<answer>42</answer>", boxed=False) == "42"


@pytest.mark.timeout(60)  # in quadratic time it would take hours
@pytest.mark.parametrize("mark", ["\\boxed{", "<answer>", "{", "\\", "<think>"])
def test_extraction_is_linear(mark: str) -> None:
    assert extract_answer(mark * (4 * 10**6 // len(mark))) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OUTPUT, True),
        ("\n" + OUTPUT + "</s>", True),
        ("<think></think><answer>42</answer>", True),
        ("<answer>42</answer>", False),
        (OUTPUT + " done", False),
        (OUTPUT + "<answer>42</answer>", False),
        ("<think>a</think> and so <answer>42</answer>", False),
        ("so <think>a</think><answer>42</answer>", False),
        ("<think>a</think><answer> </answer>", False),
        ("<think>a<answer>1</answer></think><answer>42</answer>", False),
        ("<think>a</think><answer>42", False),
        ("<answer>42</answer><think>a</think>", False),
        ("", False),
    ],
)
def test_is_formatted(text: str, expected: bool) -> None:
    assert is_formatted(text) is expected


@pytest.mark.parametrize("text", ["$5", "\\$5", "$a$ and $b$", "**", "`", "$$", "\\(", "a\\"])
def test_clean_leaves_halves_alone(text: str) -> None:
    assert clean(text) == text
