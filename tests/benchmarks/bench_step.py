"""Step time of train_mlpo_ray beside stock train_ppo_ray: the same rendered prompts, model and flags, runs in turn.

    python3 -m tests.benchmarks.bench_step --runs 3 --steps 12

Stock gets the leader prompts as plain text from a file; ours renders them from a pool as it goes. The model is
untrained, so that nearly every response has the full length and all steps are alike. Compared is OpenRLHF's own
`timing/step_total`, by the median over the steps of all runs but each run's first two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from openrlhf_mlpo import cpu  # noqa: E402

if cpu.use_cpu():
    cpu.activate()

from tests.small import make_rows, write_pool  # noqa: E402
from tests.stack import MLPO, REWARD, STOCK, finish, start  # noqa: E402
from tests.tiny import make_tiny_model  # noqa: E402

PROMPTS_A_STEP, SAMPLES = 32, 4
PARTS = ("timing/generation", "timing/make_experience", "timing/ppo_train", "timing/broadcast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each, in turn (default 3)")
    parser.add_argument("--steps", type=int, default=12, help="steps a run (default 12)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_tiny_model(folder / "model", hidden=128, max_len=256)
        write_pool(folder / "pool", make_rows(PROMPTS_A_STEP * args.steps))
        (folder / "reward.py").write_text(REWARD)
        write_prompts(folder)
        steps: dict[str, list[dict]] = {"stock": [], "ours": []}
        for run in range(args.runs):
            for name in ("stock", "ours") if run % 2 == 0 else ("ours", "stock"):
                steps[name] += measure(folder, name, f"{name}{run}")[2:]
                print(f"run {run} {name}: {median(steps[name]):.3f} s a step so far", file=sys.stderr, flush=True)
    result = {
        "steps_each": len(steps["ours"]),
        "stock_seconds": round(median(steps["stock"]), 4),
        "ours_seconds": round(median(steps["ours"]), 4),
        "ratio": round(median(steps["ours"]) / median(steps["stock"]), 4),
    }
    for part in PARTS:
        result[f"ratio {part}"] = round(median(steps["ours"], part) / median(steps["stock"], part), 4)
    print(json.dumps(result))


def write_prompts(folder: Path) -> None:
    """The very texts that ours will render, for stock: one row a prompt."""
    from transformers import AutoTokenizer

    from openrlhf_mlpo.pool.format import open_pool
    from openrlhf_mlpo.train.dataset import TeamPromptDataset

    settings = SimpleNamespace(
        mlpo=SimpleNamespace(
            pool="pool", template="compact", team_size=0, solo_fraction=0, show="full", drop_correct=2
        ),
        data=SimpleNamespace(max_len=256),
        rollout=SimpleNamespace(max_new_tokens=32),
        train=SimpleNamespace(seed=42),
        eval=SimpleNamespace(dataset=None),
    )
    strategy = SimpleNamespace(args=settings, is_rank_0=lambda: False)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    dataset = TeamPromptDataset(open_pool(folder / "pool"), tokenizer, strategy)
    rows = ({"input": dataset[i][1], "label": dataset[i][2]} for i in range(len(dataset)))
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def measure(folder: Path, name: str, run: str) -> list[dict]:
    """The metrics of every step of one run."""
    flags = [
        *("--rollout.batch_size", str(PROMPTS_A_STEP), "--rollout.n_samples_per_prompt", str(SAMPLES)),
        *("--train.batch_size", str(PROMPTS_A_STEP * SAMPLES), "--train.micro_batch_size", "32"),
        *("--rollout.max_new_tokens", "32", "--rollout.micro_batch_size", "32", "--train.seed", "42"),
    ]
    if name == "ours":
        flags += ["--mlpo.pool", str(folder / "pool"), "--mlpo.template", "compact", "--mlpo.drop_correct", "2"]
        return finish(start(MLPO, folder, run, *flags), folder, run)
    flags += ["--data.prompt_dataset", str(folder / "prompts.jsonl"), "--data.input_key", "input"]
    flags += ["--data.label_key", "label", "--algo.advantage.estimator", "dr_grpo"]
    return finish(start(STOCK, folder, run, *flags), folder, run)


def median(steps: list[dict], key: str = "timing/step_total") -> float:
    return statistics.median(step[key] for step in steps)


if __name__ == "__main__":
    main()
