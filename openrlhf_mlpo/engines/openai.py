"""Any OpenAI-compatible endpoint (`vllm serve`, a hosted model): many requests in flight, the library's retries.

Only imported when an endpoint is asked: the client library takes a second.
"""

from __future__ import annotations

import asyncio
import json
import math
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import openai

from openrlhf_mlpo.engines.base import (
    TOO_LONG,
    Completion,
    Conversation,
    Engine,
    Sampling,
    Seeds,
    seed_of,
)
from openrlhf_mlpo.engines.openai_body import Parameters, room
from openrlhf_mlpo.engines.openai_errors import Endpoint, mark_bad_replies, never_connected, row_reason, said
from openrlhf_mlpo.engines.openai_reply import completion_of
from openrlhf_mlpo.engines.openai_settings import key_of, settings_of

_PROBE = "Answer with one word: ready?"  # asked to learn whether a refusal concerns all rows
_GRACE = 10.0  # seconds that requests under way get when another one ends the run: they may be paid for


class OpenAIEngine(Engine):
    """`engine_args`: the names in `openai_settings.SETTINGS`. The key is read from the environment, kept nowhere else.

    A request that is refused (400, 403, 413, 422, …, 5xx after all retries) while another with the same settings is
    taken gets an empty completion with the reason; what is refused for all ends the run. `max_tokens` is cut to the
    room in the context, sent as `max_completion_tokens` where the endpoint wants that, and, like `temperature` and
    `top_p`, left out where the team file says null; yet another name for it goes into `extra_body`.
    """

    def __init__(self, model: str, engine_args: Mapping):
        settings, key = settings_of(engine_args), key_of(engine_args)
        self.concurrency = settings["concurrency"]
        self.parameters = Parameters(model, dict(settings["extra_body"]), settings["send_seed"])
        self.endpoint = Endpoint(settings["base_url"], model, key, settings["api_key_env"], float(settings["timeout"]))
        self._client_args: dict[str, Any] = {
            "api_key": key or "none",  # a local server needs none, the client library insists on one
            "base_url": settings["base_url"] or None,
            "timeout": self.endpoint.timeout,
            "max_retries": settings["max_retries"],
        }
        self._look_up()

    def stream(
        self, conversations: Sequence[Conversation], *, n: int = 1, seed: Seeds = 0, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine.stream`. One request per sample; the event loop runs in a thread of its own, so that what the
        caller does between results does not hold up requests."""
        run = _Run(self, conversations, n, seed, sampling or Sampling())
        thread = threading.Thread(target=lambda: asyncio.run(run.all()), daemon=True)
        thread.start()
        try:
            while (item := run.results.get()) is not None:
                if isinstance(item, BaseException):
                    raise self.endpoint.explain(item) from None  # what it came from may hold the key
                yield item
        finally:
            run.stop.set()
            thread.join()

    def _look_up(self) -> None:
        """Ask which models the endpoint has; UserError when nothing listens there or the key is refused."""
        try:
            with openai.OpenAI(**self._client_args) as client:
                models = client.with_options(max_retries=1, timeout=10.0).models.list().data
            mine = next((model for model in models if model.id == self.endpoint.model), None)
            context = getattr(mine, "max_model_len", None)
            context = context if isinstance(context, int) else 0
            self.endpoint = replace(self.endpoint, served=tuple(model.id for model in models), context=context)
        except Exception as error:  # many have no list of models, or are busy just now: the requests will tell
            if isinstance(error, openai.AuthenticationError) or never_connected(error):
                raise self.endpoint.explain(error) from None


class _Run:
    """The requests of one `stream`, in an event loop of their own. `results` gets (index, completions), an exception
    that ends the run, and None at the end."""

    def __init__(self, engine: OpenAIEngine, conversations: Sequence[Conversation], n: int, seed: Seeds, sampling):
        self.engine, self.conversations, self.n = engine, conversations, n
        self.seed, self.sampling = seed, sampling
        self.results: queue.Queue = queue.Queue()
        self.stop = threading.Event()
        self.requests = ((index, sample) for index in range(len(conversations)) for sample in range(n))
        self.collected: dict[int, list[Completion | None]] = {}
        self.accepted = -math.inf  # when the newest request that was answered had been sent
        self.probing = asyncio.Lock()
        self.failed = False

    async def all(self) -> None:
        try:
            http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [mark_bad_replies]})
            async with openai.AsyncOpenAI(**self.engine._client_args, http_client=http) as client:
                count = min(self.engine.concurrency, len(self.conversations) * self.n)
                workers = {asyncio.create_task(self.work(client)) for _ in range(count)}
                pending = workers
                try:
                    while pending and not self.stop.is_set():
                        done, pending = await asyncio.wait(pending, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                        for task in done:
                            task.result()
                except Exception:
                    self.failed = True
                    await asyncio.wait(workers, timeout=_GRACE)
                    raise
                finally:
                    for task in workers:
                        task.cancel()
                    await asyncio.gather(*workers, return_exceptions=True)
        except Exception as error:  # for the thread that reads the results
            self.results.put(error)
        finally:
            self.results.put(None)

    async def work(self, client) -> None:
        for index, sample in self.requests:
            if self.failed:
                return
            # A slow reader must not let results pile up in memory.
            while self.results.qsize() > 8 * self.engine.concurrency and not self.stop.is_set():
                await asyncio.sleep(0.02)
            conversation = self.conversations[index]
            first = seed_of(self.seed, index, conversation)
            samples = self.collected.setdefault(index, [None] * self.n)
            samples[sample] = await self.ask(client, conversation, None if first is None else first + sample)
            if None not in samples:
                self.results.put((index, self.collected.pop(index)))

    async def ask(self, client, conversation: Conversation, seed: int | None) -> Completion:
        """One completion; an empty one when the request is refused for what it holds."""
        try:
            return await self.send(client, conversation, seed)
        except (openai.APIStatusError, openai.APIConnectionError) as error:
            reason = row_reason(error, self.engine.endpoint)
            if not reason:
                raise
            # A prompt that is too long is believed once anything was answered. Else another request decides: what
            # sounds like a filter may be a blocked account.
            status = getattr(error, "status_code", 0)
            if reason != TOO_LONG or status not in (400, 413, 422) or self.accepted == -math.inf:
                await self.check_others(client, conversation, error, retried=not status or status >= 500)
            return Completion("", 0, 0, reason)

    async def check_others(self, client, conversation: Conversation, refusal: Exception, retried: bool) -> None:
        """Raise the refusal unless the endpoint still takes another request with these settings.

        `retried`: the refused request was tried again and again, so that once more is enough for this one.
        """
        began = time.monotonic()
        async with self.probing:
            if self.accepted >= began:  # another worker has asked meanwhile
                return
            prompt = _PROBE if isinstance(conversation, str) else [{"role": "user", "content": _PROBE}]
            try:
                other = client.with_options(max_retries=1) if retried else client
                await self.send(other, prompt, None if self.seed is None else 0)
            except openai.APIError as error:
                same = getattr(error, "status_code", 0) == getattr(refusal, "status_code", 0)
                raise (refusal if same else error) from None

    async def send(self, client, conversation: Conversation, seed: int | None) -> Completion:
        """Post a request, in the form and with the number of tokens that the endpoint's refusals ask for."""
        engine, began = self.engine, time.monotonic()
        path = "/completions" if isinstance(conversation, str) else "/chat/completions"
        limit = self.sampling.max_tokens
        while True:
            body = engine.parameters.body(conversation, seed, self.sampling, limit)
            try:
                # The library's plain post: its retries and errors without its typed models, 2 ms a request.
                reply = await client.post(path, body=body, cast_to=object)
            except openai.APIStatusError as error:
                if error.status_code not in (400, 413, 422):
                    raise
                if engine.parameters.learn(said(error), body):
                    continue
                less = room(said(error), limit, engine.endpoint.context)
                if less is None:
                    raise
                limit = less if limit == self.sampling.max_tokens else 0
                continue
            self.accepted = max(self.accepted, began)
            completion = completion_of(json.loads(reply) if isinstance(reply, str) else reply)
            return engine.endpoint.without_key(completion)
