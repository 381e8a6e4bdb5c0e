"""Rendered and budgeted leader prompts a second, beside OpenRLHF's own PromptDataset on the same texts.

    python3 -m tests.benchmarks.bench_prompts --questions 2000

OpenRLHF renders every prompt up front and cuts nothing; `TeamPromptDataset` draws, renders and fits when asked. The
ratio is what counts. `--long` gives the agents responses that have to be cut.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from openrlhf_mlpo import cpu  # noqa: E402

if cpu.use_cpu():
    cpu.activate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2000, help="questions in the pool (default 2000)")
    parser.add_argument("--long", action="store_true", help="responses of some 400 tokens, to be cut")
    args = parser.parse_args()
    from datasets import Dataset
    from openrlhf.datasets import PromptDataset
    from transformers import AutoTokenizer

    from openrlhf_mlpo.dataset import TeamPromptDataset
    from openrlhf_mlpo.pool import open_pool
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
                pool="pool", template="compact", team_size=0, solo_fraction=0, show="full", drop_correct=2
            ),
            data=SimpleNamespace(max_len=1024, input_key="input", label_key="label", apply_chat_template=True),
            rollout=SimpleNamespace(max_new_tokens=512),
            train=SimpleNamespace(seed=0),
            eval=SimpleNamespace(dataset=None),
        )
        strategy = SimpleNamespace(args=settings, is_rank_0=lambda: False)
        start = time.perf_counter()
        ours = TeamPromptDataset(open_pool(folder / "pool"), tokenizer, strategy)
        prompts = [ours[i][1] for i in range(len(ours))]
        ours_seconds = time.perf_counter() - start
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
                "openrlhf_per_second": round(len(prompts) / stock_seconds),
                "ratio": round(stock_seconds / ours_seconds, 2),
                "same_text": prompts == stock_prompts,
            }
        )
    )


if __name__ == "__main__":
    main()
