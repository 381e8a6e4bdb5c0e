"""Micro batches keep the samples of a prompt together, and leave everything else about a step as it is."""

from collections import Counter
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.utils.data import DataLoader

from openrlhf_mlpo import cpu

cpu.activate() if cpu.use_cpu() else None

from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator  # noqa: E402

from openrlhf_mlpo.train.prompt_batches import (  # noqa: E402
    PromptExperienceMaker,
    PromptReplayBuffer,
    balance_prompts,
    row_length,
    sizes,
    token_batches,
)
from tests.train.updates import make_samples  # noqa: E402

group = st.tuples(st.integers(3, 30), st.lists(st.integers(1, 20), min_size=1, max_size=6))
groups = st.lists(group, min_size=1, max_size=8)


def rollouts(lengths, seed=0):
    """Experiences of one sample each, as OpenRLHF makes them of an engine's responses."""
    samples = make_samples(lengths, words=1000, seed=seed)
    return [SamplesGenerator._process_response_into_experience(None, s, max_len=10**6) for s in samples]


def identity(experience):
    """What tells the samples of an experience apart: their tokens without padding."""
    return [tuple(row[mask.bool()].tolist()) for row, mask in zip(experience.sequences, experience.attention_mask)]


@settings(max_examples=100, deadline=None)
@given(groups=groups, limit=st.integers(10, 200), multiple=st.integers(1, 3), data=st.data())
def test_token_batches_take_each_sample_once_and_cut_only_what_must_be_cut(groups, limit, multiple, data):
    samples = [sizes(sample) for sample in rollouts(groups)]
    samples = data.draw(st.permutations(samples))
    multiple = min(multiple, len(samples))
    parts = token_batches(samples, limit, multiple=multiple)
    assert sorted(index for part in parts for index in part) == list(range(len(samples)))
    assert len(parts) % multiple == 0
    places = Counter(prompt for part in parts for prompt in {samples[index][0] for index in part})
    if multiple == 1:
        for prompt, count in places.items():
            members = [index for index, sample in enumerate(samples) if sample[0] == prompt]
            assert count == 1 or row_length(samples, members) > limit
    assert len(token_batches(samples, limit, least=len(samples))) == len(samples)


@pytest.mark.parametrize(
    ("micro_batch", "group_size", "unit"),
    [(8, 8, 8), (16, 8, 8), (4, 8, 4), (12, 8, 6), (7, 8, 7), (1, 8, 1), (9, 8, 3)],
)
def test_an_update_sees_every_sample_once_an_epoch_in_micro_batches_of_the_asked_size(micro_batch, group_size, unit):
    lengths = [(10 + n, [3, 1, 4, 1, 5, 9, 2, 6][:group_size]) for n in range(63)]
    samples = rollouts(lengths)
    buffer = PromptReplayBuffer(micro_batch, group_size, dynamic_batch=False)
    assert buffer.unit == unit
    for sample in samples[::2] + samples[1::2]:  # groups that did not arrive in one piece
        buffer.append(sample)
    torch.manual_seed(0)
    loader = DataLoader(
        buffer, batch_size=buffer.sample_batch_size, shuffle=True, drop_last=True, collate_fn=buffer.collate_fn
    )
    orders = []
    for _ in range(2):
        batches = [identity(batch) for batch in loader]
        assert {len(batch) for batch in batches} == {micro_batch}
        seen = [sample for batch in batches for sample in batch]
        assert len(set(seen)) == len(seen) == len(samples) // micro_batch * micro_batch
        prompts = [len({sample[0] for sample in batch}) for batch in batches]
        if group_size % micro_batch == 0 or micro_batch % group_size == 0:
            assert set(prompts) == {max(1, micro_batch // group_size)}
        orders.append(seen)
    assert orders[0] != orders[1], "each epoch is shuffled"
    buffer.clear()
    assert len(buffer) == 0
    buffer.append(samples[0])
    assert [sizes(item) for item in buffer.items] == [sizes(samples[0])]


@settings(max_examples=50, deadline=None)
@given(groups=groups, ranks=st.integers(1, 3), seed=st.integers(0, 99))
def test_ranks_get_equally_many_samples(groups, ranks, seed):
    """And whole groups, where groups of one size divide evenly."""
    experiences = rollouts(groups, seed)
    args = SimpleNamespace(actor=SimpleNamespace(num_nodes=1, num_gpus_per_node=ranks))
    shares = [identity(share) for share in balance_prompts(experiences, args)]
    assert sorted(s for share in shares for s in share) == sorted(identity(e)[0] for e in experiences)
    size = -(-len(experiences) // ranks)
    assert [len(share) for share in shares[:-1]] == [size] * (len(shares) - 1)
    if len({len(outputs) for _, outputs in groups}) == 1 and len(groups) % ranks == 0:
        prompts = [{sizes(e)[0] for e in experiences if identity(e)[0] in share} for share in shares]
        assert sum(map(len, prompts)) == len({sizes(e)[0] for e in experiences})


def test_dynamic_rollout_batches_hold_groups_and_know_each_samples_place():
    samples = rollouts([(50, [5, 6, 7, 8]), (40, [5, 5, 5, 5]), (20, [9, 9, 9, 9])])
    maker = PromptExperienceMaker.__new__(PromptExperienceMaker)
    maker.tokenizer = SimpleNamespace(pad_token_id=0)
    maker.args = SimpleNamespace(
        train=SimpleNamespace(dynamic_batch_enable=True),
        rollout=SimpleNamespace(max_tokens_per_gpu=80),
        actor=SimpleNamespace(num_nodes=1, num_gpus_per_node=1),
    )
    batches = maker.split_rollout_samples(samples)
    assert [len({row[:20] for row in identity(batch)}) for batch in batches] == [1, 1, 1]
    for batch in batches:
        assert identity(batch) == [identity(samples[index])[0] for index in batch.index]
