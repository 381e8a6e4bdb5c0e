"""Does serving keep up with the batched rounds of evaluation, and does it stay in shape?

    python3 tests/benchmarks/bench_serve.py --seconds 60 --clients 64

One small vLLM model is leader and agents. `rounds.leader_team` plays as many questions as there are clients in one
batch; then the clients, in a process of their own, ask the server for the same questions again and again for so many
seconds; then the batch once more. Prints a JSON object: questions a second of both, their ratio (the goal is 0.85),
errors, answers that differ from the batch's, and the server's memory half way and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eval.play.recorder import Judge  # noqa: E402
from openrlhf_mlpo.engines import Sampling, make_engine  # noqa: E402
from openrlhf_mlpo.prompts.templates import load_template  # noqa: E402
from openrlhf_mlpo.questions import Question, question_id  # noqa: E402
from openrlhf_mlpo.rounds import agent_player, as_leader, leader_team  # noqa: E402
from openrlhf_mlpo.serve.app import Limits, make_app  # noqa: E402
from openrlhf_mlpo.serve.batching import Batcher  # noqa: E402
from openrlhf_mlpo.serve.protocol import Seat, Table  # noqa: E402
from openrlhf_mlpo.team import Agent  # noqa: E402
from tests.serving import in_thread  # noqa: E402
from tests.tiny import make_tiny_model  # noqa: E402


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--clients", type=int, default=64)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--max_new_tokens", type=int, default=32)
    args = p.parse_args()
    texts = [f"{'not ' * (i % 3)}( True ) {'and False ' * (1 + i % 7)}is" for i in range(args.clients)]
    texts = [f"{text} {'or True ' * (i // 21)}is" for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        model = str(make_tiny_model(Path(folder) / "model", max_len=512))
        template, sampling = load_template("compact"), Sampling(temperature=0.0, max_tokens=args.max_new_tokens)
        engine, batcher = make_engine(model), Batcher(partial(make_engine, model), ThreadPoolExecutor(1))
        players = [agent_player(Agent(name=name, model=model), None, sampling) for name in ("leader", "a", "b", "c")]
        as_leader(players[0], template, "full")
        for player in players:

            def generate(prompts, n, seed):
                begun = time.perf_counter()
                return engine.generate(prompts, n=n, seed=seed, sampling=sampling), time.perf_counter() - begun

            player.generate = generate
        questions = [Question(question_id("exact", text), "exact", text, "") for text in dict.fromkeys(texts)]
        seats = [Seat(player, batcher, sampling) for player in players]

        def batch() -> tuple[float, list[str]]:
            begun = time.perf_counter()
            played = leader_team(
                players[1:], players[:1], questions, template, rounds=args.rounds, settled=Judge().settled
            )["leader"]
            return len(questions) / (time.perf_counter() - begun), [episode[-1].output.text for episode in played]

        batch()
        before, answers = batch()
        table = Table(seats[0], seats[1:], template, args.rounds, 600.0)
        app = make_app(table, task="exact", limits=Limits(in_flight=10_000))
        counts = served(app, [question.text for question in questions], answers, args)
        after, _ = batch()
        batcher.close()
        engine.close()
    rate = counts.pop("a second")
    rates = {"batched before": round(before, 2), "served": round(rate, 2), "batched after": round(after, 2)}
    ratio = round(rate / ((before + after) / 2), 3)
    print(json.dumps({"questions a second": rates, "ratio": ratio, **counts}, indent=1))


def served(app, texts: list[str], answers: list[str], args: argparse.Namespace) -> dict:
    """What clients in a process of their own count, and this process's memory, while the app serves."""
    process, memory = psutil.Process(), []
    with in_thread(app) as url, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        counts = pool.submit(load, f"{url}/v1", texts, answers, args.clients, args.seconds)
        for share in (0.5, 0.5):  # the first half warms up
            time.sleep(share * args.seconds)
            memory.append(process.memory_info().rss >> 20)
        counted = counts.result()
    return {**counted, "memory, MiB": {"half way": memory[0], "at the end": memory[1]}}


def load(url: str, texts: list[str], answers: list[str], clients: int, seconds: float) -> dict:
    """Clients that ask one question after another."""
    import openai

    counts = {"requests": 0, "errors": 0, "other answers than the batch's": 0}
    end = time.perf_counter() + seconds

    async def one(client, place: int) -> None:
        while time.perf_counter() < end:
            try:
                got = await client.chat.completions.create(
                    model="leader-team", messages=[{"role": "user", "content": texts[place]}]
                )
                counts["other answers than the batch's"] += got.choices[0].message.content != answers[place]
            except openai.OpenAIError:
                counts["errors"] += 1
            counts["requests"] += 1
            place = (place + clients) % len(texts)

    async def every() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
            await asyncio.gather(*(one(client, place) for place in range(clients)))

    begun = time.perf_counter()
    asyncio.run(every())
    return {**counts, "a second": counts["requests"] / (time.perf_counter() - begun)}


if __name__ == "__main__":
    main()
