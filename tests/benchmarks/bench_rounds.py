#!/usr/bin/env python3
"""Is the batched evaluation as fast as the bare engine, and how much faster than a loop over questions?

    python3 tests/benchmarks/bench_rounds.py --questions 200 --loop 12

Plays leader + team over T rounds with one small vLLM model as every player, three times: by eval/evaluate.py's own code
(rendering, judging, storing and writing included), by `vllm.LLM.generate` on the same prompts with nothing around it,
and by asking question after question, message after message, as multi-agent scripts do. Same model, same process.
Prints one JSON object; the targets are 0.9 of the bare engine and 5 times the loop. Run it on an idle machine: a tiny
model makes an engine of 0.1 ms a token, and whatever else runs is seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eval.evaluate import evaluate
from eval.play.calls import Models
from eval.play.methods import Config
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player, leader_team


def questions(n: int) -> list[Question]:
    questions = []
    for i in range(n):
        words = ["not"] * (i % 3) + ["True", "and" if i % 2 else "or", "False"] * (1 + i % 4) + ["is"]
        gold = "True" if i % 2 else "False"
        questions.append(Question(f"q{i}", "bbh", " ".join(words), gold, "boolean_expressions"))
    return questions


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="", help="model folder (default: a tiny random one)")
    p.add_argument("--questions", type=int, default=200)
    p.add_argument("--loop", type=int, default=12, help="questions of the one-by-one loop (default %(default)s)")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--max_new_tokens", type=int, default=32)
    p.add_argument(
        "--repeats", type=int, default=6, help="bare and batched take turns this often; the best of each counts"
    )
    args = p.parse_args()

    from openrlhf_mlpo.engines import Sampling, make_engine

    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if not model:
            from tests.tiny import make_tiny_model

            model = str(make_tiny_model(Path(folder) / "model"))
        engine = make_engine(model)
        sampling = Sampling(temperature=1.0, max_tokens=args.max_new_tokens)
        template = load_template("compact")
        renderer = PromptRenderer(engine.tokenizer, template, engine.max_model_len - args.max_new_tokens)
        requests: list[tuple[list, int]] = []

        class Listening:
            """The engine, noting what it is asked; never closed by an evaluation."""

            def generate(self, conversations, *, n, seed, sampling, on_done=None):
                requests.append((list(conversations), seed))
                return engine.generate(conversations, n=n, seed=seed, sampling=sampling, on_done=on_done)

            def close(self):
                pass

        def players(models: Models) -> tuple[list[Player], Player]:
            made = {
                name: Player(
                    name,
                    models.generate(name, Listening, {"model": model, "name": name}, sampling),
                    tokenizer=engine.tokenizer,
                    max_prompt_tokens=renderer.max_prompt_tokens,
                )
                for name in ("a", "b", "c", "leader")
            }
            made["leader"].renderer = renderer
            return [made[name] for name in "abc"], made["leader"]

        rows = questions(args.questions)
        config = Config(methods=("leader_team",), rounds=args.rounds, template=template)

        def batched(store: Path) -> float:
            requests.clear()
            start = time.perf_counter()
            with Models(store, progress=False) as models:
                team, leader = players(models)
                evaluate(config, team, [leader], rows, store.parent / (store.name + "-out"))
            return time.perf_counter() - start

        from vllm import SamplingParams

        from openrlhf_mlpo.engines.base import seed_of

        def bare() -> tuple[float, float, int]:
            calls = []
            for conversations, seed in requests:
                texts = [
                    c
                    if isinstance(c, str)
                    else engine.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True)
                    for c in conversations
                ]
                params = [
                    SamplingParams(temperature=1.0, max_tokens=args.max_new_tokens, seed=seed_of(seed, i, c))
                    for i, c in enumerate(conversations)
                ]
                calls.append((texts, params))
            tokens, start, begun = 0, time.perf_counter(), time.process_time()
            for texts, params in calls:
                outputs = engine._llm.generate(texts, params, use_tqdm=False)
                tokens += sum(len(output.outputs[0].token_ids) for output in outputs)
            return begun, time.perf_counter() - start, tokens

        batched(Path(folder) / "warm")
        times: dict[str, list[float]] = {"batched": [], "bare": []}
        cpu: dict[str, list[float]] = {"batched": [], "bare": []}  # less disturbed by other programs; on a CPU only
        for repeat in range(args.repeats):
            order = ("batched", "bare") if repeat % 2 else ("bare", "batched")  # neither is always the second
            for name in order:
                begun = time.process_time()
                if name == "batched":
                    times[name].append(batched(Path(folder) / f"calls{repeat}"))
                else:
                    begun, seconds, tokens = bare()
                    times[name].append(seconds)
                cpu[name].append(time.process_time() - begun)
        with Models(None, progress=False) as models:
            team, leader = players(models)
            start = time.perf_counter()
            for row in rows[: args.loop]:
                leader_team(team, [leader], [row], template, rounds=args.rounds)
            loop = (time.perf_counter() - start) / args.loop * len(rows)
        engine.close()

    best = {name: min(values) for name, values in times.items()}
    found = {
        "questions": len(rows),
        "generations": len(rows) * args.rounds * 4,
        "tokens_generated": tokens,
        "seconds": {
            **{name: [round(v, 2) for v in values] for name, values in times.items()},
            "loop (from a part)": round(loop, 2),
        },
        "batched_to_bare": round(best["bare"] / best["batched"], 3),
        "batched_to_bare_cpu_time": round(min(cpu["bare"]) / min(cpu["batched"]), 3),
        "batched_to_bare_by_pair": [round(b / a, 3) for a, b in zip(times["batched"], times["bare"], strict=True)],
        "batched_to_loop": round(loop / best["batched"], 1),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
