from __future__ import annotations

import pytest

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.team import load_team

GOOD = """
defaults: {sampling: {temperature: 0.5, max_tokens: 64}, engine_args: {max_model_len: 128}}
agents:
  - {name: one, model: org/model}
  - name: two
    model: org/model
    engine: openai
    sampling: {temperature: 1.0, stop: END}
    engine_args: {base_url: "http://localhost:1/v1"}
    system: Be brief.
"""


def load(tmp_path, text):
    (tmp_path / "team.yaml").write_text(text)
    return load_team(tmp_path / "team.yaml")


def test_the_same_model_twice_with_defaults_and_own_settings(tmp_path):
    one, two = load(tmp_path, GOOD)
    assert (one.engine, one.sampling) == ("vllm", {"temperature": 0.5, "max_tokens": 64})
    assert two.sampling == {"temperature": 1.0, "max_tokens": 64, "stop": "END"}
    assert two.engine_args == {"max_model_len": 128, "base_url": "http://localhost:1/v1"}
    # Where an agent runs is no part of what it answers.
    assert two.identity()["engine_args"] == {"max_model_len": 128} and two.identity()["sampling"]["stop"] == ["END"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("agents: [", "not valid YAML"),
        ("- a", "needs a list under `agents:`"),
        ("agents: []", "needs a list"),
        ("agents: [{name: a, model: m}]\nsize: 3", "unknown key 'size'"),
        ("agents: [hello]", "agent 1: must be a mapping"),
        ("agents: [{model: m}]", "agent 1: has no name"),
        ("agents: [{name: a}]", "agent 1: has no model"),
        ("agents: [{name: a, model: m}, {name: a, model: n}]", "agent 2: the name 'a' is taken"),
        ("agents: [{name: a, model: m, engine: magic}]", "unknown engine 'magic'; the engines are vllm"),
        ("agents: [{name: a, model: m, temperature: 1}]", "unknown key 'temperature'"),
        ("agents: [{name: a, model: m, sampling: {heat: 1}}]", "unknown setting 'heat'"),
        ("agents: [{name: a, model: m, sampling: {temperature: hot}}]", "temperature must be a number"),
        ("agents: [{name: a, model: m, sampling: {max_tokens: 1.5}}]", "whole number"),
        ("agents: [{name: a, model: m, sampling: {top_p: -1}}]", "top_p must be a number >= 0"),
        ("agents: [{name: a, model: m, sampling: {stop: 3}}]", "stop must be"),
        ("agents: [{name: a, model: m, sampling: 3}]", "sampling must be a mapping"),
        ("agents: [{name: 7, model: m}]", "name must be a text, not 7; put it in quotes"),
        ("agents: [{name: a, model: m, engine_args: {api_key: sk}}]", "keys do not belong in a team file"),
        ("defaults: 3\nagents: [{name: a, model: m}]", "defaults: must be a mapping"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value) and "team.yaml" in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="none.yaml: No such file"):
        load_team(tmp_path / "none.yaml")
