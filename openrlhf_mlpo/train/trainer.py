"""MLPO in OpenRLHF's trainers: Dr. GRPO's loss normaliser, draws that follow the episode, leader-team metrics.

Everything else (rollouts, advantages `R - mean(R)`, clipping, KL, checkpoints, logging) is OpenRLHF's own. Each class
here extends the OpenRLHF class of the same role; `register` and `use_team_data` put them in place.
"""

from __future__ import annotations

import random
import shutil
from functools import cached_property
from itertools import chain
from typing import Any

import openrlhf.trainer.ppo_trainer as ppo_trainer
import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
import openrlhf.trainer.ray.launcher as launcher
import openrlhf.trainer.ray.ppo_actor as ppo_actor
import ray
import transformers
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.utils.loss_utils import get_loss_batch_info

from openrlhf_mlpo.train import seams
from openrlhf_mlpo.train.dataset import TeamPromptDataset
from openrlhf_mlpo.train.lora import merged_actor
from openrlhf_mlpo.train.metrics import LeaderMetrics
from openrlhf_mlpo.train.prompt_batches import PromptReplayBuffer, use_prompt_batches
from openrlhf_mlpo.train.rounds import LaterRounds, RoundsLoader, steps_of_all_rounds
from openrlhf_mlpo.train.shared_prompt import actor_class


class MLPOActorTrainer(ppo_actor.ActorPPOTrainer):
    """The policy update, with `--mlpo.loss_norm constant` dividing by samples x length instead of by tokens."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.mlpo.share_prompt == "on":
            self.replay_buffer = PromptReplayBuffer(
                self.micro_train_batch_size,
                self.args.rollout.n_samples_per_prompt,
                self.args.train.dynamic_batch_enable,
            )

    def training_step(self, experience, kl_ctl, step, loss_batch_info=None):
        if self.args.train.dynamic_batch_enable:
            # OpenRLHF lets DeepSpeed take each micro batch for a step: ZeRO 1 and 2 then keep the last one only.
            engine: Any = self.actor.model
            engine.set_gradient_accumulation_boundary(bool(self.replay_buffer.dynamic_optimizer_step[step]))
        if self.args.mlpo.loss_norm == "constant":
            if loss_batch_info is None:  # OpenRLHF computes it inside training_step with dynamic batches
                loss_batch_info = get_loss_batch_info(
                    self.strategy,
                    experience.action_mask,
                    replay_buffer=self.replay_buffer,
                    step=step,
                    dynamic_batch=self.args.train.dynamic_batch_enable,
                )
            loss_batch_info = constant_loss_norm(loss_batch_info, self.args.rollout.max_new_tokens)
        return super().training_step(experience, kl_ctl, step, loss_batch_info)

    def broadcast_to_vllm(self):
        """Send vLLM the new weights; of a LoRA leader the merged ones, which OpenRLHF 0.11.2 cannot do."""
        actor = self.actor
        try:
            if self.args.ds.lora.rank:
                self.actor = merged_actor(actor)
            super().broadcast_to_vllm()
        finally:
            self.actor = actor


def constant_loss_norm(loss_batch_info: dict, length: int) -> dict:
    """Dr. GRPO's normaliser for OpenRLHF's `aggregate_loss`: number of samples in the optimizer step x `length`.

    GRPO's division by each response's own length favours long wrong and short right answers; dividing by a constant
    (here the longest response allowed) removes that (Liu et al., "Understanding R1-Zero-Like Training", 2503.20783,
    section 3). `aggregate_loss` divides the masked sum over tokens by `batch_num_tokens`; OpenRLHF has already taken
    gradient accumulation and data-parallel ranks into `global_batch_size`, so both hold for the product as well.
    """
    return {**loss_batch_info, "batch_num_tokens": loss_batch_info["global_batch_size"] * length}


class MLPOSamplesGenerator(SamplesGenerator):
    """Rollouts whose prompts are drawn again in each episode, and the same again after a resume.

    The episode is counted from the prompts consumed, which checkpoints hold, and not from OpenRLHF's loop, which may
    come to the end of a pass only when it finds nothing left.
    """

    prompts_consumed = 0
    _evaluating = False

    def generate_eval_samples(self, **generate_kwargs):
        self._evaluating = True
        try:
            return super().generate_eval_samples(**generate_kwargs)
        finally:
            self._evaluating = False

    def _generate_vllm(self, dataloader_iter, num_prompts, dynamic_filtering, **generate_kwargs):
        """A batch of groups; with `--mlpo.rounds` above 1 groups of all rounds, in mixed order.

        Those of later rounds follow from the batch before, so the leader answers all prompts of a batch at once. Only
        prompts of round 0 count as consumed: so episodes, checkpoints and resuming keep their meaning.
        """
        generate = super()._generate_vllm
        if self.args.mlpo.rounds == 1 or self._evaluating:
            return generate(dataloader_iter, num_prompts, dynamic_filtering, **generate_kwargs)
        first = next(dataloader_iter, None)
        if first is None:  # carried outputs wait for the next episode
            return [], 0, True
        later = self.later_rounds.prompts()[: num_prompts - 1]  # fewer when resumed with smaller batches
        prompts = chain(later, [first], dataloader_iter)
        experiences, consumed, exhausted = generate(prompts, num_prompts, dynamic_filtering, **generate_kwargs)
        consumed -= len(later)
        n = self.args.rollout.n_samples_per_prompt
        groups = [experiences[i : i + n] for i in range(0, len(experiences), n)]
        groups.sort(key=lambda group: (group[0].prompts[0], group[0].labels[0]))  # not as engines happened to answer
        rng = random.Random(f"{self.args.train.seed}:{self.prompts_consumed}")
        last = self.prompts_consumed + consumed >= len(self.prompts_dataloader.dataset) * self.args.train.num_episodes
        self.later_rounds.carry([] if last else groups, num_prompts, rng)
        rng.shuffle(groups)
        return list(chain.from_iterable(groups)), consumed, exhausted

    @cached_property
    def later_rounds(self) -> LaterRounds:
        """What is carried from batch to batch."""
        return LaterRounds(self.args, self.prompts_dataloader.dataset, self.tokenizer)

    def resumable(self, loader):
        """The prompt loader whose state checkpoints are to hold."""
        return loader if self.args.mlpo.rounds == 1 else RoundsLoader(loader, self.later_rounds)

    def generate_samples(self, **generate_kwargs):
        dataset = self.prompts_dataloader.dataset
        if getattr(self, "_dataloader_iter", None) is None:
            dataset.set_episode(self.prompts_consumed // max(len(dataset), 1))
        result = super().generate_samples(**generate_kwargs)
        self.prompts_consumed += result[2]
        return result


class ResumesEpisode(ppo_trainer.BasePPOTrainer):
    """Goes on with the next episode when a checkpoint was made at the end of one."""

    def init_checkpoint_states(self):
        states = super().init_checkpoint_states()
        # The number saved is that of the pass that ended; OpenRLHF would run all of it again.
        states["episode"] += bool(states["data_loader_state_dict"].get("_iterator_finished"))
        return states


class MLPOTrainer(LeaderMetrics, ResumesEpisode, seams.plain_class(ppo_trainer.PPOTrainer)):
    """OpenRLHF's synchronous trainer on a pool."""

    def __init__(self, pretrain, strategy, *args, **kwargs):
        use_team_data(strategy.args)
        use_prompt_batches(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)
        self.prompts_dataloader = self.samples_generator.resumable(self.prompts_dataloader)

    def get_max_steps(self):
        """Steps that the learning-rate schedule counts on: with rounds an episode has more groups than prompts."""
        return steps_of_all_rounds(super().get_max_steps(), self.args)

    def init_checkpoint_states(self):
        states = super().init_checkpoint_states()
        self.samples_generator.prompts_consumed = states["total_consumed_prompts"]
        return states


class MLPOGenerateSamplesActor(seams.plain_class(ppo_trainer_async.GenerateSamplesActor)):
    """OpenRLHF's asynchronous rollout side on a pool."""

    def __init__(self, pretrain, strategy, *args, **kwargs):
        use_team_data(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)
        self.prompts_dataloader = self.samples_generator.resumable(self.prompts_dataloader)

    def get_max_steps(self):
        """See `MLPOTrainer.get_max_steps`."""
        return steps_of_all_rounds(super().get_max_steps(), self.args)

    def _should_eval(self, global_step):
        """Wait for the team, as this is called before vLLM is locked for a batch: new weights need not wait with it."""
        if self.args.mlpo.rounds > 1:
            self.samples_generator.later_rounds.revisions()
        return super()._should_eval(global_step)

    def fit(self, episode, total_consumed_prompts):
        self.samples_generator.prompts_consumed = total_consumed_prompts
        return super().fit(episode, total_consumed_prompts)


class MLPOTrainingActor(LeaderMetrics, ResumesEpisode, seams.plain_class(ppo_trainer_async.TrainingActor)):
    """OpenRLHF's asynchronous training side, with leader-team metrics."""

    def __init__(self, pretrain, strategy, *args, **kwargs):
        use_prompt_batches(strategy.args)
        super().__init__(pretrain, strategy, *args, **kwargs)


class MLPOTrainerAsync(seams.plain_class(ppo_trainer_async.PPOTrainerAsync)):
    """OpenRLHF's asynchronous trainer on a pool."""

    def __init__(self, *args, **kwargs):
        ppo_trainer_async.GenerateSamplesActor = ray.remote(MLPOGenerateSamplesActor)
        ppo_trainer_async.TrainingActor = ray.remote(MLPOTrainingActor)
        super().__init__(*args, **kwargs)


class MLPOPolicyModelActor(seams.plain_class(ppo_actor.PolicyModelActor)):
    """OpenRLHF's policy worker with MLPO's policy update."""

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        ppo_actor.ActorPPOTrainer = MLPOActorTrainer
        ppo_actor.Actor = actor_class(strategy.args)
        return super().init_model_from_pretrained(strategy, *args, **kwargs)

    def save_checkpoint(self, *args, **kwargs):
        """Save; where that fails say what to do, as PyTorch's own words for a full disk are "unexpected pos"."""
        try:
            return super().save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError) as error:
            path = self.strategy.args.ckpt.path
            free = shutil.disk_usage(path).free / 2**30
            raise RuntimeError(
                f"saving a checkpoint to {path} failed, where {free:.1f} GiB are free; the states saved before are "
                "whole: make room, then start the same command with --ckpt.load_enable"
            ) from error


class MLPOReferenceModelActor(seams.plain_class(launcher.ReferenceModelActor)):
    """OpenRLHF's worker with the reference model, which computes prompts as the policy worker does."""

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        launcher.Actor = actor_class(strategy.args)
        return super().init_model_from_pretrained(strategy, *args, **kwargs)


def register() -> None:
    """Have OpenRLHF's entry point start these trainers and workers, in the driver process."""
    seams.register(MLPOTrainer, MLPOTrainerAsync, MLPOPolicyModelActor, MLPOReferenceModelActor)


def use_team_data(args) -> None:
    """Have OpenRLHF build team prompts and MLPO rollouts, in the Ray actor that is about to build its datasets."""
    # OpenRLHF leaves this process unseeded; the order of prompts should follow --train.seed.
    transformers.set_seed(args.train.seed)
    seams.register_data(TeamPromptDataset, MLPOSamplesGenerator)
