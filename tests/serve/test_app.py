"""The endpoint: what OpenAI's client gets, the same answers as evaluation, limits, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.play.recorder import Judge
from openrlhf_mlpo.cli import serve
from openrlhf_mlpo.engines import make_engine
from openrlhf_mlpo.engines.answers import Answers
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.questions import question_id
from openrlhf_mlpo.rounds import agent_player, leader_team
from openrlhf_mlpo.serve.app import Limits, make_app
from openrlhf_mlpo.team import Agent
from openrlhf_mlpo.verify import extract_answer
from tests import fake_players as fake
from tests.conftest import ROOT
from tests.fault_server import FaultServer
from tests.serving import in_thread

KEY = "sk-served-secret"
FAKE = ROOT / "tests" / "fake_players.py"
FAULTY = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from tests.fake_players import ann

def dead(messages, *, seed, sampling):
    raise RuntimeError("no such host")

def hung(messages, *, seed, sampling):
    time.sleep(3)
    return ann(messages, seed=seed, sampling=sampling)
"""


@contextmanager
def served(folder: Path, agents: dict[str, str], *flags: str, **limits):
    """The address of a server with `tests/fake_players.py:boss` as leader, in this process.

    `agents`: a function's place by name, or the address of an endpoint, which has the model "m".
    """
    entries = [{"name": name, "engine": "callable", "model": model} for name, model in agents.items()]
    for entry in entries:
        if entry["model"].startswith("http"):
            engine_args = {"base_url": entry["model"], "max_retries": 1, "timeout": 5.0}
            entry.update(engine="openai", model="m", engine_args=engine_args)
    (folder / "team.yaml").write_text(yaml.safe_dump({"agents": entries}))
    args = serve.parse_args(
        ["--leader", f"callable:{FAKE}:boss", "--team", str(folder / "team.yaml"), "--rounds", "3", "--template",
         "compact", *flags]
    )  # fmt: skip
    table = serve.open_table(args)
    app = make_app(table, task=args.task, limits=Limits(**limits), key=KEY)
    try:
        with in_thread(app) as url:
            yield url
    finally:
        for seat in (table.leader, *table.team):
            seat.batcher.close()


TEAM = {name: f"{FAKE}:{name}" for name in ("ann", "bob", "cat")}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with served(tmp_path_factory.mktemp("served"), TEAM, in_flight=128) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def connection(url):
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    with httpx.Client(base_url=url, headers=headers, timeout=20) as connection:
        yield connection


def ask(content: str) -> list[dict]:
    return [{"role": "user", "content": content}]


def metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def played(texts: list[str]) -> list[list]:
    """The same questions through the rounds of evaluation."""
    players = {}
    for name in ("ann", "bob", "cat", "boss"):
        agent = Agent(name="leader" if name == "boss" else name, model=f"{FAKE}:{name}", engine="callable")
        sampling = serve.Sampling(temperature=0.0 if name == "boss" else 1.0, max_tokens=1024)
        generate = Answers(None).of_engine(agent.name, {}, make_engine(agent), sampling)
        players[name] = agent_player(agent, generate, sampling)
    leader = players.pop("boss")
    questions = [fake.Question(question_id("exact", text), "exact", text, "") for text in texts]
    team = list(players.values())
    return leader_team(team, [leader], questions, load_template("compact"), rounds=3, settled=Judge().settled)["leader"]


def test_answers_are_those_of_the_rounds_in_evaluation(client):
    texts = [question.text for question in fake.questions(24)]
    for text, episode in zip(texts, played(texts), strict=True):
        got = client.chat.completions.create(
            model="leader-team", messages=ask(text), extra_body={"mlpo": {"transcript": True}}
        )
        assert got.choices[0].message.content == episode[-1].output.text and got.choices[0].finish_reason == "stop"
        turns = [turn for each in episode for turn in (*each.responses, each.output)]
        assert [(t["player"], t["text"]) for t in got.mlpo["transcript"]] == [(t.player, t.text) for t in turns]
        assert got.mlpo["rounds"] == len(episode) and got.mlpo["failed_agents"] == {}
        assert got.usage.completion_tokens == sum(turn.completion_tokens for turn in turns)
        assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens


def test_the_other_models_are_the_leader_alone_and_the_vote(client):
    assert [model.id for model in client.models.list()] == ["leader-team", "leader", "vote"]
    alone = client.chat.completions.create(model="leader", messages=ask("What is 2 + 2?"))
    assert alone.choices[0].message.content.startswith("<think> 2 plus 2") and alone.mlpo["rounds"] == 0
    got = client.chat.completions.create(
        model="vote", messages=ask("What is 3 + 4?"), extra_body={"mlpo": {"transcript": True}}
    )
    texts = [turn["text"] for turn in got.mlpo["transcript"]]
    answers = [extract_answer(text) for text in texts]
    assert extract_answer(got.choices[0].message.content) == max(answers, key=answers.count) and len(texts) == 3


def test_streams_show_each_round_then_the_answer(client):
    text = fake.questions(5)[4].text
    whole = client.chat.completions.create(model="leader-team", messages=ask(text))
    chunks = list(
        client.chat.completions.create(
            model="leader-team", messages=ask(text), stream=True, stream_options={"include_usage": True}
        )
    )
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert content == whole.choices[0].message.content
    rounds = [chunk.mlpo["round"] for chunk in chunks if "round" in (chunk.model_extra or {}).get("mlpo", {})]
    assert rounds == list(range(whole.mlpo["rounds"]))
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens and chunks[-2].choices[0].finish_reason == "stop"


def test_a_seed_is_that_of_the_whole_question(client):
    def transcript(seed):
        got = client.chat.completions.create(
            model="leader-team", messages=ask("What is 7 + 8?"), seed=seed, extra_body={"mlpo": {"transcript": True}}
        )
        return [turn["text"] for turn in got.mlpo["transcript"]]

    assert transcript(1) == transcript(1) and len({tuple(transcript(seed)) for seed in range(5)}) > 1


def test_many_clients_at_once_and_nothing_is_mixed_up(url):
    texts = [question.text for question in fake.questions(60)]

    async def every() -> list:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(
                *(client.chat.completions.create(model="leader-team", messages=ask(text)) for text in texts)
            )

    answers = asyncio.run(every())
    assert [a.choices[0].message.content for a in answers] == [e[-1].output.text for e in played(texts)]
    assert metric(url, "mlpo_requests_in_flight") == 0


def ask_many(url: str, requests: int) -> None:
    """Ask for so many answers, 32 at a time."""

    async def every() -> None:
        at_once = asyncio.Semaphore(32)
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:

            async def one(i: int) -> None:
                async with at_once:
                    await client.chat.completions.create(model="leader-team", messages=ask(f"What is {i % 64} + 2?"))

            await asyncio.gather(*(one(i) for i in range(requests)))

    asyncio.run(every())


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    """All that a request leaves behind is a few counters; the clients are a process of their own."""
    with served(tmp_path, TEAM) as url, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as clients:
        clients.submit(ask_many, url, 1000).result()
        before = psutil.Process().memory_info().rss
        clients.submit(ask_many, url, 3000).result()
        assert psutil.Process().memory_info().rss - before < 3 << 20  # bytes: 1 KiB a request


def test_a_conversation_reaches_agents_and_leader_with_its_roles(client):
    messages = [
        {"role": "system", "content": "Answer in digits."},
        *ask("What is 1 + 1?"),
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": [{"type": "text", "text": "What is 5 + 6?"}]},
    ]
    got = client.chat.completions.create(model="leader", messages=messages)
    assert "1 plus 1" in got.choices[0].message.content  # the first sum in the text, so all of it was sent


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"n": 2}, "n is not supported"),
        ({"logprobs": True}, "logprobs is not supported"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "text only"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "last message must be the user's"),
        ({"messages": [{"role": "user", "content": " "}]}, "empty"),
        ({"messages": []}, "messages"),
        ({"model": "gpt-9"}, "is not served"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 10_000}, "at most 1024 tokens"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(url, more, words):
    body = {"model": "leader", "messages": ask("What is 2 + 2?"), **more}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
    assert reply.status_code == 400 and words in reply.json()["error"]["message"]
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_taken(client):
    got = client.chat.completions.create(
        model="leader", messages=ask("What is 2 + 2?"), n=1, logprobs=False, user="me", presence_penalty=0, seed=7,
        temperature=0.5, top_p=0.9, max_completion_tokens=99, stop="!",
    )  # fmt: skip
    assert got.choices[0].message.content


def test_a_key_is_needed(url):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer ké".encode()}):
        for path in ("/v1/models", "/metrics"):
            assert httpx.get(f"{url}{path}", headers=headers).status_code == 401
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}


def test_limits_have_their_statuses(tmp_path):
    (tmp_path / "slow.py").write_text(FAULTY)
    agents = {"slow": f"{tmp_path}/slow.py:hung"}
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "leader-team", "messages": ask("What is 2 + 2?")}
    with served(tmp_path, agents, body_bytes=1000, in_flight=1) as url:

        def post(**what) -> httpx.Response:
            return httpx.post(f"{url}/v1/chat/completions", headers=headers, timeout=60, **what)

        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(post, json={**body, "model": "vote"})
            while not metric(url, "mlpo_requests_in_flight"):
                time.sleep(0.01)
            refused = post(json=body)
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert first.result().status_code == 200
        assert post(json={**body, "messages": ask("x" * 2000)}).status_code == 413
        assert post(content=iter([b"x" * 600] * 3)).status_code == 413
        assert httpx.get(f"{url}/health").status_code == 200
    with served(tmp_path, agents, seconds=0.4) as url:
        late = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert late.status_code == 504 and "within 0.4 s" in late.json()["error"]["message"]


def test_an_agent_that_fails_is_left_out_and_named(tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    agents = {"ann": TEAM["ann"], "dead": f"{tmp_path}/faulty.py:dead", "hung": f"{tmp_path}/faulty.py:hung"}
    with served(tmp_path, agents, "--agent_seconds", "0.3") as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        got = client.chat.completions.create(model="leader-team", messages=ask("What is 2 + 2?"))
        assert "no such host" in got.mlpo["failed_agents"]["dead"]
        assert got.mlpo["failed_agents"]["hung"] == "no response within 0.3 s"
        assert got.choices[0].message.content and metric(url, "mlpo_agent_failures_total") == 2


def test_an_endpoint_that_is_slow_or_killed_is_left_out_until_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-agents")
    slow = FaultServer()
    with slow as slow_url, ExitStack() as alive:
        agents = {"ann": TEAM["ann"], "slow": slow_url, "killed": alive.enter_context(FaultServer())}
        with served(tmp_path, agents, "--agent_seconds", "4") as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)

            def failed(text: str) -> dict[str, str]:
                got = client.chat.completions.create(model="leader-team", messages=ask(text))
                assert got.choices[0].message.content
                return got.mlpo["failed_agents"]

            slow.delay = 0.2
            assert failed("What is 2 + 2?") == {}
            slow.delay = 6
            assert failed("What is 2 + 3?") == {"slow": "no response within 4 s"}
            slow.delay = 0.0
            alive.close()
            reasons = failed("What is 2 + 4?")
            assert list(reasons) == ["killed"] and "sk-of-the-agents" not in str(reasons)
            assert metric(url, "mlpo_agent_failures_total") == 2
            assert failed("What is 2 + 5?").keys() == {"killed"}  # the server lives, and so does the rest of the team


def test_when_all_agents_fail_it_is_a_503_and_the_leader_still_answers(tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    with served(tmp_path, {"dead": f"{tmp_path}/faulty.py:dead"}) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        with pytest.raises(openai.InternalServerError, match="all agents failed: dead: .*no such host") as caught:
            client.chat.completions.create(model="leader-team", messages=ask("What is 2 + 2?"))
        assert caught.value.status_code == 503
        with pytest.raises(openai.APIError, match="all agents failed"):
            list(client.chat.completions.create(model="vote", messages=ask("What is 2 + 2?"), stream=True))
        assert client.chat.completions.create(model="leader", messages=ask("What is 2 + 2?")).choices


def test_a_client_that_hangs_up_frees_its_place(tmp_path):
    (tmp_path / "slow.py").write_text(FAULTY)
    with served(tmp_path, {"slow": f"{tmp_path}/slow.py:hung"}, in_flight=1) as url:
        body = {"model": "leader-team", "messages": ask("What is 2 + 2?")}
        headers = {"authorization": f"Bearer {KEY}"}
        for stream in (False, True):
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{url}/v1/chat/completions", json={**body, "stream": stream}, headers=headers, timeout=0.3)
            deadline = time.time() + 20
            while metric(url, "mlpo_requests_in_flight") and time.time() < deadline:
                time.sleep(0.02)
            assert metric(url, "mlpo_requests_in_flight") == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("model", "messages", "stream", "temperature", "max_tokens", "stop", "n", "mlpo", "stream_options", "seed")
BODIES = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | st.dictionaries(
    st.sampled_from(FIELDS), JSON, max_size=5
).map(lambda fields: json.dumps({"messages": ask("What is 2 + 2?"), **fields}).encode())  # fmt: skip


@settings(max_examples=int(os.environ.get("HOSTILE_BODIES", "150")), deadline=None)
@given(body=BODIES)
def test_hostile_bodies_get_an_answer_or_a_4xx(connection, body):
    reply = connection.post("/v1/chat/completions", content=body)
    assert reply.status_code == 200 or 400 <= reply.status_code < 500, (reply.status_code, reply.text[:300], body)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], "--api_key_env"),
        (["--api_key_env", "NO_SUCH_KEY"], "NO_SUCH_KEY: the variable is not set"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--leader", "callable:nowhere.py:boss"], "nowhere.py"),
        (["--team", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_mistakes_are_found_before_anything_is_opened(tmp_path, flags, words):
    agent = {"name": "ann", "engine": "callable", "model": TEAM["ann"]}
    (tmp_path / "team.yaml").write_text(yaml.safe_dump({"agents": [agent]}))
    usual = ["--leader", f"callable:{FAKE}:boss", "--team", str(tmp_path / "team.yaml")]
    with pytest.raises(serve.UserError, match=words):
        serve.main([*usual, *flags])
