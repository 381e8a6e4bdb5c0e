"""Micro batches that hold the samples of one prompt together, for `openrlhf_mlpo.train.shared_prompt`.

OpenRLHF shuffles single samples before an update, and with dynamic batches spreads them by length over micro batches
and ranks. Here groups take the place of samples, recognised by their prompts' tokens; the number of samples of a micro
batch, of a rank and of an optimizer step stays OpenRLHF's, and where a group does not fit it is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest

import openrlhf.trainer.ppo_trainer as ppo_trainer
import torch
from openrlhf.trainer.ppo_utils.experience import Experience, make_experience_batch, split_experience_batch
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer
from openrlhf.utils.seqlen_balancing import get_minimum_num_micro_batch_size, get_seqlen_balanced_partitions

from openrlhf_mlpo.train.shared_prompt import by_prompt, prompt_and_output

# A sample as its prompt and the number of its output's tokens.
Sample = tuple[tuple[int, ...], int]


def sizes(sample: Experience) -> Sample:
    """The prompt's tokens and the output's length of an experience of one sample, (T,) or (1, T)."""
    fields = (sample.sequences, sample.attention_mask, sample.action_mask)
    prompt, output, _ = prompt_and_output(*(tensor.flatten() for tensor in fields))
    return prompt, len(output)


def row_length(samples: Sequence[Sample], group: Sequence[int]) -> int:
    """Tokens that samples of one prompt take when it is computed once."""
    return len(samples[group[0]][0]) - 1 + sum(samples[index][1] for index in group)


def token_batches(samples: Sequence[Sample], limit: int, *, multiple: int = 1, least: int = 1) -> list[list[int]]:
    """Indices of samples by micro batch: about `limit` tokens each, groups whole where they fit.

    Their number is rounded down to a multiple of `multiple`, as in OpenRLHF, and is at least `least`.
    """
    pieces = []
    for group in by_prompt([prompt for prompt, _ in samples]):
        piece: list[int] = []
        for index in group:
            if piece and row_length(samples, [*piece, index]) > limit:
                pieces.append(piece)
                piece = []
            piece.append(index)
        pieces.append(piece)
    needed = get_minimum_num_micro_batch_size([row_length(samples, piece) for piece in pieces], limit, 1, 1)
    count = max(needed // multiple * multiple, multiple, least)
    while len(pieces) < count:
        longest = max(pieces, key=len)
        pieces.remove(longest)
        pieces += [longest[: len(longest) // 2], longest[len(longest) // 2 :]]
    parts = get_seqlen_balanced_partitions([row_length(samples, piece) for piece in pieces], count, False)
    return [[index for number in part for index in pieces[number]] for part in parts]


class PromptReplayBuffer(NaiveReplayBuffer):
    """OpenRLHF's buffer, handing out samples of one prompt in units.

    A unit has as many samples as divide a micro batch and are no more than a group's `group_size`, so that the update's
    shuffled loader puts whole units in each micro batch and leaves its number of samples as it is.
    """

    def __init__(self, sample_batch_size: int, group_size: int, dynamic_batch: bool):
        self.unit = max(n for n in range(1, group_size + 1) if sample_batch_size % n == 0)
        self.groups: dict[tuple[int, ...], list[Experience]] = {}
        super().__init__(sample_batch_size // self.unit, dynamic_batch=dynamic_batch)

    @torch.no_grad()
    def append(self, experience: Experience) -> None:
        known = len(self.items)
        super().append(experience)
        for item in self.items[known:]:
            self.groups.setdefault(sizes(item)[0], []).append(item)
        self.items = list(chain.from_iterable(self.groups.values()))

    def clear(self) -> None:
        super().clear()
        self.groups.clear()

    def __len__(self) -> int:
        return super().__len__() if self.dynamic_batch else len(self.items) // self.unit

    def __getitem__(self, idx: int):
        if self.dynamic_batch:
            return super().__getitem__(idx)
        return self.items[idx * self.unit : (idx + 1) * self.unit]

    def collate_fn(self, batch) -> Experience:
        return super().collate_fn(batch if self.dynamic_batch else list(chain.from_iterable(batch)))

    def setup_dynamic_batch(self, strategy) -> None:
        """OpenRLHF's steps and their normalisers, with the samples of each step in micro batches of our own."""
        super().setup_dynamic_batch(strategy)
        steps, batches = [], []
        for indices, last, *totals in zip(
            self.dynamic_indices,
            self.dynamic_optimizer_step,
            self.dynamic_batch_num_tokens,
            self.dynamic_global_batch_size,
        ):
            batches += indices
            if last:
                steps.append((sorted(batches), *totals))
                batches = []
        limit = strategy.args.train.max_tokens_per_gpu
        samples = [[sizes(self.items[index]) for index in indices] for indices, *_ in steps]
        counts = torch.tensor([len(token_batches(step, limit)) for step in samples], device=self.target_device)
        counts = strategy.all_reduce(counts, op="max").tolist() if steps else []  # ranks go through each step together
        self.dynamic_indices, self.dynamic_sample_loss_scale, self.dynamic_optimizer_step = [], [], []
        self.dynamic_batch_num_tokens, self.dynamic_global_batch_size = [], []
        for (indices, tokens, size), step, count in zip(steps, samples, counts):
            parts = token_batches(step, limit, least=count)
            self.dynamic_indices += [[indices[place] for place in part] for part in parts]
            self.dynamic_sample_loss_scale += [len(part) / len(indices) for part in parts]
            self.dynamic_optimizer_step += [0] * (len(parts) - 1) + [1]
            self.dynamic_batch_num_tokens += [tokens] * len(parts)
            self.dynamic_global_batch_size += [size] * len(parts)


class PromptExperienceMaker(RemoteExperienceMaker):
    """OpenRLHF's experience maker; its dynamic batches hold groups. Its others keep the order of samples anyway."""

    def split_rollout_samples(self, rollout_samples):
        if not self.args.train.dynamic_batch_enable:
            return super().split_rollout_samples(rollout_samples)
        for index, sample in enumerate(rollout_samples):
            sample.index = [index]
        ranks = self.args.actor.num_nodes * self.args.actor.num_gpus_per_node
        samples = [sizes(sample) for sample in rollout_samples]
        return [
            Experience.concat_experiences([rollout_samples[index] for index in part], self.tokenizer.pad_token_id)
            for part in token_batches(samples, self.args.rollout.max_tokens_per_gpu, multiple=ranks)
        ]


def balance_prompts(experiences: list[Experience], args) -> list[Experience]:
    """OpenRLHF's `balance_experiences` with groups in place of samples: one experience a rank, long and short mixed."""
    items = [item for experience in experiences for item in split_experience_batch(experience)]
    samples = [sizes(item) for item in items]
    ranks = args.actor.num_nodes * args.actor.num_gpus_per_node
    groups = by_prompt([prompt for prompt, _ in samples])
    groups.sort(key=lambda group: row_length(samples, group), reverse=True)
    deals = [groups[i : i + ranks] for i in range(0, len(groups), ranks)]
    half = (len(deals) + 1) // 2
    short = [deal[::-1] for deal in reversed(deals[half:])]
    mixed = list(chain.from_iterable(zip_longest(deals[:half], short, fillvalue=())))
    order = [index for rank in range(ranks) for deal in mixed for group in deal[rank : rank + 1] for index in group]
    size = -(-len(order) // ranks)
    return [
        make_experience_batch([items[i] for i in order[start : start + size]]) for start in range(0, len(order), size)
    ]


def use_prompt_batches(args) -> None:
    """Where prompts are shared, have OpenRLHF's trainer, about to be built in this process, keep groups together."""
    if args.mlpo.share_prompt == "on":
        ppo_trainer.RemoteExperienceMaker = PromptExperienceMaker
        ppo_trainer.balance_experiences = balance_prompts
