"""Rendered and budgeted leader prompts a second, beside OpenRLHF's own PromptDataset on the same texts.

    python3 -m tests.benchmarks.bench_prompts --questions 2000

OpenRLHF renders every prompt up front, counts no tokens and cuts nothing; `TeamPromptDataset` draws, renders and fits
when asked. Timed: building the dataset and taking every item, in this process (`ours_per_second`, one core) and in
`--workers` processes at once that take a share each, as data loader workers would (`ours_on_all_per_second`). Opening
the pool is not timed: bench_pool.py does that. `--long` gives the agents responses that have to be cut.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from openrlhf_mlpo import cpu  # noqa: E402

if cpu.use_cpu():
    cpu.activate()


def _take(dataset, indices: range, ready, out) -> None:
    """In a worker process: wait for the others, take the items, tell when that began and ended."""
    dataset[indices[0]]
    ready.wait()
    start = time.perf_counter()
    for index in indices:
        dataset[index]
    out.put((start, time.perf_counter()))


def on_all_cores(dataset, workers: int) -> float:
    """Items a second that `workers` processes take together, from the first one's start to the last one's end."""
    fork = multiprocessing.get_context("fork")  # as the data loader's workers begin
    ready, out = fork.Barrier(workers), fork.Queue()
    shares = [range(number, len(dataset), workers) for number in range(workers)]
    processes = [fork.Process(target=_take, args=(dataset, share, ready, out)) for share in shares]
    for process in processes:
        process.start()
    times = [out.get() for _ in processes]
    for process in processes:
        process.join()
    return len(dataset) / (max(end for _, end in times) - min(start for start, _ in times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2000, help="questions in the pool (default 2000)")
    parser.add_argument("--long", action="store_true", help="responses of some 400 tokens, to be cut")
    parser.add_argument("--workers", type=int, default=2, help="processes of the second figure (default 2)")
    args = parser.parse_args()
    from datasets import Dataset
    from openrlhf.datasets import PromptDataset
    from transformers import AutoTokenizer

    from openrlhf_mlpo.pool.format import open_pool
    from openrlhf_mlpo.train.dataset import TeamPromptDataset
    from tests.small import make_rows, write_pool
    from tests.tiny import make_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(folder / "model"))
        rows = make_rows(args.questions)
        for row in rows:
            for response in row["responses"]:
                response["text"] = ("because I think " * (130 if args.long else 20)) + response["text"]
        write_pool(folder / "pool", rows)
        settings = SimpleNamespace(
            mlpo=SimpleNamespace(
                pool="pool",
                template="compact",
                chat_template_kwargs="",
                team_size="0",
                balance_draws=False,
                solo_fraction=0,
                show="full",
                drop_correct=2,
                drop_long=False,
                rounds=1,
            ),  # fmt: skip
            data=SimpleNamespace(max_len=1024, input_key="input", label_key="label", apply_chat_template=True),
            rollout=SimpleNamespace(max_new_tokens=512),
            train=SimpleNamespace(seed=0),
            eval=SimpleNamespace(dataset=None),
        )
        strategy = SimpleNamespace(args=settings, is_rank_0=lambda: False)
        pool = open_pool(folder / "pool")
        start = time.perf_counter()
        ours = TeamPromptDataset(pool, tokenizer, strategy)
        prompts = [ours[i][1] for i in range(len(ours))]
        ours_seconds = time.perf_counter() - start
        all_cores = on_all_cores(ours, args.workers)
        longest = max(len(ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"])

        contents = [p.split("<|im_start|> user ")[1].split(" <|im_end|>")[0] for p in prompts]
        stock_rows = Dataset.from_dict({"input": contents, "label": [""] * len(contents)})
        start = time.perf_counter()
        stock = PromptDataset(stock_rows, tokenizer, strategy)
        stock_prompts = [stock[i][1] for i in range(len(stock))]
        stock_seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "prompts": len(prompts),
                "longest_tokens": longest,
                "ours_per_second": round(len(prompts) / ours_seconds),
                "ours_on_all_per_second": round(all_cores),
                "workers": args.workers,
                "openrlhf_per_second": round(len(prompts) / stock_seconds),
                "ratio": round(stock_seconds / ours_seconds, 2),
                "same_text": prompts == stock_prompts,
            }
        )
    )


if __name__ == "__main__":
    main()
