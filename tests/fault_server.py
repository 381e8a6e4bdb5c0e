"""A local OpenAI-compatible server with deterministic answers and, when asked, random faults.

A model named in `QUIRKS` answers as some public endpoint does that differs from OpenAI's own: see there.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ODD = "odd"  # a row that holds this word is the one that row quirks refuse
HTML = "<html><body>Forbidden</body></html>"


def refused(status: int, content, **more) -> Callable:
    """Refuse rows that hold `ODD`; a text becomes OpenAI's form of an error."""
    if isinstance(content, str) and not content.startswith("<"):
        content = {"error": {"message": content, **more}}
    return lambda server, body, prompt: (status, content) if ODD in prompt else None


def always(status: int, content) -> Callable:
    return lambda server, body, prompt: (status, content)


def message(finish_reason="stop", **fields) -> Callable:
    """Answer with a message of another form; `{text}` in it is the usual answer's text."""

    def quirk(server, body, prompt):
        content = server.content(body, prompt)
        text = content["choices"][0]["message"]["content"]
        filled = json.loads(json.dumps(fields).replace("{text}", text))
        content["choices"][0] = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", **filled}}
        return 200, content

    return quirk


def context(words: str, size: int = 500) -> Callable:
    """Refuse what does not fit `size` tokens, prompt and answer together, in a server's words."""

    def quirk(server, body, prompt):
        tokens, asked = len(prompt) // 4, body.get("max_tokens") or body.get("max_completion_tokens") or 1
        if tokens + asked <= size:
            return None
        said = words.format(size=size, tokens=tokens, asked=asked, total=tokens + asked, least=size - asked + 1)
        return 400, {"error": {"message": said, "type": "BadRequestError", "code": 400}}

    return quirk


def unsupported(server, body, prompt):
    """OpenAI's o-series: `max_completion_tokens` only, and no sampling settings."""
    for name in ("max_tokens", "temperature", "top_p"):
        if name in body:
            more = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
            said = f"Unsupported parameter: '{name}' is not supported with this model.{more}"
            return 400, {"error": {"message": said, "param": name, "code": "unsupported_parameter"}}
    return None


def bad_at_first(server, body, prompt):
    """The first three replies to each prompt are no answers, each in another way."""
    key = prompt + str(body.get("seed"))
    server.seen[key] = server.seen.get(key, 0) + 1
    replies = [{"error": {"message": "overloaded", "code": 502}}, {"choices": []}, '{"choices": [{"mess']
    return (200, replies[server.seen[key] - 1]) if server.seen[key] <= 3 else None


def stop_too_long(server, body, prompt):
    if any(len(text) > 8 for text in body.get("stop", [])):
        return 400, {
            "error": {"message": "Invalid 'stop[0]': string too long. Expected a string with maximum length 8"}
        }
    return None


def echo_key(server, body, prompt):
    said = f"Bad request with headers Authorization: {server.authorization}"
    return (400, {"error": {"message": said}}) if ODD in prompt else None


def quote_key(server, body, prompt):
    return message("refusal", content=None, refusal=f"I was sent {server.authorization}")(server, body, prompt)


QUIRKS: dict[str, Callable] = {
    # one row is refused
    "filter-azure": refused(400, "The prompt triggered our content management policy.", code="content_filter"),
    "filter-gateway": refused(403, "This model requires moderation. Your input was flagged for violence."),
    "filter-risk": refused(400, "Content Exists Risk", code="invalid_request_error"),
    "filter-silent": lambda server, body, prompt: (
        message("content_filter", content=None)(server, body, prompt) if ODD in prompt else None
    ),
    "firewall": refused(403, HTML),
    "long-llamacpp": refused(400, "request (9000 tokens) exceeds the available context size (8192 tokens)"),
    "long-llamacpp-500": refused(500, "Context size has been exceeded."),
    "long-gemini": refused(400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message":
        "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576)."}}]),
    "long-413": refused(413, HTML),
    "strange": refused(422, "the gizmo dislikes this one"),
    "crash": refused(500, "internal error: index out of range"),
    "no-choices": refused(200, {"choices": []}),
    "error-inside": refused(200, {"error": {"code": 400, "message": "Provider returned error"}}),
    "hang": lambda server, body, prompt: time.sleep(server.hang_s) if ODD in prompt else None,
    "hang-up": refused(0, ""),
    "echo-key": echo_key,
    "quote-key": quote_key,
    # `max_tokens` and the context, in the words of …
    "room-openai": context(
        "This model's maximum context length is {size} tokens. However, you requested {total} tokens ({tokens} in the "
        "messages, {asked} in the completion). Please reduce the length of the messages or completion."
    ),
    "room-vllm": context(
        "'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum context length is {size} "
        "tokens and your request has {tokens} input tokens ({asked} > {size} - {tokens})."
    ),
    "room-vllm-new": context(
        "This model's maximum context length is {size} tokens. However, you requested {asked} output tokens and your "
        "prompt contains at least {least} input tokens, for a total of at least {total} tokens."
    ),
    "room-tgi": context(
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= {size}. Given: {tokens} `inputs` tokens "
        "and {asked} `max_new_tokens`"
    ),
    "room-listed": context("max_tokens is too large for a prompt with {tokens} input tokens"),  # GET /models says how
    "room-claude": context(
        "input length and `max_tokens` exceed context limit: {tokens} + {asked} > {size}, decrease input length"
    ),
    # all rows are refused
    "stop-too-long": stop_too_long,
    "no-such-parameter": always(400, {"error": {"message": "Unsupported parameter: 'seed'"}}),
    "quota": always(429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
    "unpaid": always(402, {"error": {"message": "Insufficient Balance"}}),
    "no-credit-400": always(400, {"error": {"message": "Your credit balance is too low to access the API."}}),
    "never-text": lambda server, body, prompt: message("length", content="")(server, body, prompt),
    # other forms
    "o-series": unsupported,
    "bad-at-first": bad_at_first,
    "reasoning-only": message(content=None, reasoning_content="{text}"),
    "reasoning-both": message(content="{text}", reasoning="hm, hm"),
    "parts": message(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                              {"type": "text", "text": "{text}"}]),
    "refusal": message(content=None, refusal="I will not say {text}"),
    "tools": message("tool_calls", content=None, tool_calls=[
        {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}]),
}  # fmt: skip


class FaultServer:
    """`with FaultServer(...) as url`. Faults come with these probabilities per request: `limit` 429, `error` 500,
    `hang` (longer than the client waits), `cut` (the connection ends in the middle of the reply)."""

    def __init__(
        self,
        *,
        limit=0.0,
        error=0.0,
        hang=0.0,
        cut=0.0,
        delay=0.0,
        hang_s=3.0,
        key="",
        model="m",
        seed=0,
        context=10_000,
    ):
        self.faults = {"limit": limit, "error": error, "hang": hang, "cut": cut}
        self.delay, self.hang_s, self.key, self.model, self.context = delay, hang_s, key, model, context
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.requests: list[dict] = []
        self.counts = dict.fromkeys((*self.faults, "ok"), 0)
        self.running = self.most_running = 0
        self.seen: dict[str, int] = {}
        self.authorization = ""

    def __enter__(self) -> str:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body leave as two segments; without this each reply waits 40 ms for an acknowledgement.
            disable_nagle_algorithm = True

            def do_GET(self):
                known = self.path == "/v1/models"
                self.reply(*owner.models(self.headers) if known else (404, {"detail": "Not Found"}))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner.lock:
                    owner.running += 1
                    owner.most_running = max(owner.most_running, owner.running)
                try:
                    owner.answer(self, body)
                finally:
                    with owner.lock:
                        owner.running -= 1

            def reply(self, status: int, content, headers: dict | None = None, cut: bool = False) -> None:
                if not status:
                    self.close_connection = True
                    return
                plain = isinstance(content, str)  # sent as it is
                data = content.encode() if plain else json.dumps(content).encode()
                self.send_response(status)
                kind = "text/html" if plain and content.startswith("<") else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if cut else data)
                if cut:
                    self.close_connection = True

            def log_message(self, *_):
                pass

            def handle(self):
                try:
                    super().handle()
                except (ConnectionError, BrokenPipeError):
                    pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()  # seconds until it ends
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def models(self, headers):
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {"error": {"message": f"Incorrect API key: {headers.get('Authorization')}"}}
        model = {"id": self.model, "object": "model", "created": 0, "owned_by": "x", "max_model_len": 500}
        return 200, {"object": "list", "data": [model]}

    def answer(self, handler, body: dict) -> None:
        with self.lock:
            self.requests.append(body)
            draw, fault = self.random.random(), "ok"
            for name, share in self.faults.items():
                if draw < share:
                    fault = name
                    break
                draw -= share
            self.counts[fault] += 1
        if fault == "limit":
            return handler.reply(429, {"error": {"message": "slow down"}}, {"retry-after-ms": "20"})
        if fault == "error":
            return handler.reply(500, {"error": {"message": "oops"}}, {"retry-after-ms": "20"})
        if fault == "hang":
            time.sleep(self.hang_s)
        status, content = self.models(handler.headers)
        if status != 200:
            return handler.reply(status, content)
        if handler.path not in ("/v1/chat/completions", "/v1/completions"):
            return handler.reply(404, {"detail": "Not Found"})
        if body["model"] != self.model and body["model"] not in QUIRKS:
            return handler.reply(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        prompt = json.dumps(body.get("messages", body.get("prompt")))
        self.authorization = handler.headers.get("Authorization", "")
        if (odd := QUIRKS.get(body["model"], lambda *_: None)(self, body, prompt)) is not None:
            return handler.reply(*odd, {"retry-after-ms": "5"})
        if len(prompt) > self.context:
            return handler.reply(
                400, {"error": {"message": f"This model's maximum context length is {self.context} tokens."}}
            )
        time.sleep(self.delay)
        handler.reply(200, self.content(body, prompt), cut=fault == "cut")

    def content(self, body: dict, prompt: str) -> dict:
        """An answer that depends on prompt, seed and temperature alone."""
        digest = hashlib.sha256(f"{prompt}|{body.get('seed')}|{body.get('temperature')}".encode()).hexdigest()
        text = f"thinking {digest} <answer> {'True' if int(digest, 16) % 2 else 'False'} </answer>"
        key = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        return {
            "id": "x",
            "object": "chat.completion" if "messages" in body else "text_completion",
            "created": 0,
            "model": self.model,
            "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, **key}],
            "usage": {"prompt_tokens": len(prompt) // 4, "completion_tokens": 9, "total_tokens": len(prompt) // 4 + 9},
        }
