from __future__ import annotations

import json
import re
import threading

import pytest

from openrlhf_mlpo.engines import Completion, Outcomes, Sampling, make_engine, request_seed
from openrlhf_mlpo.engines.base import TOO_LONG, seed_of
from openrlhf_mlpo.engines.openai_body import room
from openrlhf_mlpo.engines.openai_reply import BadReply, completion_of
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.team import Agent
from tests.fault_server import ODD, FaultServer


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
    assert texts(results) == [["x 10 0.5", "x 11 0.5"], ["y 20 0.5", "y 21 0.5"]] and sorted(seen) == [0, 1]


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


def agent_file(tmp_path, body, name="agent.py") -> str:
    (tmp_path / name).write_text(body)
    return f"{tmp_path / name}:answer"


@pytest.mark.parametrize("threads", [1, 8])
def test_an_async_function_is_awaited_in_one_loop(tmp_path, threads):
    model = agent_file(
        tmp_path,
        "import asyncio\n"
        "loops, running = set(), [0, 0]\n"
        "async def answer(messages, *, seed, sampling):\n"
        "    loops.add(id(asyncio.get_running_loop()))\n"
        "    running[0] += 1; running[1] = max(running)\n"
        "    await asyncio.sleep(0.02)\n"
        "    running[0] -= 1\n"
        "    return f'{messages} {len(loops)} {running[1]}'\n",
    )
    with make_engine(model, engine="callable", engine_args={"threads": threads}) as engine:
        results = engine.generate([str(i) for i in range(16)])
    assert [text.split()[:2] for (text,) in texts(results)] == [[str(i), "1"] for i in range(16)]
    assert max(int(text.split()[2]) for (text,) in texts(results)) == threads


@pytest.mark.parametrize(
    "value, kind",
    [
        ("None", "NoneType"),
        ("{'text': 'a'}", "dict"),
        ("('a', 1)", "tuple"),
        ("(c for c in 'abc')", "generator"),
        ("['a']", "list"),
        ("b'a'", "bytes"),
        ("42", "int"),
        ("Completion(None)", "a Completion without text"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path, value, kind):
    model = agent_file(
        tmp_path,
        f"from openrlhf_mlpo.engines import Completion\ndef answer(messages, *, seed, sampling):\n    return {value}\n",
    )
    with make_engine(model, engine="callable") as engine:
        with pytest.raises(UserError, match=f"agent.py:answer' returned {kind}; it must return a text"):
            engine.generate(["x"])


@pytest.mark.parametrize("threads", [1, 4])
def test_a_function_that_raises_is_one_line_and_the_answers_beside_it_are_kept(tmp_path, threads):
    model = agent_file(
        tmp_path,
        "import json\n\ndef answer(messages, *, seed, sampling):\n"
        "    return json.loads('[') if messages == '5' else messages\n",
    )
    answered = []
    with make_engine(model, engine="callable", engine_args={"threads": threads}) as engine:
        with pytest.raises(UserError, match=r"raised JSONDecodeError: .* \(agent.py, line 4\)$"):
            engine.generate([str(i) for i in range(6)], on_done=lambda index, _: answered.append(index))
    assert sorted(answered) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "body, message",
    [
        ("def other(): pass", "has no function answer"),
        ("def answer(messages): return ''", r"define it as `def answer\(messages, \*, seed, sampling\)`"),
        ("def answer(:", "not valid Python"),
        ("import nothing_of_this_name\ndef answer(messages, **_): return ''", "cannot import .*nothing_of_this_name"),
        ("def answer(messages, **_): return ''\nprint(1 / 0)", r"import .*: ZeroDivisionError: .*\(agent.py, line 2\)"),
        ("def answer(messages, **_): return ''\nraise SystemExit", r"import .*: SystemExit: .*\(agent.py, line 2\)"),
    ],
)
def test_mistakes_in_a_function_s_file(tmp_path, body, message):
    with pytest.raises(UserError, match=message):
        make_engine(agent_file(tmp_path, body), engine="callable")


@pytest.mark.parametrize("threads", [1, 3])
def test_a_function_that_exits_does_not_end_the_run_without_a_word(tmp_path, threads):
    model = agent_file(tmp_path, "import sys\ndef answer(messages, **_):\n    sys.exit('no licence')\n")
    with make_engine(model, engine="callable", engine_args={"threads": threads}) as engine:
        with pytest.raises(UserError, match=r"raised SystemExit: no licence \(agent.py, line 3\)$"):
            engine.generate(["x"])


def test_two_files_of_one_name_are_two_functions(tmp_path):
    models = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        models.append(agent_file(tmp_path / folder, f"def answer(messages, **_):\n    return {folder!r}\n"))
    engines = [make_engine(model, engine="callable") for model in models]
    assert [texts(engine.generate(["x"])) for engine in engines] == [[["a"]], [["b"]]]
    assert engines[0].function.__module__ != engines[1].function.__module__


# outcomes


def test_outcomes_count_what_is_empty_and_why():
    def stream(*reasons):
        for index, reason in enumerate(reasons):
            yield index, [Completion("" if reason else "text", finish_reason=reason or "stop")]

    outcomes = Outcomes("agent a")
    watched = outcomes.watch(stream("too_long", "", "refused: 400 no", "", "refused: 400 never", ""))
    assert [index for index, _ in watched] == [1, 3, 5, 0, 2, 4]
    assert outcomes.summary() == "3 of 6 responses are empty: 2 refused (400 no), 1 too_long"
    with pytest.raises(UserError, match="2 of 3 responses are empty: 2 length; raise sampling.max_tokens"):
        list(Outcomes("a").watch(stream("length", "length", "")))
    # what an earlier run has stored counts
    assert len(list(Outcomes("a", answered=2).watch(stream("length", "length")))) == 2
    asked = []
    endless = ((index, [Completion("", finish_reason="length")]) for index in range(1000) if not asked.append(index))
    with pytest.raises(UserError, match="64 of 64 responses are empty"):
        list(Outcomes("a").watch(endless))
    assert len(asked) == 64


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
    server = FaultServer(delay=0.2)  # long enough to be seen on a busy machine
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


@pytest.mark.parametrize(
    "key, stored", [("sk-very-secret", "I was sent Bearer ***"), ("sent", "I was sent Bearer sent")]
)
def test_openai_key_is_not_stored_with_a_reply_that_quotes_it(monkeypatch, key, stored):
    monkeypatch.setenv("MY_KEY", key)
    with FaultServer(model="quote-key") as url, client(url, "quote-key", api_key_env="MY_KEY") as engine:
        assert texts(engine.generate([ask("x")])) == [[stored]]


def test_openai_right_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    with FaultServer(key="sk-right") as url, client(url) as engine:
        assert len(engine.generate([ask("x")])) == 1


def test_openai_unknown_model():
    with FaultServer(model="served") as url, client(url, model="m") as engine:
        with pytest.raises(UserError, match="no model 'm' .404.; it serves served"):
            engine.generate([ask("x")])


def test_openai_wrong_address():
    with FaultServer() as url, client(url.removesuffix("/v1")) as engine:
        with pytest.raises(UserError, match="nothing answers at /chat/completions .*base_url must be the part before"):
            engine.generate([ask("x")])


@pytest.mark.parametrize("reply", [{}, {"choices": []}, [], "hello", {"choices": [{"message": None}]}])
def test_openai_reply_in_another_form(reply):
    server = FaultServer()
    server.content = lambda body, prompt: reply
    with server as url, client(url, max_retries=1) as engine:
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
    "url, message",
    [
        ("localhost:8000/v1", "must begin with http:// or https://, .*not 'localhost:8000/v1'"),
        ("127.0.0.1:8000", "must begin with http"),
        ("ftp://host/v1", "must begin with http"),
        ("http:///v1", "must begin with http"),
        ("http://host:port/v1", "is no address"),
        ("http://host/v1?key=sk-secret", "must end before .? or #"),
        ("http://host/v1/chat/completions", "must end before /chat/completions, which is added: http://host/v1$"),
        ("http://host/v1/completions/", "must end before /completions"),
        ("sk-secret@host/v1", "must hold no user or password"),
        ("http://user:sk/secret@host/v1", "must hold no user or password"),
    ],
)
def test_openai_addresses_of_another_form(url, message, monkeypatch):
    with pytest.raises(UserError, match=message) as caught:
        client(url)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(UserError, match="^OPENAI_BASE_URL .*" + message):
        make_engine("m", engine="openai")


def test_openai_keys_are_cleaned_and_never_shown(monkeypatch):
    with FaultServer(key="sk-right") as url:
        for key in ("sk-right\r", "sk-right\r\n", "  sk-right "):
            monkeypatch.setenv("MY_KEY", key)
            with client(url, api_key_env="MY_KEY") as engine:
                assert len(engine.generate([ask("x")])) == 1
        for key in ("sk-secret\nsk-secret", "sk secret", "sk-secret\u00e9"):
            monkeypatch.setenv("MY_KEY", key)
            with pytest.raises(UserError, match="variable MY_KEY holds a blank, a line break or another") as caught:
                client(url, api_key_env="MY_KEY")
            assert "secret" not in str(caught.value)
        for name in ("sk-secret", "gsk_secret"):
            with pytest.raises(UserError, match="api_key_env must be the name of an environment variable") as caught:
                client(url, api_key_env=name)
            assert "secret" not in str(caught.value)
        with pytest.raises(UserError, match="keys do not belong .* remove api_key") as caught:
            client(url, extra_body={"provider": {"api_key": "sk-secret"}})
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "model, reason",
    [
        ("filter-azure", "content_filter"),
        ("filter-gateway", "content_filter"),
        ("filter-risk", "content_filter"),
        ("filter-silent", "content_filter"),
        ("firewall", "refused: 403 .*Forbidden"),
        ("long-llamacpp", TOO_LONG),
        ("long-llamacpp-500", TOO_LONG),
        ("long-gemini", TOO_LONG),
        ("long-413", TOO_LONG),
        ("strange", "refused: 422 the gizmo dislikes this one"),
        ("crash", "refused: 500 internal error"),
        ("no-choices", "refused: 502 .*choices"),
        ("error-inside", "refused: 400 Provider returned error"),
        ("hang", "refused: no answer within 0.3 s"),
        ("hang-up", "refused: the connection broke"),
    ],
)
def test_openai_a_refused_row_is_that_row_s(model, reason):
    prompts = [ask(ODD), *(ask(str(i)) for i in range(5)), ask(f"{ODD} too")]
    with FaultServer(hang_s=0.5) as url, client(url, model, max_retries=1, concurrency=3, timeout=0.3) as engine:
        results = engine.generate(prompts, n=2)
    assert all(text for row in texts(results[1:-1]) for text in row)
    for completion in (*results[0], *results[-1]):
        assert completion.text == "" and re.match(reason, completion.finish_reason), completion


@pytest.mark.parametrize(
    "model, message",
    [
        ("stop-too-long", "answered 400: .*string too long.*; change sampling.stop$"),
        ("no-such-parameter", "answered 400: .*'seed'; leave it out with engine_args.send_seed: false$"),
        ("quota", "has no credit left .*429: You exceeded your current quota"),
        ("unpaid", "has no credit left .*402: Insufficient Balance"),
        ("no-credit-400", "has no credit left .*400: Your credit balance"),
    ],
)
def test_openai_what_concerns_all_rows_ends_the_run(model, message):
    server = FaultServer()
    with server as url, client(url, model) as engine:
        with pytest.raises(UserError, match=message):
            engine.generate([ask(str(i)) for i in range(10)], sampling=Sampling(stop=("a text that is too long",)))
    assert len(server.requests) <= 30


def test_openai_a_refusal_of_all_is_found_after_a_first_answer_too():
    server = FaultServer()
    with server as url, client(url, concurrency=1) as engine:
        stream = engine.stream([ask(str(i)) for i in range(100)])
        assert next(stream)[1][0].text
        server.answer = lambda handler, body: handler.reply(400, {"error": {"message": "Your account is blocked"}})
        with pytest.raises(UserError, match="answered 400: Your account is blocked"):
            list(stream)


@pytest.mark.parametrize(
    "model", ["room-openai", "room-vllm", "room-vllm-new", "room-tgi", "room-claude", "room-listed"]
)
def test_openai_max_tokens_is_cut_to_the_room(model):
    server = FaultServer(model=model)
    prompts = [ask("x"), ask("x" * 1200), ask("x" * 4000)]
    with server as url, client(url, model) as engine:
        results = engine.generate(prompts, sampling=Sampling(max_tokens=480))
    assert [completion.finish_reason for (completion,) in results] == ["stop", "stop", TOO_LONG]
    sent = [
        body.get("max_tokens") for body in server.requests if len(json.dumps(body["messages"])) in range(1200, 1300)
    ]
    # the room exactly where the words count exactly, else left to the server
    assert sent[0] == 480 and sent[-1] in ([None] if model == "room-vllm-new" else range(150, 200)), sent


@pytest.mark.parametrize(
    "words, limit, expected",
    [
        ("maximum context length is 8,192 tokens. However, your request has 8,000 input tokens", 1000, 192),
        ("Requested token count exceeds the model's maximum context length of 100 tokens. You requested a total of 130 "
         "tokens: 80 tokens from the input messages and 50 tokens for the completion.", 50, 20),
        ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 50, None),
        ("max_tokens is too large: 100000. This model supports at most 16384 completion tokens", 100000, 0),
        ("max_tokens=9000 cannot be greater than max_model_len=max_total_tokens=4096", 9000, 0),
        ("Invalid 'stop': string too long", 1000, None),
        ("maximum context length is 100 tokens", 0, None),
    ],
)  # fmt: skip
def test_room(words, limit, expected):
    assert room(words, limit) == expected


def test_openai_learns_what_the_o_series_takes():
    server = FaultServer()
    with server as url, client(url, "o-series", concurrency=1) as engine:
        results = engine.generate([ask(str(i)) for i in range(5)], sampling=Sampling(max_tokens=50))
        assert all(text for (text,) in texts(results)) and len(server.requests) == 8  # three refusals, once
        assert server.requests[-1]["max_completion_tokens"] == 50
        # What was asked for and is no default is not dropped in silence.
        with pytest.raises(UserError, match="'temperature' is not supported .*temperature: null in the team file$"):
            engine.generate([ask("x")], sampling=Sampling(temperature=0.5))
        nothing = Sampling.from_dict({"temperature": None, "top_p": None, "max_tokens": None})
        assert texts(engine.generate([ask("x")], sampling=nothing))[0][0]
    assert not {"temperature", "top_p", "max_tokens", "max_completion_tokens"} & set(server.requests[-1])


@pytest.mark.parametrize(
    "model, pattern, reason",
    [
        ("reasoning-only", "thinking .* </answer>$", "stop"),
        ("reasoning-both", "<think>hm, hm</think>\nthinking .* </answer>$", "stop"),
        ("parts", "<think>hm</think>\nthinking .* </answer>$", "stop"),
        ("refusal", "I will not say thinking", "refusal"),
        ("tools", r"look_up\({}\)", "tool_calls"),
    ],
)
def test_openai_text_in_other_places_is_kept(model, pattern, reason):
    with FaultServer() as url, client(url, model) as engine:
        ((completion,),) = engine.generate([ask("x")])
    assert re.match(pattern, completion.text, re.DOTALL) and completion.finish_reason == reason


@pytest.mark.parametrize(
    "words, expected",
    [
        ('{"error": {"message": "You exceeded your current quota, check your plan", "code": "insufficient_quota"}}',
         True),
        ('{"error": {"message": "Insufficient Balance"}}', True),
        ('{"error": {"code": "billing_hard_limit_reached"}}', True),
        ("Rate limit reached for m on requests per min. Add a payment method at https://host/account/billing", False),
        ("You exceeded your current quota, please check your plan and billing details. Please retry in 34 s.", False),
    ],
)  # fmt: skip
def test_a_used_up_quota_is_no_rate_limit(words, expected):
    from openrlhf_mlpo.engines.openai_errors import no_credit

    assert no_credit(words) == expected


def reply(message=None, **more):
    return {"choices": [{"finish_reason": "stop", **({"message": message} if message is not None else {}), **more}]}


@pytest.mark.parametrize(
    "content, text, reason",
    [
        (reply({"content": "a"}), "a", "stop"),
        (reply(text="a"), "a", "stop"),
        (reply({"content": ""}, finish_reason="MAX_TOKENS"), "", "length"),
        (reply({"content": "a"}, finish_reason=None), "a", "stop"),
        (reply({"content": None, "reasoning": "r"}), "r", "stop"),
        (reply({"content": " ", "reasoning_content": "r"}, finish_reason="length"), "r", "length"),
        (reply({"content": "a", "reasoning_content": "r", "reasoning": "r"}), "<think>r</think>\na", "stop"),
        (reply({"content": "<think>r</think>a", "reasoning": "r"}), "<think>r</think>a", "stop"),
        (reply({"content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "r"}]}),
         "<think>r</think>\na", "stop"),
        (reply({"content": "a", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}), "a", "stop"),
        (reply({"content": ["a", {"type": "text", "text": {"value": "b"}}]}), "ab", "stop"),
        (reply({"content": {"type": "text", "text": "a"}}), "a", "stop"),
        (reply({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}), "[image_url]", "stop"),
        (reply({"content": [{"type": "refusal", "refusal": "no"}]}), "no", "stop"),
        (reply({"content": None, "refusal": "no"}), "no", "refusal"),
        (reply({"content": "a", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}), "a", "stop"),
        (reply({"content": None, "function_call": {"name": "f", "arguments": {"x": 1}}}), 'f({"x": 1})', "tool_calls"),
        (reply({"content": 7}), "7", "stop"),
        ({**reply({"content": "a"}), "error": None, "usage": None}, "a", "stop"),
    ],
)  # fmt: skip
def test_texts_of_replies(content, text, reason):
    assert completion_of(content) == Completion(text, finish_reason=reason)


def test_counts_of_tokens_that_are_none_are_0():
    for count in (-4, float("nan"), float("inf"), 10**400, "7", None):
        usage = {"usage": {"prompt_tokens": 3, "completion_tokens": count}}
        assert completion_of({**reply({"content": "a"}), **usage}) == Completion("a", 3, 0)


@pytest.mark.parametrize(
    "content, status",
    [
        ({"error": "overloaded"}, 502),
        ({"error": {"code": 429, "message": "slow down"}}, 429),
        ({"error": {"code": "503"}}, 503),
        ({"error": {"code": "model_overloaded"}}, 502),
        (reply(error={"code": 400, "message": "no"}), 400),
        (reply({"content": None}, finish_reason="error"), 502),
        (reply(), 502),
        ({"choices": None}, 502),
        ({"choices": ["a"]}, 502),
        (None, 502),
    ],
)
def test_replies_that_are_none(content, status):
    with pytest.raises(BadReply) as caught:
        completion_of(content)
    assert caught.value.status == status


def test_openai_what_is_under_way_when_a_run_ends_is_kept():
    server = FaultServer(delay=0.5)
    answered = []
    with server as url, client(url, concurrency=3, timeout=5.0) as engine:
        answer = server.answer
        server.answer = lambda handler, body: (
            handler.reply(402, {"error": {"message": "pay"}}) if "stop here" in str(body) else answer(handler, body)
        )
        with pytest.raises(UserError, match="no credit left"):
            engine.generate(
                [ask(text) for text in ("a", "b", "stop here", "c")], on_done=lambda i, _: answered.append(i)
            )
    assert sorted(answered) == [0, 1]


def test_openai_bad_replies_are_retried():
    server = FaultServer()
    with server as url, client(url, "bad-at-first") as engine:
        results = engine.generate([ask(str(i)) for i in range(4)])
    assert all(text for (text,) in texts(results)) and len(server.requests) == 16


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
        "    if messages == 'deadly':\n        import os\n\n        os._exit(1)\n"
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
        with pytest.raises(UserError, match="an actor of the ray engine died"):
            engine.generate(["deadly"])
        assert texts(engine.generate(prompts, n=2, seed=7)) == texts(expected)  # the actor was started again
        with pytest.raises(UserError, match="need 1000 CPUs, the Ray cluster has"):
            make_engine(model, engine="ray", engine_args={**settings, "actors": 1000, "cpus_per_actor": 1})
    with pytest.raises(UserError, match="no such directory"):
        make_engine("./nowhere", engine="ray", engine_args={"actors": 1})


@pytest.mark.stack
def test_ray_actors_share_few_prompts_and_say_why_they_did_not_start(tmp_path):
    (tmp_path / "agent.py").write_text(
        "import os, time\n\ndef answer(messages, *, seed, sampling):\n"
        "    time.sleep(0.2)\n    return str(os.getpid())\n"
    )
    (tmp_path / "broken.py").write_text("import os\n\nanswer = os.environ['OF_NO_MACHINE']\n")
    settings = {"engine": "callable", "actors": 2}
    with make_engine(f"{tmp_path}/agent.py:answer", engine="ray", engine_args=settings) as engine:
        engine.generate(["a", "b"])  # both have opened their engines
        answers = engine.generate([str(i) for i in range(8)])
        assert len({completion.text for (completion,) in answers}) == 2
    with make_engine(f"{tmp_path}/broken.py:answer", engine="ray", engine_args=settings) as engine:
        with pytest.raises(UserError, match="OF_NO_MACHINE"):
            engine.generate(["a"])


@pytest.mark.stack
def test_ray_actors_stay_and_take_no_place_that_others_have(tmp_path, monkeypatch, request):
    """What an actor has loaded serves every call; where nothing is free it is said, and not waited for."""
    import ray

    (tmp_path / "agent.py").write_text(
        "import os\n\ndef answer(messages, *, seed, sampling):\n    return str(os.getpid())\n"
    )
    model, settings = f"{tmp_path}/agent.py:answer", {"engine": "callable", "batch_size": 1, "cpus_per_actor": 1}
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    request.addfinalizer(ray.shutdown)
    with make_engine(model, engine="ray", engine_args=settings) as engine:
        first, again = (engine.generate([str(i) for i in range(6)]) for _ in range(2))
        assert len({completion.text for answers in (first, again) for (completion,) in answers}) == 1
        with monkeypatch.context() as patch:
            patch.setattr("openrlhf_mlpo.engines.ray.PLACED_IN", 10)
            with pytest.raises(UserError, match="1 of 3 actors found no free 0 GPUs and 1 CPUs"):
                make_engine(model, engine="ray", engine_args={**settings, "actors": 3})
        with make_engine(model, engine="ray", engine_args={**settings, "actors": 2}) as other:
            assert len(other.generate(["x"])) == 1


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
