"""What a training step of train_mlpo_ray costs beside stock train_ppo_ray: the update, its bound, and whole steps.

    python3 -m tests.benchmarks.bench_step update table whole rounds samples

`update`  OpenRLHF's `make_experience` and `ppo_train` on the same samples, by its own workers and ours in turn,
          with a toy model and with one of 10 million parameters at P = 1,024, R = 128, G = 8.
`table`   forward and backward of one group in one process, against the bound (P + G R) / (G (P + R)).
`whole`   whole runs with engines, in turn: stock gets the leader prompts as plain text from a file, ours renders them
          from a pool. The model is untrained: nearly every response has the full length, and all steps are alike.
`rounds`  whole runs with `--mlpo.rounds 2` and with 1, in turn, as many leader outputs a step; the team answers at once
          (Python functions), so that what is left is what rounds themselves cost. Steps are those of
          recipes/claims_cpu.sh: 32 groups of 8 outputs, of up to 80 tokens. With `--of DIR`, the folder of such a run,
          they are steps of its warm-started leader on its pool, so that prompts and outputs are as long as there.
`samples` whole runs with `--mlpo.log_samples` at its default and with 0, in turn.

Times are medians; of a run or worker the first two steps do not count. Prints one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from openrlhf_mlpo import cpu  # noqa: E402

if cpu.use_cpu():
    cpu.activate()

from tests.conftest import ROOT  # noqa: E402
from tests.small import AGENTS, make_rows, write_pool  # noqa: E402
from tests.stack import MLPO, REWARD, STOCK, finish, start  # noqa: E402
from tests.tiny import make_tiny_model  # noqa: E402

PROMPTS_A_STEP = 32
PARTS = ("timing/generation", "timing/make_experience", "timing/ppo_train", "timing/broadcast")
# A toy leader, and one of 10 million parameters.
TOY = dict(vocab_size=320, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192)
TEN_MILLION = dict(vocab_size=4096, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=768)
# name: model, prompts a step, tokens of a prompt and of an output (from, to), group, micro batch
SHAPES = {
    "toy": (TOY, 32, (130, 300), (40, 60), 8, 128),
    "10M, P=1024, R=128": (TEN_MILLION, 2, (1024, 1024), (128, 128), 8, 8),
}


def step_flags(samples: int, tokens: int) -> list[str]:
    """Flags of a step of `PROMPTS_A_STEP` groups of `samples` outputs of at most `tokens` tokens."""
    return [
        *("--rollout.batch_size", str(PROMPTS_A_STEP), "--rollout.n_samples_per_prompt", str(samples)),
        *("--train.batch_size", str(PROMPTS_A_STEP * samples), "--train.micro_batch_size", "32"),
        *("--rollout.max_new_tokens", str(tokens), "--rollout.micro_batch_size", "32", "--train.seed", "42"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("update", "table", "whole", "rounds", "samples"))
    parser.add_argument("--runs", type=int, default=3, help="whole, rounds, samples: runs of each, in turn (default 3)")
    parser.add_argument("--steps", type=int, default=12, help="steps a run or worker (default 12)")
    parser.add_argument("--of", type=Path, help="rounds, samples: folder of a run of claims_cpu.sh, in place of a toy")
    args = parser.parse_args()
    if "update" in args.parts:
        for name in SHAPES:
            print(json.dumps({"update": name, **measure_updates(name, args.steps)}), flush=True)
    if "table" in args.parts:
        for group in (4, 8, 16):
            for ratio in (1, 4, 16):
                print(json.dumps(measure_group(group, ratio, args.steps)), flush=True)
    if "whole" in args.parts:
        print(json.dumps({"whole": "step", **measure_whole_steps(args.runs, args.steps)}), flush=True)
    for part in ("rounds", "samples"):
        if part in args.parts:
            print(json.dumps({part: "step", **measure_variants(part, args.runs, args.steps, args.of)}), flush=True)


def save_model(folder: Path, shape: dict) -> Path:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    heads = shape["num_attention_heads"]
    config = Qwen3Config(**shape, num_key_value_heads=heads, head_dim=32, tie_word_embeddings=True)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    make_tiny_model(folder / "tokenizer")
    for file in (folder / "tokenizer").glob("token*"):
        file.rename(folder / file.name)
    return folder


def measure_updates(name: str, steps: int) -> dict:
    """Seconds of experience and update, and peak memory, of stock and ours."""
    import ray
    from openrlhf.trainer.ray.ppo_actor import PolicyModelActor

    from openrlhf_mlpo.train.seams import plain_class
    from openrlhf_mlpo.train.trainer import MLPOPolicyModelActor
    from tests.train.updates import Updates, make_samples, parse

    shape, prompts, prompt_tokens, output_tokens, group, micro_batch = SHAPES[name]
    rng = random.Random(0)
    flags = f"--rollout.batch_size {prompts} --rollout.n_samples_per_prompt {group} --algo.kl.init_coef 0 "
    flags += f"--train.batch_size {prompts * group} --train.micro_batch_size {micro_batch} --ds.zero_stage 0 "
    flags += f"--rollout.micro_batch_size {micro_batch}"
    seconds: dict[str, list[float]] = {"stock": [], "ours": []}
    processor: dict[str, list[float]] = {"stock": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder) / "model", shape)
        cpu.init_ray()
        workers = {"stock": Updates(1, plain_class(PolicyModelActor)), "ours": Updates(1, MLPOPolicyModelActor)}
        for kind, worker in workers.items():
            worker.begin(parse(model, folder, "--mlpo.share_prompt", "on" if kind == "ours" else "off", flags))
        for step in range(steps):
            lengths = [
                (rng.randint(*prompt_tokens), [rng.randint(*output_tokens) for _ in range(group)])
                for _ in range(prompts)
            ]
            samples = make_samples(lengths, words=shape["vocab_size"], seed=step)
            for kind in ("stock", "ours") if step % 2 == 0 else ("ours", "stock"):
                before, _ = workers[kind].usage()
                metrics = workers[kind].step(samples)
                processor[kind].append(workers[kind].usage()[0] - before)
                seconds[kind].append(metrics["timing/make_experience"] + metrics["timing/ppo_train"])
        result = {f"{kind}_seconds": round(statistics.median(values[2:]), 3) for kind, values in seconds.items()}
        result["ratio"] = round(result["ours_seconds"] / result["stock_seconds"], 3)
        stock, ours = (statistics.median(processor[kind][2:]) for kind in ("stock", "ours"))
        result["ratio_of_processor_seconds"] = round(ours / stock, 3)
        for kind, worker in workers.items():
            result[f"{kind}_peak_GiB"] = round(worker.usage()[1] / 2**30, 2)
        ray.shutdown()
    return result


def measure_group(group: int, ratio: int, steps: int, output: int = 32) -> dict:
    """Processor seconds of forward and backward of one group of the 10 million parameter model, P = `ratio` x R."""
    import torch
    from openrlhf.models import Actor

    from openrlhf_mlpo.train.shared_prompt import SharedPromptActor

    torch.set_num_threads(1)
    prompt = ratio * output
    sequences = torch.randint(TEN_MILLION["vocab_size"], (group, prompt + output))
    sequences[:, :prompt] = sequences[0, :prompt]
    attention = torch.ones_like(sequences)
    action = attention[:, 1:].clone()
    action[:, : prompt - 1] = 0
    with tempfile.TemporaryDirectory() as folder:
        model = str(save_model(Path(folder), TEN_MILLION))
        actors = [kind(model, attn_implementation="sdpa", param_dtype="fp32") for kind in (Actor, SharedPromptActor)]
    seconds: list[list[float]] = [[], []]
    for step in range(steps):
        for number in (0, 1) if step % 2 == 0 else (1, 0):
            began = time.process_time()
            actors[number](sequences, action, attention).mean().backward()
            seconds[number].append(time.process_time() - began)
    stock, ours = (statistics.median(values[2:]) for values in seconds)
    bound = (prompt + group * output) / (group * (prompt + output))
    return {
        "group": group,
        "P/R": ratio,
        "stock_seconds": round(stock, 4),
        "ours_seconds": round(ours, 4),
        "ratio": round(ours / stock, 3),
        "bound": round(bound, 3),
    }


def measure_whole_steps(runs: int, steps_a_run: int) -> dict:
    """OpenRLHF's own `timing/step_total` and its parts, runs with engines in turn."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_tiny_model(folder / "model", hidden=128, max_len=256)
        write_pool(folder / "pool", make_rows(PROMPTS_A_STEP * steps_a_run))
        (folder / "reward.py").write_text(REWARD)
        write_prompts(folder)
        steps: dict[str, list[dict]] = {"stock": [], "ours": []}
        for run in range(runs):
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
    return result


def measure_variants(part: str, runs: int, steps_a_run: int, of: Path | None) -> dict:
    """Steps with a feature against steps without it, in turn."""
    steps: dict[bool, list[dict]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = claims_flags(folder, of) if of else toy_flags(folder, PROMPTS_A_STEP * steps_a_run)
        flags = {False: [], True: []}
        if part == "samples":
            flags[False] = ["--mlpo.log_samples", "0"]
        else:  # with two rounds a step takes half as many new questions, but for the first
            questions = str(PROMPTS_A_STEP // 2 * (steps_a_run + 1))
            flags[True] = ["--mlpo.rounds", "2", "--mlpo.team", f"{folder}/team.yaml", "--data.max_samples", questions]
        for run in range(runs):
            for on in (False, True) if run % 2 else (True, False):
                name = f"{part}{on}{run}"
                limit = ["--data.max_samples", str(PROMPTS_A_STEP * steps_a_run)]
                measured = finish(start(MLPO, folder, name, *shared, *limit, *flags[on]), folder, name)[2:]
                steps[on] += measured
                print(f"{name}: {median(measured):.3f} s a step", file=sys.stderr, flush=True)
    result = {"steps": {("without", "with")[on]: len(values) for on, values in steps.items()}}
    for key in ("timing/step_total", *PARTS):
        result[f"ratio {key}"] = round(median(steps[True], key) / median(steps[False], key), 4)
    return result


def toy_flags(folder: Path, questions: int) -> list[str]:
    """The flags of a run with an untrained leader, a pool of short responses and a team that gives one."""
    make_tiny_model(folder / "model", max_len=256)
    (folder / "reward.py").write_text(REWARD)
    answer = "def answer(messages, *, seed, sampling):\n    return 'i say <answer> True </answer>'\n"
    (folder / "team.py").write_text(answer)
    write_team(folder, AGENTS, folder / "team.py")
    pool = write_pool(folder / "pool", make_rows(questions, samples=2))
    return ["--mlpo.pool", str(pool), "--mlpo.template", "compact", "--mlpo.drop_correct", "2", *step_flags(8, 80)]


def claims_flags(folder: Path, of: Path) -> list[str]:
    """Those of a run with the leader and the pool of a run of claims_cpu.sh, and a team that answers its questions.

    The leader does not learn: all steps are alike.
    """
    (folder / "model").symlink_to((of / "leaders" / "sft").resolve())
    (folder / "reward.py").symlink_to(ROOT / "reward_fns" / "auto_reward.py")
    write_team(folder, ("agent_1", "agent_2", "agent_3"), ROOT / "recipes" / "claims" / "revising_agents.py")
    flags = ["--mlpo.pool", str(of / "pool"), "--mlpo.template", "compact", "--mlpo.drop_correct", "2"]
    flags += [*step_flags(8, 80), "--data.max_len", "544", "--vllm.enable_prefix_caching"]
    return [*flags, "--train.micro_batch_size", "128", "--rollout.micro_batch_size", "128", "--actor.adam.lr", "0"]


def write_team(folder: Path, names: Sequence[str], functions: Path) -> None:
    """A team file of agents that answer by the function `answer` of a file."""
    agents = [{"name": name, "engine": "callable", "model": f"{functions}:answer"} for name in names]
    (folder / "team.yaml").write_text(json.dumps({"agents": agents}))


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
    flags = step_flags(samples=4, tokens=32)
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
