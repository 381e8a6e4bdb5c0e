"""The OpenAI-compatible application: /v1/chat/completions, /v1/models, /health, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from openrlhf_mlpo import __version__
from openrlhf_mlpo.errors import one_line
from openrlhf_mlpo.rounds import Turn
from openrlhf_mlpo.serve.metrics import Metrics
from openrlhf_mlpo.serve.protocol import Game, Table, TeamFailed, TooLong
from openrlhf_mlpo.serve.requests import MODELS, BadRequest, ChatRequest, check, question_of, sampling_of


@dataclass(frozen=True)
class Limits:
    """What one server takes: bytes of a body, requests in flight, seconds of a request."""

    body_bytes: int = 1_000_000
    in_flight: int = 256
    seconds: float = 600.0


def content_of(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """What an error says, in OpenAI's form."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def error(status: int, message: str, param: str | None = None, headers: dict | None = None) -> JSONResponse:
    """A response that is an error."""
    return JSONResponse(content_of(status, message, param), status, headers)


class Server:
    """Answers requests at a table, and counts them."""

    def __init__(self, table: Table, limits: Limits, metrics: Metrics):
        self.table, self.limits, self.metrics = table, limits, metrics
        self.in_flight = 0
        metrics.in_flight.set_function(lambda: self.in_flight)

    async def steps(self, request: ChatRequest, game: Game) -> AsyncIterator[Turn]:
        """The leader's output after each round of a request, or the only turn of the other models."""
        if request.model == "leader-team":
            async for played in self.table.leader_team(game):
                yield played.output
        elif request.model == "leader":
            yield await self.table.solo(game)
        else:
            yield await self.table.vote(game)


def usage_of(game: Game) -> dict[str, int]:
    """Tokens of all models that a request asked."""
    prompt, completion = (sum(getattr(turn, f"{k}_tokens") for turn in game.turns) for k in ("prompt", "completion"))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def ours_of(game: Game, transcript: bool) -> dict[str, Any]:
    """The field `mlpo` of a response: rounds played, agents left out and why, and where asked for every turn."""
    ours: dict[str, Any] = {"rounds": len(game.rounds), "failed_agents": game.failed}
    if transcript:
        ours["transcript"] = [
            {"player": turn.player, "round": turn.round, "text": turn.text, "finish_reason": turn.finish_reason,
             "prompt_tokens": turn.prompt_tokens, "completion_tokens": turn.completion_tokens}
            for turn in game.turns
        ]  # fmt: skip
    return ours


def reason_of(turn: Turn) -> str:
    """A finish reason that OpenAI's clients know."""
    return turn.finish_reason if turn.finish_reason in ("stop", "length", "content_filter") else "stop"


def failure(problem: BaseException, limits: Limits) -> tuple[int, str, str | None]:
    """Status, message and field for what went wrong with a request."""
    if isinstance(problem, TimeoutError):
        return 504, f"no answer within {limits.seconds:g} s", None
    if isinstance(problem, TeamFailed):
        return 503, f"all agents failed: {problem}", None
    if isinstance(problem, TooLong):
        return 400, str(problem), "messages"
    return 503, f"the leader failed: {one_line(problem)}", None


def make_app(table: Table, *, task: str, limits: Limits, seed: int = 0, key: str | None = None) -> FastAPI:
    """The application. `task`: in which form answers are compared, for votes and for the end of the rounds; `seed`:
    that of requests without one; `key`: what clients must send as a bearer token, None: nothing."""
    server = Server(table, limits, Metrics())

    def authorized(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if key is not None and not hmac.compare_digest(given, key.encode()):
            raise HTTPException(401, "a valid key is needed: send it as Authorization: Bearer KEY")

    app = FastAPI(title="A leader and its team (openrlhf-mlpo)", version=__version__)
    app.add_middleware(BodyLimit, most=limits.body_bytes)
    needs_key = [Depends(authorized)]

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return error(400, f"{place or 'the body'}: {first['msg']}"[:300], place[:60] or None)

    @app.exception_handler(HTTPException)
    async def _refused(_: Request, problem: HTTPException) -> Response:
        return error(problem.status_code, str(problem.detail))

    @app.get("/health")
    async def health() -> dict:
        """Whether the server is up."""
        return {"status": "ok"}

    @app.get("/metrics", dependencies=needs_key)
    async def metrics() -> Response:
        """Counters in Prometheus' form."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", dependencies=needs_key)
    async def models() -> dict:
        """The leader with its team, the leader alone, and the team's vote."""
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "openrlhf-mlpo"} for name in MODELS]
        return {"object": "list", "data": data}

    @app.post("/v1/chat/completions", dependencies=needs_key)
    async def chat(request: ChatRequest, http: Request) -> Response:
        """Answer a conversation's last message."""
        try:
            check(request)
            sampling = sampling_of(request, table.leader.sampling)
            game = Game(question_of(request, task), sampling, seed if request.seed is None else request.seed)
        except BadRequest as problem:
            server.metrics.requests.labels("other", "400").inc()
            return error(400, str(problem), problem.param)
        if server.in_flight >= limits.in_flight:
            server.metrics.requests.labels(request.model, "429").inc()
            return error(429, f"{limits.in_flight} requests are in flight; try again", headers={"Retry-After": "1"})
        if request.stream:
            return StreamingResponse(stream(server, request, game), media_type="text/event-stream")
        return await whole(server, request, game, http)

    return app


@contextlib.asynccontextmanager
async def place(server: Server) -> AsyncGenerator[None]:
    """A request's place among those in flight, and the time it has."""
    server.in_flight += 1
    try:
        with anyio.fail_after(server.limits.seconds):
            yield
    finally:
        server.in_flight -= 1


async def whole(server: Server, request: ChatRequest, game: Game, http: Request) -> Response:
    """The answer in one piece; a client that hangs up frees its place."""
    begun, status = time.perf_counter(), 499  # nginx's word for a client that has gone

    async def play() -> Turn:
        async with place(server):
            turns = [turn async for turn in server.steps(request, game)]
            return turns[-1]

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    playing, leaving = asyncio.create_task(play()), asyncio.create_task(gone())
    try:
        await asyncio.wait((playing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            return Response(status_code=499)
        try:
            turn = playing.result()
        except Exception as problem:  # of any engine: the client learns it, the server goes on
            status, message, param = failure(problem, server.limits)
            return error(status, message, param)
        status = 200
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time())}
        choice = {"index": 0, "message": {"role": "assistant", "content": turn.text}, "finish_reason": reason_of(turn)}
        rest = {"usage": usage_of(game), "mlpo": ours_of(game, request.mlpo.transcript)}
        return JSONResponse({**head, "model": request.model, "choices": [{**choice, "logprobs": None}], **rest})
    finally:
        for task in (playing, leaving):
            task.cancel()
        await asyncio.gather(playing, leaving, return_exceptions=True)
        server.metrics.count(request.model, status, time.perf_counter() - begun, game)


async def stream(server: Server, request: ChatRequest, game: Game) -> AsyncIterator[str]:
    """Server-sent events: a chunk without text for each round, then the answer, its end and, if asked, the usage."""
    begun, status = time.perf_counter(), 499
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time())}

    def chunk(delta: dict | None, reason: str | None = None, **more: Any) -> str:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]
        return f"data: {json.dumps({**head, 'model': request.model, 'choices': choices, **more})}\n\n"

    try:
        yield chunk({"role": "assistant", "content": ""})
        turn = None
        try:
            async with place(server):
                async for turn in server.steps(request, game):
                    yield chunk({}, mlpo={"round": turn.round, "answer": game.key(turn.text)})
        except Exception as problem:
            status, message, param = failure(problem, server.limits)
            yield f"data: {json.dumps(content_of(status, message, param))}\n\n"
            return
        assert turn is not None
        yield chunk({"content": turn.text})
        yield chunk({}, reason_of(turn), mlpo=ours_of(game, request.mlpo.transcript))
        if request.stream_options and request.stream_options.include_usage:
            yield chunk(None, usage=usage_of(game))
        status = 200
        yield "data: [DONE]\n\n"
    finally:
        server.metrics.count(request.model, status, time.perf_counter() - begun, game)


class BodyLimit:
    """Refuses bodies that are too large while they come in, whatever their header says. An ASGI middleware."""

    def __init__(self, app: Any, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        messages, size, more = [], 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most:
                await error(413, f"a body may have {self.most} bytes")(scope, receive, send)
                return
            messages.append(message)
            more = message.get("more_body", False) and message["type"] == "http.request"

        async def replay():
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)
