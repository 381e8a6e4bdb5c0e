"""Build the quickstart's model directories: a word-level tokenizer and randomly initialised Qwen3 models.

    python3 recipes/quickstart/models.py --out runs/quickstart/models --seed 0

Writes leader/ and agent_1/ to agent_3/, ordinary Hugging Face folders that train_sft, train_ppo_ray and vLLM open.
Qwen3 and not Qwen2: for `qwen2` transformers 5 loads its own byte-level tokenizer, whatever the folder holds.
Nothing is downloaded: the models know nothing before `train_sft`. A vocabulary of a few hundred words instead of
150 thousand is what makes a training step take a fraction of a second on a CPU; unknown words become <unk>.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import questions as q

from openrlhf_mlpo.errors import run_cli

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>"]
TAGS = [f"{a}{slash}{tag}{b}" for a, b in ("<>", "[]") for tag in ("think", "answer") for slash in ("", "/")]
# Words of the chat frame, of the team's phrasings (agent_data.py) and of the leader's traces.
PHRASES = """
system user assistant agent leader I do it myself see at once depth sum chain truth lies tells the says Question Does
tell have How many do and look again follow think is my result so we get Yes No it must be here say answer
wait no not but all others other same this has disagree agree check
"""
PUNCTUATION = list("()[]{}<>.,:;?!-+*/='\"")

LEADER = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}
AGENT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 192}
POSITIONS = 512


def vocabulary() -> list[str]:
    """Every word of the three question forms, the numbers to 40, and the words of prompts and phrasings, in order."""
    nouns = " ".join(word for group in q.NOUNS.values() for pair in group.items() for word in pair)
    text = " ".join([q.DYCK_FRAME, nouns, *q.NOUNS, *q.NUMBER_WORDS, *q.NAMES, PHRASES])
    words = re.findall(r"\w+", text) + PUNCTUATION + [str(i) for i in range(41)]
    return list(dict.fromkeys(words))


def build_tokenizer(words: list[str], positions: int):  # noqa: ANN201 (transformers is imported late)
    """A `PreTrainedTokenizerFast`: one token a word or punctuation mark; tags and chat marks are single tokens."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(SPECIAL + TAGS + words)}
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
        model_max_length=positions,
        padding_side="left",
    )


def build_model(tokenizer, shape: dict[str, Any], seed: int, positions: int):
    """A randomly initialised `Qwen3ForCausalLM` of that shape; heads are 32 wide, the least vLLM's CPU kernels take."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    size = -(-len(tokenizer) // 64) * 64
    config = Qwen3Config(
        vocab_size=size,
        **shape,
        num_key_value_heads=shape["num_attention_heads"],
        head_dim=32,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.05,
    )
    return Qwen3ForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for leader/ and agent_1/ ... agent_3/")
    parser.add_argument("--agents", type=int, default=3, help="how many agents (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights (default 0)")
    args = parser.parse_args()
    tokenizer = build_tokenizer(vocabulary(), POSITIONS)
    for i in range(args.agents + 1):
        name, shape = ("leader", LEADER) if i == 0 else (f"agent_{i}", AGENT)
        model = build_model(tokenizer, shape, 1000 * args.seed + i, POSITIONS)
        model.save_pretrained(args.out / name)
        tokenizer.save_pretrained(args.out / name)
        print(f"{args.out / name}: {model.num_parameters() / 1e6:.2f} M parameters, {len(tokenizer)} words")


if __name__ == "__main__":
    run_cli(main)
