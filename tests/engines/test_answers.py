"""Answers kept on disk: what has been answered is read, what came back empty is asked again."""

import json

import pytest

from openrlhf_mlpo.engines import Completion, Engine, Sampling
from openrlhf_mlpo.engines.answers import Answers
from openrlhf_mlpo.errors import UserError

SAMPLING = Sampling(temperature=0.5)


class Counting(Engine):
    """Says what it was asked, and stops after `good` prompts."""

    def __init__(self, good: int = 99, empty: str = ""):
        self.asked: list[str] = []
        self.good, self.empty = good, empty

    def stream(self, conversations, *, n=1, seed=0, sampling=None):
        for index, prompt in enumerate(conversations):
            if not self.good:
                raise UserError("the server is gone")
            self.good -= 1
            self.asked.append(prompt)
            yield index, [Completion("" if prompt == self.empty else f"{prompt} {seed} {s}", 3, 2) for s in range(n)]


def generate(folder, engine, prompts, *, n=2, seed=5, identity="m"):
    return Answers(folder).of_engine("ann", {"model": identity}, engine, SAMPLING)(prompts, n, seed)


def test_what_was_answered_before_a_stop_is_read(tmp_path):
    stopped, resumed, third = Counting(good=2), Counting(), Counting()
    with pytest.raises(UserError, match="the server is gone"):
        generate(tmp_path, stopped, ["a", "b", "c"])
    completions, seconds = generate(tmp_path, resumed, ["c", "b", "a", "d"])
    assert stopped.asked == ["a", "b"] and resumed.asked == ["c", "d"]
    assert [samples[1] for samples in completions] == [Completion(f"{p} 5 1", 3, 2) for p in "cbad"] and seconds >= 0
    assert generate(tmp_path, third, ["d", "a"])[0] == [completions[3], completions[2]] and not third.asked


@pytest.mark.parametrize("other", [{"seed": 6}, {"n": 1}, {"identity": "another"}])
def test_another_request_is_asked(tmp_path, other):
    generate(tmp_path, Counting(), ["a"])
    engine = Counting()
    generate(tmp_path, engine, ["a"], **other)
    assert engine.asked == ["a"]


def test_equal_prompts_are_asked_once_and_empty_ones_again(tmp_path):
    for _ in range(2):
        engine = Counting(empty="b")
        completions, _ = generate(tmp_path, engine, ["b", "b"], n=1)
        assert engine.asked == ["b"] and [samples[0].text for samples in completions] == ["", ""]


def test_damaged_answers_are_asked_again(tmp_path):
    generate(tmp_path, Counting(), ["a"])
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps({"seconds": 1, "completions": [[["a", 1, 1, "stop"]]]}))  # one sample of two
    engine = Counting()
    generate(tmp_path, engine, ["a"])
    assert engine.asked == ["a"]


def test_without_a_folder_everything_is_asked(tmp_path):
    engine = Counting()
    for _ in range(2):
        generate(None, engine, ["a"])
    assert engine.asked == ["a", "a"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/answers: Not a directory"):
        Answers(tmp_path / "file" / "answers")
