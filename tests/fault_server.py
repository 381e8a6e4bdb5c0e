"""A local OpenAI-compatible server with deterministic answers and, when asked, random faults."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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

    def __enter__(self) -> str:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body leave as two segments; without this each reply waits 40 ms for an acknowledgement.
            disable_nagle_algorithm = True

            def do_GET(self):
                self.reply(*owner.models(self.headers))

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

            def reply(self, status: int, content: dict, headers: dict | None = None, cut: bool = False) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
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
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def models(self, headers):
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {"error": {"message": f"Incorrect API key: {headers.get('Authorization')}"}}
        return 200, {"object": "list", "data": [{"id": self.model, "object": "model", "created": 0, "owned_by": "x"}]}

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
            return handler.reply(500, {"error": {"message": "oops"}})
        if fault == "hang":
            time.sleep(self.hang_s)
        status, content = self.models(handler.headers)
        if status != 200:
            return handler.reply(status, content)
        if body["model"] != self.model:
            return handler.reply(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        prompt = json.dumps(body.get("messages", body.get("prompt")))
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
