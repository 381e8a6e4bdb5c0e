"""Rules of thumb for GPU memory and disk, against which `openrlhf_mlpo.cli.doctor` holds a machine.

With N parameters, of which A are trained (A = N without LoRA), D training GPUs, t tokens in the longest micro batch, h
the hidden size, L layers, V the vocabulary, and 2 bytes a bf16 number, a training GPU holds

    weights      2 N                 / D with ZeRO-3
    gradients    2 A                 / D with ZeRO-2 and 3
    optimizer   12 A / D             (fp32 weights and two moments); none with --ds.adam_offload
    reference    2 N                 / D with ZeRO-3; none without a KL term or with --ref.offload
    activations  2 t h (L + 40)      with gradient checkpointing, 34 t h L without
    logits      12 t V               bf16 and fp32 with gradients; 6 t V for the rollouts' micro batches; where prompts
                                     are computed once (`shared_tokens`), of the outputs' tokens only
    overhead     4 GiB               CUDA context, NCCL buffers, fragmentation

and a vLLM GPU, with T the tensor parallel size, 2 N / T of weights, 4 L x (KV heads x head size) / T bytes of cache per
token for one sequence of the full length, and 4 GiB. A checkpoint is 14 N bytes, a saved model 2 N.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
OVERHEAD = 4 * GIB


@dataclass(frozen=True)
class Model:
    """What the estimates need to know of a model; `context` in tokens."""

    parameters: float
    layers: int
    hidden: int
    kv_width: int  # key-value heads x head size
    vocabulary: int
    context: int


# The paper's models, so that a machine that has not downloaded them can be judged.
PAPER = {
    "Qwen/Qwen2.5-7B-Instruct": Model(7.62e9, 28, 3584, 4 * 128, 152064, 32768),
    "meta-llama/Llama-3.1-8B-Instruct": Model(8.03e9, 32, 4096, 8 * 128, 128256, 131072),
    "google/gemma-2-9b-it": Model(9.24e9, 42, 3584, 8 * 256, 256000, 8192),
}


def find_model(name: str) -> Model | None:
    """A model of the paper, or one that is on this machine (folder or hub cache). None: nothing is known of it."""
    if name in PAPER:
        return PAPER[name]
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True)
        with torch.device("meta"):
            parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    except (OSError, ValueError, KeyError):
        return None
    config = getattr(config, "text_config", config)
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Model(
        parameters,
        config.num_hidden_layers,
        config.hidden_size,
        (getattr(config, "num_key_value_heads", None) or heads) * head_size,
        config.vocab_size,
        getattr(config, "max_position_embeddings", 0),
    )


@dataclass(frozen=True)
class Training:
    """A training of OpenRLHF, as far as memory, context and disk go; tokens are those of the longest micro batch."""

    model: str
    gpus: int
    zero_stage: int
    train_tokens: int
    rollout_tokens: int = 0
    logit_tokens: int | None = None  # those of `train_tokens` that need logits, if not all
    checkpointing: bool = True
    adam_offload: bool = False
    reference: bool = False
    lora_rank: int = 0
    vllm: float = 0.0  # share of each GPU's memory that an engine takes beside it
    asleep: bool = False  # then that engine keeps 1 GiB
    max_len: int = 0
    output: str = ""  # folder of the model
    checkpoints: str = ""  # folder of `kept` checkpoints
    kept: int = 0


def shared_tokens(samples: int, group: int, max_len: int, new_tokens: int) -> tuple[int, int]:
    """Tokens of a micro batch that computes each prompt once, and those of them that need logits, at most.

    `samples` of groups of `group`, each of up to `max_len` tokens, `new_tokens` of which are output.
    """
    outputs = samples * new_tokens
    return -(-samples // group) * (max_len - new_tokens) + outputs, outputs


def training_memory(model: Model, training: Training) -> dict[str, float]:
    """Bytes on each training GPU, by part."""
    logits = training.train_tokens if training.logit_tokens is None else training.logit_tokens
    n, stage = model.parameters, training.zero_stage
    # LoRA on all linear layers of a model of this kind adds about 1/3000 of it per rank.
    trained = min(n, n * training.lora_rank / 3000) if training.lora_rank else n
    sharded = training.gpus if stage == 3 else 1
    layers = 2 * (model.layers + 40) if training.checkpointing else 34 * model.layers
    return {
        "weights": 2 * n / sharded,
        "gradients": 2 * trained / (training.gpus if stage >= 2 else 1),
        "optimizer": 0 if training.adam_offload else 12 * trained / (training.gpus if stage >= 1 else 1),
        "reference": 2 * n / sharded if training.reference else 0,
        "activations": training.train_tokens * model.hidden * layers,
        "logits": max(12 * logits, 6 * training.rollout_tokens) * model.vocabulary,
        "overhead": OVERHEAD,
    }


def vllm_memory(model: Model, *, max_len: int, tensor_parallel: int = 1) -> dict[str, float]:
    """Bytes that a vLLM engine needs at least on each of its GPUs, by part: cache for one sequence."""
    return {
        "weights": 2 * model.parameters / tensor_parallel,
        "cache": 4 * model.layers * model.kv_width * max_len / tensor_parallel,
        "overhead": OVERHEAD,
    }
