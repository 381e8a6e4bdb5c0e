"""Tiny Qwen3 chat models with a word-level vocabulary: the real transformers and vLLM code paths in seconds.

Qwen3 and not Qwen2: for `model_type` qwen2, transformers 5 always loads `Qwen2Tokenizer` (a byte-level BPE), whatever
class the saved tokenizer names, and a word-level vocabulary then encodes every word to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SPECIALS = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|> ' + m['role'] + ' ' + m['content'] + ' <|im_end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|> assistant ' }}{% endif %}"
)
WORDS = (
    "system user assistant agent leader 0 1 2 3 : ( ) [ ] and or not True False is yes no the answer think because I "
    "say <answer> </answer> <think> </think> [answer] [/answer] [think] [/think]"
).split()


def make_tiny_model(
    path: str | Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    words: Sequence[str] = WORDS,
    seed: int = 0,
    max_len: int = 512,
) -> Path:
    """Save a randomly initialised Qwen3 and its whitespace-split tokenizer; equal arguments, equal weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    vocab = {word: i for i, word in enumerate(dict.fromkeys((*SPECIALS, *words)))}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_len,
    )
    tokenizer.save_pretrained(path)
    config = Qwen3Config(
        vocab_size=len(vocab),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32),
        num_key_value_heads=max(1, hidden // 32),
        head_dim=32,
        max_position_embeddings=max_len,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=vocab["<|im_end|>"],
        pad_token_id=vocab["<pad>"],
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config).float()
    model.save_pretrained(path)
    return path
