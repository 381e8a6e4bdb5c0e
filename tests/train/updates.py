"""OpenRLHF's training side without engines: Ray workers for policy and reference, fed with samples made elsewhere.

`Updates` builds what `train_ppo_ray` builds behind its rollouts and calls `BasePPOTrainer.train_step`. So two ways to
train see exactly the same samples, and a step's time is that of the training side alone.
"""

from __future__ import annotations

import random
import resource
from pathlib import Path
from types import SimpleNamespace

from openrlhf_mlpo import cpu

cpu.activate() if cpu.use_cpu() else None

import ray  # noqa: E402
from openrlhf.trainer.ppo_trainer import BasePPOTrainer  # noqa: E402
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator  # noqa: E402
from openrlhf.trainer.ray.launcher import RayActorGroup  # noqa: E402
from openrlhf.utils import get_strategy  # noqa: E402

from openrlhf_mlpo.preflight.commands import run_main  # noqa: E402
from openrlhf_mlpo.train import flags as train_flags  # noqa: E402
from openrlhf_mlpo.train import seams  # noqa: E402
from openrlhf_mlpo.train.prompt_batches import use_prompt_batches  # noqa: E402

FLAGS = (
    "--mlpo.pool pool --mlpo.loss_norm token-mean --reward.remote_url reward_fns/auto_reward.py --vllm.num_engines 1 "
    "--data.max_len 4096 --rollout.max_new_tokens 512 --actor.adam.lr 1e-3 --train.seed 3"
)


def parse(model: Path | str, out: Path | str, *flags: str):
    """What `train_mlpo_ray` makes of its flags: its arguments, nested, with both programs' checks passed."""
    command = [FLAGS, "--actor.model_name_or_path", str(model), "--ckpt.output_dir", str(out), *flags]
    checks = [train_flags.check_arguments, lambda _, parsed: cpu.check_arguments(vars(parsed))]
    extend = [cpu.extend_parser, train_flags.add_arguments]
    return run_main(seams.TRAIN_MODULE, " ".join(command).split(), extend, checks)


def make_samples(groups, *, words: int, seed: int = 0) -> list[dict]:
    """Responses as an engine hands them to OpenRLHF, of random tokens and rewards.

    `groups`: (tokens of the prompt, tokens of each output) per prompt.
    """
    rng = random.Random(seed)
    samples = []
    for number, (length, outputs) in enumerate(groups):
        prompt = [rng.randrange(words) for _ in range(length)]
        for size in outputs:
            reward = rng.random()
            samples.append(
                {
                    "prompt": f"question {number}",
                    "label": "{}",
                    "observation_tokens": prompt + [rng.randrange(words) for _ in range(size)],
                    "action_ranges": [(length, length + size)],
                    "rollout_log_probs": None,
                    "reward": reward,
                    "scores": reward,
                    "extra_logs": {},
                }
            )
    return samples


def _measured(worker: type):
    """A Ray actor class of a worker that also tells what it has used."""

    class Measured(worker):
        def usage(self) -> tuple[float, int]:
            used = resource.getrusage(resource.RUSAGE_SELF)
            return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024

    return ray.remote(num_gpus=1)(Measured)


class Updates:
    """A trainer in this process and its workers, which can begin again with other flags: importing takes them longest.

    `policy` and `reference` are the workers' classes, OpenRLHF's own or ours.
    """

    def __init__(self, ranks: int, policy: type, reference: type | None = None):
        self.policy = RayActorGroup(1, ranks, _measured(policy))
        self.reference = RayActorGroup(1, ranks, ray.remote(num_gpus=1)(reference)) if reference else None

    def begin(self, args) -> None:
        """Load the models and build the trainer as `train()` does for these arguments."""
        strategy, model = get_strategy(args), args.actor.model_name_or_path
        waiting = self.policy.async_init_model_from_pretrained(strategy, model, 100, None)
        if self.reference:
            waiting += self.reference.async_init_model_from_pretrained(strategy, model)
        ray.get(waiting)
        use_prompt_batches(args)
        tokenizer = SimpleNamespace(pad_token_id=0, decode=lambda *_, **__: [""])
        self.trainer = BasePPOTrainer(strategy, self.policy, None, None, self.reference, None, tokenizer)
        self.done = 0

    def step(self, samples: list[dict]) -> dict[str, float]:
        """One rollout batch's experience and update; what OpenRLHF logs of it, its times among that."""
        rollouts = [SamplesGenerator._process_response_into_experience(None, s, max_len=10**6) for s in samples]
        status, self.done = self.trainer.train_step(rollouts, self.done)
        return {name: float(value) for name, value in status.items() if isinstance(value, (int, float))}

    def save(self) -> None:
        ray.get(self.policy.async_save_model())

    def usage(self) -> tuple[float, int]:
        """Processor seconds of all policy workers so far, and the most resident memory that one has had, in bytes."""
        seconds, memory = zip(*ray.get(self.policy.async_run_method("usage")))
        return sum(seconds), max(memory)
