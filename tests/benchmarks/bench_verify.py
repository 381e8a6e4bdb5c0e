"""Our verifier against math-verify called directly, TRL's `accuracy_reward` and OpenRLHF's `grade_answer`, one batch.

    python3 -m tests.benchmarks.bench_verify              # about two minutes on 2 cores; --json FILE keeps the numbers

The batch: 128 MATH problems × 8 responses (long thinking, repeats, right answers in several notations, wrong ones).
Golds come from the folder MLPO_REAL_ROWS, else from a built-in list. Ours is called as OpenRLHF does: one sample
a call, prompt + response decoded, from threads. "first" is with empty memories (workers running), "again" the same
batch once more. The others are called in the main thread, where their signals work, on the response alone. Then
1 % of the responses are replaced by hostile ones (ours only: the others' limits do not hold on all of them).
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openrlhf_mlpo.verify import extract_answer, reward, workers
from tests import hostile
from tests.real_rows import FOLDER

BUILT_IN = [
    "42",
    "-7",
    "1,200",
    "3.5",
    "\\frac{3}{4}",
    "2\\sqrt{3}",
    "(1,2)",
    "x^2+1",
    "\\text{even}",
    "12\\pi",
    "105^\\circ",
    "0",
    "1-12i",
]
WORDS = "so we let the value of x be given by this sum and then it follows that both sides must agree, hence".split()
Sample = tuple[str, str, str]  # prompt, response, gold


def golds(count: int, rng: random.Random) -> list[str]:
    """Gold answers of `count` problems."""
    answers: list[str] = []
    for name in ("math_train_sample.jsonl", "math_test_sample.jsonl"):
        if (FOLDER / name).exists():
            answers += [json.loads(line)["answer"] for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]
    return rng.sample(answers, count) if len(answers) >= count else rng.choices(BUILT_IN, k=count)


def _prose(rng: random.Random, words: int) -> str:
    return " ".join(
        rng.choice(WORDS) if rng.random() < 0.9 else f"$x_{{{rng.randint(1, 9)}}} = {rng.randint(1, 99)}$"
        for _ in range(words)
    )


def _right(gold: str, rng: random.Random) -> str:
    spaced = gold.replace(", ", ",") if "!" not in gold else gold
    return rng.choice([gold] * 5 + [f"${gold}$", gold.replace("\\frac", "\\dfrac"), spaced])


def _wrong(gold: str, others: list[str], rng: random.Random) -> str:
    digits = [place for place, char in enumerate(gold) if char.isdigit()]
    if not digits or rng.random() < 0.3:
        return rng.choice(others)
    place = rng.choice(digits)
    return gold[:place] + str((int(gold[place]) + rng.randint(1, 8)) % 10 or 3) + gold[place + 1 :]


def batch(problems: int, samples: int, seed: int) -> list[Sample]:
    """The responses without hostile ones; wrong answers repeat among a problem's samples, as a policy's do."""
    rng = random.Random(seed)
    all_golds = golds(problems, rng)
    found: list[Sample] = []
    for gold in all_golds:
        prompt = _prose(rng, 900) + " agent 1 : \\boxed{17} agent 2 : <answer>17</answer>\n"
        wrong = [_wrong(gold, all_golds, rng) for _ in range(3)]
        skill = rng.random()
        for _ in range(samples):
            answer = _right(gold, rng) if rng.random() < skill else rng.choice(wrong)
            form = "</think>\n<answer>{}</answer>" if rng.random() < 0.8 else "</think> The answer is $\\boxed{{{}}}$."
            found.append((prompt, "<think>" + _prose(rng, rng.randint(150, 500)) + form.format(answer), gold))
    rng.shuffle(found)
    return found


def timed(
    function: Callable[[Sample], float], samples: list[Sample], threads: int = 0
) -> tuple[list[float], list[float], float]:
    """Verdicts, seconds of each call, seconds of all."""
    times = [0.0] * len(samples)

    def call(index: int) -> float:
        start = time.perf_counter()
        verdict = function(samples[index])
        times[index] = time.perf_counter() - start
        return verdict

    start = time.perf_counter()
    if threads:
        with ThreadPoolExecutor(threads) as executor:
            verdicts = list(executor.map(call, range(len(samples))))
    else:
        verdicts = [call(index) for index in range(len(samples))]
    return verdicts, times, time.perf_counter() - start


def ours(sample: Sample) -> float:
    """As OpenRLHF calls it."""
    prompt, response, gold = sample
    return reward([prompt + response + "<|im_end|>"], [prompt], [gold], task="math")["scores"]


def math_verify(sample: Sample) -> float:
    """math-verify with its time limits, on the bare extracted answer."""
    from math_verify import parse, verify

    answer = extract_answer(sample[1])
    return float(answer is not None and verify(parse(f"${sample[2]}$"), parse(f"${answer}$")))


def trl(sample: Sample) -> float:
    """TRL's reward function, on the response with its answer in a box, which is the form it looks for."""
    from trl.rewards import accuracy_reward

    text = sample[1].replace("<answer>", "$\\boxed{").replace("</answer>", "}$")
    return float(accuracy_reward([[{"role": "assistant", "content": text}]], [f"${sample[2]}$"])[0] or 0.0)


def openrlhf(sample: Sample) -> float:
    """OpenRLHF's string and sympy comparison, on the bare extracted answer."""
    from openrlhf.utils.math_utils import grade_answer

    answer = extract_answer(sample[1])
    return float(answer is not None and grade_answer(answer, sample[2]))


def main() -> None:
    """Run everything and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=128, help="problems in the batch (default 128)")
    parser.add_argument("--samples", type=int, default=8, help="responses to each (default 8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default=None, help="also write the numbers here")
    args = parser.parse_args()
    logging.disable(logging.ERROR)
    samples = batch(args.problems, args.samples, args.seed)
    workers.start()
    workers.run("parses", "x")
    workers.run("parses", "x", expensive=True)
    time.sleep(2)  # let all workers come up
    results: dict[str, dict[str, float]] = {}

    def report(name: str, outcome: tuple[list[float], list[float], float]) -> list[float]:
        verdicts, times, total = outcome
        cuts = statistics.quantiles([1e3 * value for value in times], n=100)
        results[name] = {
            "per_s": len(times) / total,
            "p50_ms": cuts[49],
            "p99_ms": cuts[98],
            "max_ms": 1e3 * max(times),
        }
        return verdicts

    hostile.forget()
    one = report("ours, 1 thread, first", timed(ours, samples))
    report("ours, 1 thread, again", timed(ours, samples))
    hostile.forget()
    report("ours, 64 threads, first", timed(ours, samples, 64))
    report("ours, 64 threads, again", timed(ours, samples, 64))

    rng = random.Random(args.seed)
    bad = rng.sample(hostile.heavy_math() + hostile.long_or_deep(), max(1, len(samples) // 100))
    places = rng.sample(range(len(samples)), len(bad))
    mixed = list(samples)
    for place, answer in zip(places, bad, strict=True):
        mixed[place] = (*samples[place][:1], hostile.block(answer), samples[place][2])
    hostile.forget()
    verdicts, times, total = timed(ours, mixed, 64)
    report("ours, 64 threads, 1 % hostile", (verdicts, times, total))
    wrong = sum(verdicts[i] != one[i] for i in range(len(samples)) if i not in places) + sum(
        verdicts[i] for i in places
    )
    hostile.forget()
    finished: list[float] = []

    def others(index: int) -> None:
        ours(mixed[index])
        if index not in places:
            finished.append(time.perf_counter())

    start = time.perf_counter()
    with ThreadPoolExecutor(64) as executor:
        list(executor.map(others, range(len(mixed))))
    results["ours, 64 threads, the other 99 %"] = {"per_s": len(finished) / (max(finished) - start)}

    truth = report("math-verify", timed(math_verify, samples))
    results["ours, 1 thread, first"]["agreement"] = statistics.mean(a == b for a, b in zip(one, truth, strict=True))
    for name, function in (("TRL accuracy_reward", trl), ("OpenRLHF grade_answer", openrlhf)):
        try:
            function(samples[0])
        except ImportError as error:
            print(f"skipped {name}: {error}")
            continue
        verdicts = report(name, timed(function, samples))
        results[name]["agreement"] = statistics.mean(a == b for a, b in zip(verdicts, truth, strict=True))
    for place, (a, b) in enumerate(zip(one, truth, strict=True)):
        if a != b:
            answer = extract_answer(samples[place][1])
            print(f"differs: gold {samples[place][2]!r} answer {answer!r}: ours {a}, math-verify {b}")

    print(
        f"{len(samples)} responses, {statistics.mean(truth):.0%} right; time limit {workers.time_limit()} s; "
        f"{len(bad)} hostile, {wrong:.0f} wrong verdicts"
    )
    print("| | responses/s | p50 ms | p99 ms | max ms | agreement |\n| --- | --- | --- | --- | --- | --- |")
    for name, row in results.items():
        cells = [f"{row[key]:,.{digits}f}" if key in row else "" for key, digits in
                 (("per_s", 0), ("p50_ms", 2), ("p99_ms", 2), ("max_ms", 0), ("agreement", 4))]  # fmt: skip
        print(f"| {name} | " + " | ".join(cells) + " |")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
