"""Build the model that the toy's base model starts as: a word-level tokenizer and a randomly initialised Qwen3.

    python3 recipes/claims/word_model.py --out runs/claims/models/blank --seed 0

Writes an ordinary Hugging Face folder that train_sft, train_ppo_ray and vLLM open. Qwen3 and not Qwen2: for `qwen2`
transformers 5 loads its own byte-level tokenizer, whatever the folder holds. Nothing is downloaded. A vocabulary of a
few hundred words instead of 150 thousand is what makes a training step take a fraction of a second on a CPU; unknown
words become <unk>.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import word_questions as q

from openrlhf_mlpo.errors import run_cli

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>"]
TAGS = [f"{a}{slash}{tag}{b}" for a, b in ("<>", "[]") for tag in ("think", "answer") for slash in ("", "/")]
# Words of the chat frame, of the questions' frames and of the leader's traces.
FRAMES = f"""
system user assistant agent leader a an and {" ".join(sum(q.FRAMES.values(), ()))}
look again wait check it no not but all others other same this say agree disagree follow
"""
PUNCTUATION = list("()[]{}<>.,:;?!-+*/='\"")
POSITIONS = 640


def vocabulary() -> list[str]:
    """Every word of the two question forms, the numbers to 9, and the words of prompts, in order."""
    asked = (f"{name}s" for name in q.THINGS)
    text = " ".join([FRAMES, *q.CATEGORY_OF, *q.THINGS, *asked, *q.COLORS])
    words = re.findall(r"\w+", text) + PUNCTUATION + [str(i) for i in range(10)]
    return list(dict.fromkeys(words))


def build_tokenizer():  # noqa: ANN201 (transformers is imported late)
    """A `PreTrainedTokenizerFast`: one token a word or punctuation mark; tags and chat marks are single tokens."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(SPECIAL + TAGS + vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
        padding_side="left",
    )


def build_model(tokenizer, seed: int):
    """A randomly initialised `Qwen3ForCausalLM`; heads are 32 wide, the least vLLM's CPU kernels take."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=384,
        head_dim=32,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.05,
    )
    return Qwen3ForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights (default 0)")
    args = parser.parse_args()
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, args.seed)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"{args.out}: {model.num_parameters() / 1e6:.2f} M parameters, {len(tokenizer)} words")


if __name__ == "__main__":
    run_cli(main)
