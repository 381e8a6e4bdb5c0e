from __future__ import annotations

import json
import threading

import pytest

from openrlhf_mlpo.engines import TOO_LONG, Completion, Sampling, make_engine, request_seed, seed_of
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.team import Agent
from tests.fault_server import FaultServer


def ask(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def texts(results):
    return [[completion.text for completion in completions] for completions in results]


def test_seeds_depend_on_seed_and_key_alone():
    assert request_seed(0, "a", "q") == request_seed(0, "a", "q") < 2**31
    assert len({request_seed(s, a, q) for s in (0, 1) for a in ("a", "b") for q in ("q", "r")}) == 8
    assert seed_of(3, 0, ask("x")) == seed_of(3, 9, ask("x")) != seed_of(3, 0, ask("y"))
    assert seed_of([5, 6], 1, ask("x")) == 6 and seed_of(None, 0, "x") is None


def test_unknown_engine():
    with pytest.raises(UserError, match="the engines are vllm"):
        make_engine("m", engine="magic")


# callable


def echo(messages, *, seed, sampling):
    content = messages if isinstance(messages, str) else messages[-1]["content"]
    return Completion(f"{content} {seed} {sampling.temperature}", 1, 2, "length")


@pytest.mark.parametrize("threads", [1, 4])
def test_callable_agent(threads):
    agent = Agent("a", f"{__name__}:echo", engine="callable", engine_args={"threads": threads})
    seen = []
    with make_engine(agent) as engine:
        results = engine.generate(
            [ask("x"), "y"], n=2, seed=[10, 20], sampling=Sampling(temperature=0.5), on_done=lambda i, c: seen.append(i)
        )
        assert engine.generate([]) == []
    assert texts(results) == [["x 10 0.5", "x 11 0.5"], ["y 20 0.5", "y 21 0.5"]] and seen == [0, 1]


def test_callable_from_a_file(tmp_path):
    (tmp_path / "agent.py").write_text("def answer(messages, *, seed, sampling):\n    return 'hello'\n")
    with make_engine(f"{tmp_path}/agent.py:answer", engine="callable") as engine:
        assert engine.generate(["x"], seed=None) == [[Completion("hello")]]


@pytest.mark.parametrize(
    "model, message",
    [
        ("nothing", "write package.module:function"),
        ("no_such_module:f", "cannot import no_such_module"),
        ("nowhere.py:f", "no such file"),
        (f"{__name__}:nothing", "has no function nothing"),
    ],
)
def test_callable_mistakes(model, message):
    with pytest.raises(UserError, match=message):
        make_engine(model, engine="callable")


# openai


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def client(url, model="m", **settings):
    return make_engine(model, engine="openai", engine_args={"base_url": url, "timeout": 1.0, **settings})


def test_openai_answers_chat_and_rendered_prompts_with_seeds_and_settings():
    server = FaultServer()
    with server as url, client(url, extra_body={"chat_template_kwargs": {"enable_thinking": False}}) as engine:
        sampling = Sampling(temperature=0.7, top_p=0.9, top_k=5, max_tokens=17, stop=("END",))
        first = engine.generate([ask("x"), "rendered"], n=3, seed=4, sampling=sampling)
        again = engine.generate([ask("x"), "rendered"], n=3, seed=4, sampling=sampling)
        other = engine.generate([ask("x"), "rendered"], n=3, seed=5, sampling=sampling)
    assert first == again and first != other and len({text for row in texts(first) for text in row}) == 6
    body = next(body for body in server.requests if "messages" in body)
    assert {k: body[k] for k in ("temperature", "top_p", "top_k", "max_tokens", "stop")} == {
        "temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_tokens": 17, "stop": ["END"],
    }  # fmt: skip
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert next(body for body in server.requests if "prompt" in body)["add_special_tokens"] is False
    assert first[0][0].completion_tokens == 9 and first[0][0].finish_reason == "stop"


def test_openai_seed_can_be_kept_back():
    server = FaultServer()
    with server as url, client(url, send_seed=False) as engine:
        engine.generate([ask("x")])
    assert "seed" not in server.requests[0]


def test_openai_bounds_requests_in_flight():
    server = FaultServer(delay=0.02)
    with server as url, client(url, concurrency=5) as engine:
        engine.generate([ask(str(i)) for i in range(30)])
    assert server.most_running == 5


@pytest.mark.slow
def test_openai_gets_everything_right_through_faults():
    server = FaultServer(limit=0.1, error=0.1, hang=0.02, cut=0.1)
    prompts = [ask(str(i)) for i in range(60)]
    with server as url, client(url, concurrency=32) as engine:
        results = engine.generate(prompts, n=2, seed=1)
    with FaultServer() as url, client(url) as engine:
        assert results == engine.generate(prompts, n=2, seed=1)
    assert all(server.counts.values()), server.counts


def test_openai_stopping_early_ends_the_requests():
    with FaultServer(delay=0.01) as url, client(url, concurrency=4) as engine:
        stream = engine.stream([ask(str(i)) for i in range(10_000)])
        next(stream)
        before = threading.active_count()
        stream.close()
        assert threading.active_count() < before


def test_openai_prompt_beyond_the_context_is_no_end():
    with FaultServer(context=100) as url, client(url) as engine:
        results = engine.generate([ask("x"), ask("x" * 200)])
    assert [row[0].finish_reason for row in results] == ["stop", TOO_LONG] and results[1][0].text == ""


def test_openai_wrong_key_is_not_shown(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with FaultServer(key="sk-right") as url:
        with pytest.raises(
            UserError, match=r"refuses the API key \(401\); check the environment variable MY_KEY"
        ) as caught:
            client(url, api_key_env="MY_KEY")
    assert "secret" not in str(caught.value)


def test_openai_right_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    with FaultServer(key="sk-right") as url, client(url) as engine:
        assert len(engine.generate([ask("x")])) == 1


def test_openai_unknown_model():
    with FaultServer(model="served") as url, client(url, model="m") as engine:
        with pytest.raises(UserError, match="no model 'm' .404.; it serves served"):
            engine.generate([ask("x")])


@pytest.mark.parametrize("reply", [{}, {"choices": []}, [], "hello", {"choices": [{"message": None}]}])
def test_openai_reply_in_another_form(reply):
    server = FaultServer()
    server.content = lambda body, prompt: reply
    with server as url, client(url) as engine:
        with pytest.raises(UserError, match="reply is not in OpenAI's form"):
            engine.generate([ask("x")])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"base_url": "http://user:pw@127.0.0.1:9/v1"}, "base_url must hold no user or password"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "no connection to http://127.0.0.1:9/v1 .*is the server up"),
        ({"base_url": ""}, "set the environment variable OPENAI_API_KEY"),
        ({"base_url": "http://127.0.0.1:9/v1", "concurrency": 0}, "concurrency must be"),
        ({"base_url": "http://127.0.0.1:9/v1", "speed": 1}, "has no 'speed'; it has base_url"),
    ],
)
def test_openai_mistakes(settings, message):
    with pytest.raises(UserError, match=message):
        make_engine("m", engine="openai", engine_args=settings)


@pytest.mark.parametrize(
    "fault, message",
    [("limit", "still limits the rate"), ("error", "answered 500: .*oops"), ("hang", "did not answer within 0.2 s")],
)
def test_openai_gives_up_after_its_retries(fault, message):
    with FaultServer(**{fault: 1.0}, hang_s=0.5) as url, client(url, timeout=0.2, max_retries=1) as engine:
        with pytest.raises(UserError, match=message):
            engine.generate([ask("x")])


# vllm and ray, the real ones


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from tests.tiny import make_tiny_model

    folder = tmp_path_factory.mktemp("models")
    return [str(make_tiny_model(folder / f"m{seed}", seed=seed)) for seed in (0, 1)]


def vllm(model, **settings):
    return make_engine(model, engine_args={"max_model_len": 64, "max_num_seqs": 32, **settings})


@pytest.mark.stack
def test_vllm_two_models_one_after_the_other_batching_does_not_matter(models):
    prompts = [ask(f"not True and {i % 4} is") for i in range(8)]
    sampling = Sampling(max_tokens=8)
    with vllm(models[0]) as engine:
        whole = engine.generate(prompts, n=2, seed=3, sampling=sampling)
        single = [engine.generate([prompt], n=2, seed=3, sampling=sampling)[0] for prompt in prompts[:3]]
        other = engine.generate(prompts, n=2, seed=4, sampling=sampling)
        rendered = engine.tokenizer.apply_chat_template(prompts[0], tokenize=False, add_generation_prompt=True)
        assert engine.generate([rendered], seed=[1], sampling=sampling) == engine.generate(
            prompts[:1], seed=[1], sampling=sampling
        )
        # a prompt of more tokens than the model takes, and one that leaves room for a single token
        long = engine.generate([ask("not " * 80), ask("not " * 57)], sampling=Sampling(max_tokens=8))
        assert [long[0][0].finish_reason, long[0][0].text] == [TOO_LONG, ""] and long[1][0].completion_tokens <= 2
        stream = engine.stream(prompts * 20, sampling=sampling)
        next(stream)
        stream.close()  # what is under way is dropped and the engine stays usable
        assert texts(engine.generate(prompts, n=2, seed=3, sampling=sampling)) == texts(whole)
    assert texts(whole)[:3] == texts(single) != texts(other)[:3]
    assert texts(whole)[0] == texts(whole)[4]  # equal prompts, equal seeds
    with vllm(models[1]) as engine:
        assert texts(engine.generate(prompts, n=2, seed=3, sampling=sampling)) != texts(whole)
    with vllm(models[0]) as engine:
        assert texts(engine.generate(prompts, n=2, seed=3, sampling=sampling)) == texts(whole)


@pytest.mark.parametrize(
    "model, message", [("./nowhere", "no such directory"), ("/nowhere/at/all", "no such directory")]
)
def test_vllm_missing_model(model, message):
    with pytest.raises(UserError, match=message):
        make_engine(model)


@pytest.mark.stack
def test_vllm_what_it_refuses_is_one_line(models, tmp_path):
    (tmp_path / "empty").mkdir()
    for model, settings, message in (
        (str(tmp_path / "empty"), {}, "has no config.json"),
        ("nobody/no-such-model", {}, "vLLM could not start it"),
        (models[0], {"no_such_setting": 1}, "vLLM could not start it: .*no_such_setting"),
        (models[0], {"max_model_len": 10**6}, "vLLM could not start it: .*max_model_len"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            make_engine(model, engine_args=settings)
        assert "\n" not in str(caught.value)


@pytest.mark.stack
def test_ray_actors_answer_like_one_engine(tmp_path):
    (tmp_path / "agent.py").write_text(
        "def answer(messages, *, seed, sampling):\n"
        "    from openrlhf_mlpo.errors import UserError\n"
        "    if messages == 'bad':\n        raise UserError('bad prompt')\n"
        "    return f'{messages} {seed} {sampling.max_tokens}'\n"
    )
    model = f"{tmp_path}/agent.py:answer"
    prompts = [ask(str(i)) for i in range(40)]
    with make_engine(model, engine="callable") as engine:
        expected = engine.generate(prompts, n=2, seed=7)
    settings = {"engine": "callable", "actors": 2, "batch_size": 5}
    with make_engine(model, engine="ray", engine_args=settings) as engine:
        assert texts(engine.generate(prompts, n=2, seed=7)) == texts(expected)
        assert texts(engine.generate(["x"], seed=None)) == [["x None 1024"]]
        with pytest.raises(UserError, match="bad prompt"):
            engine.generate(["bad"])
        with pytest.raises(UserError, match="need 1000 CPUs, the Ray cluster has"):
            make_engine(model, engine="ray", engine_args={**settings, "actors": 1000})
    with make_engine("./nowhere", engine="ray", engine_args={"actors": 1}) as engine:
        with pytest.raises(UserError, match="no such directory"):
            engine.generate(prompts)


@pytest.mark.stack
def test_ray_around_vllm(models):
    prompts, sampling = [ask(f"not True and {i % 4} is") for i in range(8)], Sampling(max_tokens=8)
    with vllm(models[0]) as engine:
        expected = engine.generate(prompts, n=2, seed=3, sampling=sampling)
    with make_engine(
        models[0], engine="ray", engine_args={"max_model_len": 64, "max_num_seqs": 32, "batch_size": 4}
    ) as engine:
        assert json.dumps(texts(engine.generate(prompts, n=2, seed=3, sampling=sampling))) == json.dumps(
            texts(expected)
        )
