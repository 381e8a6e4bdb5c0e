"""What our engines cost over what they wrap, in one run each; alternating rounds, medians of ratios.

    python3 tests/benchmarks/bench_engines.py vllm [--model PATH]    # engine against bare LLM.generate
    python3 tests/benchmarks/bench_engines.py openai                 # engine against a bare asyncio load generator

vllm: the tiny default model is the hardest case, because nearly all time is overhead. Bare `LLM.generate` gets rendered
prompts with the same sampling parameters and seeds; the engine gets chat messages. With the engine core in this process
(CPU) processor seconds are compared too: they do not depend on what else the machine does.
openai: a server in another process answers each request after `--latency` seconds, half as much more or less (answers
differ in length; real endpoints take from 0.1 s to minutes); both clients keep 64 requests in flight. The bare load
generator is asyncio streams and hand-written HTTP, without any HTTP library: the least a Python client can cost.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from openrlhf_mlpo.engines import Sampling, make_engine  # noqa: E402
from openrlhf_mlpo.engines.base import seed_of  # noqa: E402


def bench_vllm(args) -> None:
    from tests.tiny import make_tiny_model

    model = args.model or str(make_tiny_model(Path(tempfile.mkdtemp()) / "m"))
    prompts = [[{"role": "user", "content": f"not True and {i % 4} or {i // 4 % 4} is"}] for i in range(args.prompts)]
    sampling = Sampling(max_tokens=32)
    with make_engine(model, engine_args={"max_model_len": 256}) as engine:
        llm = engine._llm
        texts = [engine.tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
        # Equal prompts, parameters and seeds: both do exactly the same work in the engine core.
        params = [engine._params(sampling, 4, seed_of(0, i, p), len(engine._encode(p))) for i, p in enumerate(prompts)]

        def bare() -> int:
            outputs = llm.generate(texts, [each.clone() for each in params], use_tqdm=False)
            return sum(len(sample.token_ids) for output in outputs for sample in output.outputs)

        def ours() -> int:
            results = engine.generate(prompts, n=4, seed=0, sampling=sampling)
            return sum(completion.completion_tokens for row in results for completion in row)

        assert bare() == ours(), "not the same work"
        compare("bare LLM.generate", bare, "vllm engine", ours, "tokens", args.rounds)


def compare(name_a: str, a, name_b: str, b, unit: str, rounds: int) -> None:
    """Alternate a and b and print rates; the figure is the median over rounds of b's rate over a's."""
    wall: dict[str, list[float]] = {name_a: [], name_b: []}
    processor: dict[str, list[float]] = {name_a: [], name_b: []}
    for number in range(rounds):
        pair = [(name_a, a), (name_b, b)]
        for name, run in pair if number % 2 else pair[::-1]:
            start, start_cpu = time.perf_counter(), time.process_time()
            amount = run()
            wall[name].append(amount / (time.perf_counter() - start))
            processor[name].append(amount / (time.process_time() - start_cpu))
    for label, rates in (("wall", wall), ("processor", processor)):
        ratio = statistics.median(y / x for x, y in zip(rates[name_a], rates[name_b], strict=True))
        both = ", ".join(f"{name} {statistics.median(values):.0f}" for name, values in rates.items())
        print(f"{unit}/s of {label} time: {both}; ratio {ratio:.3f} (median of {rounds})")


# openai


def serve(port, latency: float) -> None:
    """A bare HTTP/1.1 server that answers POSTs after 0.5 to 1.5 times `latency` seconds, the same in each run."""
    reply = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 200}}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 200, "total_tokens": 250},
    }  # fmt: skip
    body = json.dumps(reply).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    # By turns and not by chance, so that every round waits as long; a stride prime to it spreads neighbours.
    delays = itertools.cycle([latency * (0.5 + index * 37 % 64 / 63) for index in range(64)])

    async def handle(reader, writer) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                await reader.readexactly(length)
                if head.startswith(b"POST"):
                    await asyncio.sleep(next(delays))
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(run())


async def load(port: int, prompts: list, concurrency: int) -> int:
    """The bare load generator: keep-alive connections that send the same bodies and read the replies."""
    bodies = iter(
        [
            json.dumps({"model": "m", "messages": p, "temperature": 1.0, "max_tokens": 1024, "seed": 1}).encode()
            for p in prompts
        ]
    )
    done = 0

    async def work() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in bodies:
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
            done += 1
        writer.close()

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return done


def bench_openai(args) -> None:
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(port, args.latency), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.05)
    prompts = [[{"role": "user", "content": f"question {i} " * 20}] for i in range(args.prompts)]
    settings = {"base_url": f"http://127.0.0.1:{port.value}/v1", "concurrency": 64}
    with make_engine("m", engine="openai", engine_args=settings) as engine:
        print(f"server latency {args.latency} s ± 50 %, 64 in flight: at most {64 / args.latency:.0f} requests/s")
        compare(
            "bare load generator",
            lambda: asyncio.run(load(port.value, prompts, 64)),
            "openai engine",
            lambda: len(engine.generate(prompts)),
            "requests",
            args.rounds,
        )
    server.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=("vllm", "openai"))
    parser.add_argument("--model", default="", help="a model for vllm (default: a tiny one made here)")
    parser.add_argument(
        "--prompts", type=int, default=0, help="prompts per round (default 0: 256 for vllm, 1280 for openai)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument(
        "--latency", type=float, default=0.5, help="seconds the server takes per answer on average (default 0.5)"
    )
    parsed = parser.parse_args()
    parsed.prompts = parsed.prompts or (256 if parsed.engine == "vllm" else 1280)
    bench_vllm(parsed) if parsed.engine == "vllm" else bench_openai(parsed)
