from __future__ import annotations

import json

import pytest

from openrlhf_mlpo.engines import Sampling
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.team import Agent, load_team

URL = "http://localhost:1/v1"

GOOD = """
defaults: {sampling: {temperature: 0.5, max_tokens: 64}}
agents:
  - {name: one, model: org/model, engine_args: {max_model_len: 128, max_num_seqs: 8}}
  - name: two
    model: org/model
    engine: openai
    sampling: {temperature: 1.0, stop: END}
    engine_args: {base_url: "http://localhost:1/v1"}
    system: Be brief.
"""


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def load(tmp_path, text):
    (tmp_path / "team.yaml").write_text(text)
    return load_team(tmp_path / "team.yaml")


def test_the_same_model_twice_with_defaults_and_own_settings(tmp_path):
    one, two = load(tmp_path, GOOD)
    assert (one.engine, one.sampling) == ("vllm", {"temperature": 0.5, "max_tokens": 64})
    assert two.sampling == {"temperature": 1.0, "max_tokens": 64, "stop": "END"}
    assert two.engine_args == {"base_url": "http://localhost:1/v1"}
    # Where and how fast an agent runs is no part of what it answers.
    assert one.identity()["engine_args"] == {"max_model_len": 128} and two.identity()["engine_args"] == {}
    assert two.identity()["sampling"]["stop"] == ["END"]


def test_null_leaves_a_setting_out(tmp_path):
    text = "agents: [{name: a, model: m, sampling: {temperature: null, top_p: null, max_tokens: null}, system: null}]"
    (agent,) = load(tmp_path, text)
    assert agent.sampling == {"temperature": None, "top_p": None, "max_tokens": 0} and agent.system == ""
    assert Sampling.from_dict(agent.sampling) == Sampling(temperature=None, top_p=None, max_tokens=0)


def agents(*entries: dict) -> str:
    return json.dumps({"agents": [{"name": f"a{i}", "model": "m", **entry} for i, entry in enumerate(entries)]})


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
        (agents({"sampling": {"top_p": -1}}), "top_p must be a number > 0.0 and <= 1.0, not -1"),
        (agents({"sampling": {"top_p": 0}}), "top_p must be a number > 0"),
        ("agents: [{name: a, model: m, sampling: {temperature: .nan}}]", "temperature must be a number >= 0"),
        ("agents: [{name: a, model: m, sampling: {max_tokens: .inf}}]", "max_tokens must be a whole number"),
        (agents({"sampling": {"min_p": 1.5}}), "min_p must be a number >= 0.0 and <= 1.0"),
        (agents({"sampling": {"top_k": None}}), "top_k must be a whole number >= 0, not None"),
        (agents({"sampling": {"stop": [""]}}), "stop must be a text or a list of texts, none of them empty"),
        ("agents: [{name: a, model: m, sampling: {stop: 3}}]", "stop must be"),
        (agents({"model": "./nowhere"}), "agent 1: model './nowhere': no such directory"),
        (agents({"engine_args": {"tensor_parallel_size": "2"}}), "tensor_parallel_size must be a whole number >= 1"),
        (agents({"engine_args": {"gpu_memory_utilization": 90}}), "gpu_memory_utilization must be a number > 0 and"),
        (agents({"engine": "ray", "engine_args": {"actors": 0}}), "actors must be a whole number >= 1"),
        (agents({"engine": "ray", "engine_args": {"engine": "ray"}}), "engine must be vllm, openai or callable"),
        (agents({"engine": "ray", "model": "./nowhere"}), "no such directory"),
        (agents({"engine": "openai"}), "no API key: set the environment variable OPENAI_API_KEY"),
        (agents({"engine": "openai", "engine_args": {"base_url": "host/v1"}}), "must begin with http:// or https://"),
        (agents({"engine": "openai", "engine_args": {"base_url": URL, "timeout": 0}}), "timeout must be"),
        (agents({"engine": "openai", "engine_args": {"base_url": URL, "max_retries": -1}}), "max_retries must be"),
        (
            agents({"engine": "openai", "engine_args": {"base_url": URL, "extra_body": 3}}),
            "extra_body must be a mapping",
        ),
        (agents({"engine": "openai", "engine_args": {"base_url": URL, "max_model_len": 3}}), "has no 'max_model_len'"),
        (agents({"engine": "callable", "model": "none.py:f"}), "agent function 'none.py:f': no such file"),
        (agents({"engine": "callable", "model": "json:nothing"}), "json has no function nothing"),
        (agents({"engine": "callable", "model": "shlex:join"}), r"define it as `def join\(messages, \*, seed"),
        (agents({"engine": "callable", "model": "no_such:f"}), "cannot import no_such"),
        (
            agents({"engine": "callable", "model": "json:x", "engine_args": {"threads": True}}),
            "threads must be a whole",
        ),
        ("agents: [{name: a, model: m, sampling: 3}]", "sampling must be a mapping"),
        ("agents: [{name: 7, model: m}]", "name must be a text, not 7; put it in quotes"),
        ("agents: [{name: a, model: m, engine_args: {api_key: sk}}]", "keys do not belong in a team file"),
        (
            agents({"engine_args": {"extra_body": {"API-Key": "sk"}}}),
            "keys do not belong in a team file.*remove API-Key",
        ),
        ("defaults: 3\nagents: [{name: a, model: m}]", "defaults: must be a mapping"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value) and "team.yaml" in str(caught.value)


def test_the_mistakes_of_all_agents_are_found_at_once(tmp_path):
    text = agents({"model": "./nowhere"}, {}, {"sampling": {"top_p": 3}}, {"engine": "callable", "model": "f"})
    with pytest.raises(UserError, match="agent 1: .*nowhere.*; agent 3: .*top_p.*; agent 4: .*write package.module"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "agents: [{name: a, model: m, engine_args: {api_key: SECRET}}]",
        "agents: [{name: a, model: m, api_key: SECRET, sampling: 3}]",
        "defaults: {engine_args: {token: SECRET}}\nagents: [{name: a, model: m}]",
        "agents:\n  - name: a\n    api_key: SECRET: x\n",
        "agents: [{name: a, model: m, engine_args: SECRET}]",
        "agents: [SECRET]",
        "agents: [{name: a, model: m, engine: openai, engine_args: {api_key_env: sk-SECRET}}]",
        "agents: [{name: a, model: m, engine: openai, engine_args: {base_url: 'http://h/v1?key=SECRET'}}]",
        "agents: [{name: a, model: m, engine: openai, engine_args: {base_url: 'http://SECRET@h/v1'}}]",
    ],
)
def test_a_key_in_the_file_is_not_shown(tmp_path, text):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert "SECRET" not in str(caught.value) and "\n" not in str(caught.value)


def test_an_edited_function_or_tokenizer_is_another_agent(tmp_path):
    source = tmp_path / "agent.py"
    source.write_text("def answer(messages, **_): return 'a'\n")
    plain = Agent("a", f"{source}:answer", engine="callable")
    parallel = Agent("a", f"{source}:answer", engine="ray", engine_args={"engine": "callable"})
    before = plain.identity()
    assert before == plain.identity() and before["files"] == parallel.identity()["files"] != ""
    source.write_text("def answer(messages, **_): return 'b'\n")
    assert plain.identity()["files"] == parallel.identity()["files"] != before["files"]
    (tmp_path / "tokenizer.json").write_text("{}")
    remote = Agent("a", "org/model", engine_args={"tokenizer": str(tmp_path), "dtype": "auto"})
    assert remote.identity()["files"] not in ("", before["files"])
    assert Agent("a", "org/model", engine_args={"dtype": "auto"}).identity()["files"] == ""


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="none.yaml: No such file"):
        load_team(tmp_path / "none.yaml")
