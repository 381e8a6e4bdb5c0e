"""A prompt computed once for its outputs gives the numbers of OpenRLHF's own `Actor`, for any family and batch."""

import functools

import hypothesis.strategies as st
import pytest
import torch
import transformers
from hypothesis import given, settings

from openrlhf_mlpo import cpu

cpu.activate() if cpu.use_cpu() else None

from openrlhf.models import Actor  # noqa: E402
from openrlhf.models.loss import PolicyLoss  # noqa: E402
from openrlhf.models.utils import compute_approx_kl  # noqa: E402

from openrlhf_mlpo.train.shared_prompt import SharedPromptActor, lay_out, sees  # noqa: E402
from openrlhf_mlpo.train.sharing import FAMILIES  # noqa: E402

VOCABULARY = 61
SHAPE = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
WINDOWS = {
    "mistral": dict(sliding_window=5),
    "qwen2": dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "qwen3": dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "gemma2": dict(sliding_window=5, attn_logit_softcapping=None),
    "gemma3_text": dict(sliding_window=5),
}
MODELS = [(family, {"attn_logit_softcapping": None} if family == "gemma2" else {}) for family in FAMILIES]
MODELS += WINDOWS.items()


@functools.cache
def saved(family: str, **settings) -> str:
    """A folder with a small random model."""
    import tempfile

    config = transformers.AutoConfig.for_model(family, **{**SHAPE, **settings})
    torch.manual_seed(0)
    folder = tempfile.mkdtemp()
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # the usual start is so flat that attention hardly matters
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


@functools.cache
def actors(family: str = "qwen3", checkpointing: bool = False, lora: int = 0, **settings):
    """OpenRLHF's actor and ours with the same weights, as its workers build them."""
    made = []
    for kind in (Actor, SharedPromptActor):
        torch.manual_seed(1)
        actor = kind(
            saved(family, **settings),
            attn_implementation="sdpa",
            param_dtype="fp32",
            lora_rank=lora,
            target_modules="all-linear",
            temperature=0.7,
        )
        for name, parameter in actor.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)  # larger ones would amplify rounding
        if checkpointing:
            actor.gradient_checkpointing_enable()
        made.append(actor.train())
    # Other threads may draw from the global generator between the two: then the adapters would differ.
    made[1].load_state_dict(made[0].state_dict())
    return made


def batch(samples, left=()):
    """`(prompt, output)` token lists as OpenRLHF pads them: at the right, and at the left by `left[i]`."""
    rows = []
    for number, (prompt, output) in enumerate(samples):
        pad = [0] * (left[number] if number < len(left) else 0)
        tokens = [*pad, *prompt, *output]
        attention = [0] * len(pad) + [1] * (len(prompt) + len(output))
        action = [0] * (len(pad) + len(prompt)) + [1] * len(output)
        rows.append((tokens, attention, action))
    width = max(len(tokens) for tokens, _, _ in rows)
    padded = [[values + [0] * (width - len(values)) for values in row] for row in rows]
    sequences, attention, action = (torch.tensor(values) for values in zip(*padded))
    return sequences, attention, action[:, 1:]


def results(actor, data, coefficient: float = 0.1):
    """Log-probabilities, entropy, loss with a KL term, and all gradients."""
    sequences, attention, action = data
    generator = torch.Generator().manual_seed(5)
    noise = [torch.randn(action.shape, generator=generator) for _ in range(3)]
    actor.zero_grad()
    log_probs, output = actor(
        sequences, action, attention_mask=attention, return_output=True, ring_attn_group=None, return_entropy=True
    )
    old, base = log_probs.detach() + 0.1 * noise[0], log_probs.detach() + 0.1 * noise[1]
    info = {"dp_size": 1, "batch_num_tokens": torch.tensor(50.0), "global_batch_size": torch.tensor(4.0)}
    loss = PolicyLoss()(log_probs, old, noise[2], action_mask=action, **info)[0]
    loss = loss + coefficient * (compute_approx_kl(log_probs, base, kl_estimator="k3") * action).sum()
    entropy = output.entropy[:, -action.shape[1] :] * action
    (loss - 0.01 * entropy.sum()).backward()
    gradients = {name: p.grad.clone() for name, p in actor.named_parameters() if p.grad is not None}
    return log_probs.detach(), entropy.detach(), loss.detach(), gradients


def assert_same(pair, data):
    """Ours equal to OpenRLHF's to 1e-5 of the largest value, each gradient to that of its own norm."""
    stock, ours = (results(actor, data) for actor in pair)
    for name, expected, got in zip(("log-probabilities", "entropy", "loss"), stock, ours):
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5 * max(1, expected.abs().max())), name
    assert stock[3].keys() == ours[3].keys()
    whole = torch.cat([gradient.flatten() for gradient in stock[3].values()]).norm()
    for name, gradient in stock[3].items():
        assert (ours[3][name] - gradient).norm() <= 1e-5 * max(gradient.norm(), 1e-2 * whole), name


def random_samples(lengths, seed=0):
    """Samples of groups: `lengths` holds (prompt length, [output lengths]) per group."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(n):
        return torch.randint(3, VOCABULARY, (n,), generator=generator).tolist()

    return [(prompt, tokens(n)) for length, outputs in lengths for prompt in [tokens(length)] for n in outputs]


MIXED = [(17, [9, 1, 12, 4]), (6, [3, 3]), (1, [2, 5]), (11, [7])]


@pytest.mark.parametrize(("family", "changes"), MODELS, ids=lambda value: value if isinstance(value, str) else "")
def test_families_with_and_without_windows(family, changes):
    assert_same(actors(family, **changes), batch(random_samples(MIXED)))


@pytest.mark.parametrize("options", [{"checkpointing": True}, {"lora": 4}, {"lora": 4, "checkpointing": True}])
def test_gradient_checkpointing_and_adapters(options):
    assert_same(actors("qwen2", **options), batch(random_samples(MIXED)))


group = st.tuples(st.integers(1, 20), st.lists(st.integers(1, 12), min_size=1, max_size=5))


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(group, min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    left=st.lists(st.integers(0, 6), max_size=20),
    data=st.data(),
)
def test_any_batch(groups, seed, left, data):
    """Random groups in any order, as after a shuffle, and cut as by a micro batch; padded on both sides."""
    samples = data.draw(st.permutations(random_samples(groups, seed)))
    samples = samples[: data.draw(st.integers(1, len(samples)))]
    assert_same(actors(), batch(samples, left))


def test_a_micro_batch_without_an_action_gives_zeros_and_gradients():
    sequences, attention, action = batch(random_samples([(5, [3, 2])]))
    log_probs, *_, gradients = results(actors()[1], (sequences, attention, action * 0))
    assert not log_probs.any()
    assert gradients
    assert not any(gradient.any() for gradient in gradients.values())


def test_gaps_between_actions():
    """Tokens inside an output that are no actions, as of an environment's turn."""
    sequences, attention, action = batch(random_samples([(7, [9, 9, 6])]))
    action[:, 9:11] = 0
    assert_same(actors(), (sequences, attention, action))


def test_bfloat16_is_as_close_as_rounding_allows():
    """To the numbers of float32, as OpenRLHF's own bfloat16 is."""
    kinds = ((Actor, "fp32"), (Actor, "bf16"), (SharedPromptActor, "bf16"))
    data = batch(random_samples([(40, [9] * 8), *MIXED]))
    log_probs, _, _, gradients = zip(
        *(
            results(kind(saved("llama"), attn_implementation="sdpa", param_dtype=dtype), data, coefficient=0)
            for kind, dtype in kinds
        )
    )
    whole = [torch.cat([gradient.flatten().float() for gradient in each.values()]) for each in gradients]
    for exact, stock, ours in (log_probs, whole):
        assert (ours - exact).norm() <= 1.5 * (stock - exact).norm()


def test_each_prompt_stands_in_the_row_once():
    samples = random_samples([(40, [5] * 8), (30, [4] * 8)])
    rows = lay_out(*batch(samples))
    assert len(rows.tokens) == 39 + 8 * 5 + 29 + 8 * 4
    assert len(rows.kept) == sum(len(output) for _, output in samples)
    # The same prompt at other places of the batch is recognised, a prompt that differs in one token is not.
    assert len(lay_out(*batch(samples[::2] + samples[1::2])).tokens) == len(rows.tokens)
    (prompt, output), *_ = samples
    assert len(lay_out(*batch([(prompt, output), ([*prompt[:-1], 3 + prompt[-1] % 50], output)])).tokens) == 2 * (
        39 + 5
    )


def test_flex_attention_is_asked_for_the_same_places():
    rows = lay_out(*batch(random_samples(MIXED)))
    size, steps = len(rows.tokens), torch.arange(len(rows.tokens))
    asked = sees(rows)(None, None, steps[:, None], steps)
    expected = torch.zeros(size, size, dtype=torch.bool)
    for places in rows.prompts:
        n = int((places.diff() > 0).sum()) + 1 if len(places) else 0
        expected[places[:n, None], places[:n]] = torch.ones(n, n).tril().bool()
    for places, context, visible in zip(rows.outputs, rows.context, rows.visible[:, 0]):
        n = int((places.diff() > 0).sum()) + 1
        for place, seen in zip(places[:n], visible[:n]):
            expected[place, context[seen]] = True
    # A prompt of one token has no place of its own; `prompts` then holds padding only.
    assert torch.equal(asked | torch.eye(size, dtype=torch.bool), expected | torch.eye(size, dtype=torch.bool))


@pytest.mark.slow
def test_flex_attention_gives_the_same_log_probabilities():
    """Forward only: on a CPU it has no backward."""
    sequences, attention, action = batch(random_samples(MIXED))
    actor = SharedPromptActor(saved("llama"), attn_implementation="flex_attention", param_dtype="fp32")
    stock = Actor(saved("llama"), attn_implementation="sdpa", param_dtype="fp32")
    with torch.no_grad():
        expected, got = (each(sequences, action, attention) for each in (stock, actor))
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_saved_model_does_not_name_our_attention(tmp_path):
    actor = actors("qwen2")[1]
    actor.model.save_pretrained(tmp_path)
    assert "shared" not in (tmp_path / "config.json").read_text()
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
