"""`--mlpo.share_prompt`: on where model and flags allow it, a line that says why where they do not."""

import pytest
from transformers import AutoConfig

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.train.sharing import FAMILIES, settle_flags, settle_model

ALLOWED = {
    "mlpo.share_prompt": "auto",
    "ds.ring_attn_size": 1,
    "ds.tensor_parallel_size": 1,
    "data.max_images_per_prompt": 0,
    "ds.use_liger_kernel": False,
    "ds.deepcompile": False,
    "ds.attn_implementation": "flash_attention_2",
    "train.dynamic_batch_enable": False,
    "train.micro_batch_size": 8,
    "rollout.micro_batch_size": 8,
    "rollout.n_samples_per_prompt": 8,
}
REFUSED_FLAGS = [
    ({"ds.ring_attn_size": 2}, "ring attention"),
    ({"ds.tensor_parallel_size": 2}, "tensor parallelism"),
    ({"data.max_images_per_prompt": 1}, "images"),
    ({"ds.use_liger_kernel": True}, "Liger"),
    ({"ds.deepcompile": True}, "compiled"),
    ({"ds.attn_implementation": "eager"}, "eager.*use sdpa"),
    ({"ds.attn_implementation": "flash_attention_2"}, "flash_attention_2.*use sdpa"),
    ({"train.micro_batch_size": 1, "rollout.micro_batch_size": 1}, "--train.micro_batch_size"),
]
REFUSED_MODELS = [
    ("mixtral", {}, "mixtral"),
    ("qwen3_moe", {}, "qwen3_moe"),
    ("gpt2", {}, "gpt2"),
    ("gemma3", {}, "gemma3 "),
    ("gemma2", {}, "softcapping"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "not causal"),
]


def settled(changes: dict, config=None) -> str:
    args = {**ALLOWED, **changes}
    settle_flags(args, set(changes))
    if config is not None:
        settle_model(args, config)
    return args["mlpo.share_prompt"]


@pytest.mark.parametrize(("changes", "reason"), REFUSED_FLAGS)
def test_flags_that_forbid_it(changes, reason, capsys):
    assert settled(changes) == "off"
    said = capsys.readouterr().err
    assert said.startswith("each prompt is computed once per output: ")
    assert said.count("\n") == 1
    with pytest.raises(UserError, match=f"--mlpo.share_prompt on: .*{reason}") as error:
        settled({**changes, "mlpo.share_prompt": "on"})
    assert "\n" not in str(error.value)
    assert settled({**changes, "mlpo.share_prompt": "off"}) == "off"
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("family", "changes", "reason"), REFUSED_MODELS)
def test_models_that_were_not_checked(family, changes, reason, capsys):
    config = AutoConfig.for_model(family, **changes)
    assert settled({}, config) == "off"
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match=f"--mlpo.share_prompt on: .*{reason}"):
        settled({"mlpo.share_prompt": "on"}, config)
    assert settled({"mlpo.share_prompt": "off"}, config) == "off"


@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_were(family, capsys):
    config = AutoConfig.for_model(family, **({"attn_logit_softcapping": None} if family == "gemma2" else {}))
    assert settled({}, config) == "on"
    assert capsys.readouterr().err.count("\n") == 1, "auto says once that it is on"
    assert settled({"mlpo.share_prompt": "on"}, config) == "on"
    assert settled({"train.dynamic_batch_enable": True, "train.micro_batch_size": 1}, config) == "on"
    assert settled({"mlpo.share_prompt": "off"}, config) == "off"


def test_a_window_needs_sdpa():
    flex = {"ds.attn_implementation": "flex_attention"}
    assert settled(flex, AutoConfig.for_model("mistral", sliding_window=4096)) == "off"
    assert settled(flex, AutoConfig.for_model("mistral", sliding_window=None)) == "on"
    assert settled(flex, AutoConfig.for_model("qwen2", use_sliding_window=False)) == "on"
    assert settled({"ds.attn_implementation": "sdpa"}, AutoConfig.for_model("mistral", sliding_window=4096)) == "on"
