"""Any OpenAI-compatible endpoint (`vllm serve`, a hosted model): many requests in flight, the library's retries."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from openrlhf_mlpo.engines import TOO_LONG, Completion, Conversation, Engine, Sampling, Seeds, seed_of
from openrlhf_mlpo.errors import UserError

_SETTINGS = {
    "base_url": "",  # "": OPENAI_BASE_URL, else the client library's own default
    "api_key_env": "OPENAI_API_KEY",
    "concurrency": 64,  # requests in flight; the client library opens 1000 connections at most
    "timeout": 600.0,  # seconds per attempt
    "max_retries": 10,  # on 429, 5xx, time-outs and broken connections, with exponential backoff up to 8 s
    "send_seed": True,
    "extra_body": {},  # sent with every request, e.g. {chat_template_kwargs: {enable_thinking: false}}
}
_CONTEXT = ("context length", "maximum context", "too long", "max_model_len", "context_length_exceeded", "input tokens")


class OpenAIEngine(Engine):
    """`engine_args`: the names in `_SETTINGS`. The key is read from the environment and kept nowhere else."""

    def __init__(self, model: str, engine_args: dict):
        import openai

        self.model = model
        if unknown := sorted(set(engine_args) - set(_SETTINGS)):
            raise UserError(f"engine_args: the openai engine has no {unknown[0]!r}; it has {', '.join(_SETTINGS)}")
        settings = {**_SETTINGS, **engine_args}
        self.concurrency, self.send_seed = settings["concurrency"], settings["send_seed"]
        if not isinstance(self.concurrency, int) or not 1 <= self.concurrency <= 1000:
            raise UserError(f"engine_args: concurrency must be a whole number from 1 to 1000, not {self.concurrency!r}")
        self.extra_body = dict(settings["extra_body"])
        self.key_env = settings["api_key_env"]
        base_url = settings["base_url"] or os.environ.get("OPENAI_BASE_URL") or None
        if "@" in urlsplit(base_url or "").netloc:
            raise UserError(
                f"engine_args: base_url must hold no user or password; set the variable {self.key_env} instead"
            )
        key = os.environ.get(self.key_env)
        if not key:
            if not base_url or urlsplit(base_url).hostname == "api.openai.com":
                raise UserError(f"no API key: set the environment variable {self.key_env}")
            key = "none"  # a local server needs none, the client library insists on one
        self._key = key
        self._client_args = {
            "api_key": key,
            "base_url": base_url,
            "timeout": float(settings["timeout"]),
            "max_retries": int(settings["max_retries"]),
        }
        self._served = self._preflight(openai)

    def stream(
        self, conversations: Sequence[Conversation], *, n: int = 1, seed: Seeds = 0, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine.stream`. One request per sample; the event loop runs in a thread of its own, so that what the
        caller does between results does not hold up requests."""
        results: queue.Queue = queue.Queue()
        stop = threading.Event()
        work = (conversations, n, seed, sampling or Sampling())
        thread = threading.Thread(target=lambda: asyncio.run(self._run(results, stop, *work)), daemon=True)
        thread.start()
        try:
            while (item := results.get()) is not None:
                if isinstance(item, BaseException):
                    explained = self._explain(item)
                    raise explained from (None if explained is item else item)
                yield item
        finally:
            stop.set()
            thread.join()

    async def _run(self, results: queue.Queue, stop: threading.Event, conversations, n, seed, sampling) -> None:
        import openai

        requests = ((index, sample) for index in range(len(conversations)) for sample in range(n))
        collected: dict[int, list[Completion | None]] = {}

        async def work(client) -> None:
            for index, sample in requests:
                # A slow reader must not let results pile up in memory.
                while results.qsize() > 8 * self.concurrency and not stop.is_set():
                    await asyncio.sleep(0.02)
                conversation = conversations[index]
                first = seed_of(seed, index, conversation)
                done = await self._ask(client, conversation, None if first is None else first + sample, sampling)
                samples = collected.setdefault(index, [None] * n)
                samples[sample] = done
                if None not in samples:
                    results.put((index, collected.pop(index)))

        try:
            async with openai.AsyncOpenAI(**self._client_args) as client:
                workers = {
                    asyncio.create_task(work(client)) for _ in range(min(self.concurrency, len(conversations) * n))
                }
                try:
                    async for task in _finished(workers, stop):
                        task.result()
                finally:
                    for task in workers:
                        task.cancel()
                    await asyncio.gather(*workers, return_exceptions=True)
        except Exception as error:  # told to the thread that reads the results
            results.put(error)
        finally:
            results.put(None)

    async def _ask(self, client, conversation: Conversation, seed: int | None, sampling: Sampling) -> Completion:
        import openai

        body: dict[str, Any] = {"model": self.model, "temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.max_tokens:
            body["max_tokens"] = sampling.max_tokens
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if seed is not None and self.send_seed:
            body["seed"] = seed
        # Not OpenAI's own, but vLLM's and others'; sent only when they are asked for.
        for name, neutral in (("top_k", 0), ("min_p", 0), ("repetition_penalty", 1)):
            if getattr(sampling, name) != neutral:
                body[name] = getattr(sampling, name)
        if isinstance(conversation, str):
            # The rendered text holds its special tokens already (vLLM would add BOS again).
            path, prompt = "/completions", {"prompt": conversation, "add_special_tokens": False}
        else:
            path, prompt = "/chat/completions", {"messages": conversation}
        try:
            # The library's plain post: its retries and errors without its typed models, which cost 2 ms a request.
            reply = await client.post(path, body={**body, **prompt, **self.extra_body}, cast_to=object)
        except openai.BadRequestError as error:
            if any(hint in str(error).lower() for hint in _CONTEXT):
                return Completion("", 0, 0, TOO_LONG)
            raise
        try:
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            text = choice["text"] if isinstance(conversation, str) else choice["message"]["content"]
        except (TypeError, KeyError, IndexError, AttributeError):
            raise UserError(f"the endpoint's reply is not in OpenAI's form: {_short_text(reply)}") from None
        counts = (usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
        return Completion(text or "", *counts, choice.get("finish_reason") or "stop")

    def _preflight(self, openai) -> list[str]:
        """The models the endpoint names; UserError when nothing listens there or the key is refused."""
        try:
            with openai.OpenAI(**{**self._client_args, "max_retries": 1, "timeout": 10.0}) as client:
                return [model.id for model in client.models.list().data][:20]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise self._explain(error) from error
        except openai.APIConnectionError as error:
            if _never_connected(error):
                raise self._explain(error) from error
        except Exception:  # many endpoints have no list of models, or are busy just now: the requests will tell
            pass
        return []

    def _explain(self, error: BaseException) -> BaseException:
        """The error as one line without the key; errors that are not the endpoint's come back as they are."""
        import openai

        url = urlsplit(str(self._client_args["base_url"] or "https://api.openai.com/v1"))
        where = f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path}"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return UserError(
                f"{where} refuses the API key ({error.status_code}); check the environment variable {self.key_env}"
            )
        if isinstance(error, openai.NotFoundError):
            served = f"; it serves {', '.join(self._served)}" if self._served else ""
            return UserError(f"{where} has no model {self.model!r} (404){served}")
        if isinstance(error, openai.RateLimitError):
            return UserError(f"{where} still limits the rate (429) after all retries; lower engine_args.concurrency")
        if isinstance(error, openai.APITimeoutError):
            return UserError(f"{where} did not answer within {self._client_args['timeout']:g} s, all retries included")
        if isinstance(error, openai.APIConnectionError):
            return UserError(f"no connection to {where} ({_short(error.__cause__ or error)}); is the server up?")
        if isinstance(error, openai.APIStatusError):
            message = _short(error).replace(self._key, "***") if self._key != "none" else _short(error)
            return UserError(f"{where} answered {error.status_code}: {message}")
        return error


async def _finished(tasks: set, stop: threading.Event) -> AsyncIterator[asyncio.Task]:
    """Tasks as they end, until none is left or `stop` is set."""
    pending = set(tasks)
    while pending and not stop.is_set():
        done, pending = await asyncio.wait(pending, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            yield task


def _never_connected(error: BaseException | None) -> bool:
    """Whether a connection could not be made at all, as against one that broke; by name, for any HTTP library."""
    while error is not None:
        if type(error).__name__ in ("ConnectError", "UnsupportedProtocol", "LocalProtocolError", "InvalidURL"):
            return True
        error = error.__cause__
    return False


def _short(error: BaseException) -> str:
    return _short_text(error) or type(error).__name__


def _short_text(content: Any) -> str:
    return " ".join(str(content).split())[:300]
