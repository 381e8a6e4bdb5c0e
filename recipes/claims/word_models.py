"""Build the model directories of claims_cpu.sh: a word-level tokenizer and randomly initialised Qwen3 models.

    python3 recipes/claims/word_models.py --out runs/claims/models --agents 11 --seed 0

Writes leader/ and agent_1/, agent_2/, …; see recipes/quickstart/models.py, whose tokenizer and model these are with
other words and sizes.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import word_questions as q
from beliefs import possible

from openrlhf_mlpo.errors import run_cli

sys.path.append(str(Path(__file__).resolve().parents[1] / "quickstart"))

import models  # noqa: E402  # ty: ignore[import-not-found]

# Words of the chat frame, of the questions' frames and of the leader's traces.
FRAMES = f"""
system user assistant agent leader I have a an and How many do {q.SORT_FRAME}
look again wait check it no not but all others other same this say agree disagree follow
"""
LEADER = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}
AGENT = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
POSITIONS = 640


def vocabulary() -> list[str]:
    """Every word of the two question forms, first letters, the numbers to 9, and the words of prompts, in order."""
    asked = (f"{name}s" for name in q.THINGS)
    text = " ".join([FRAMES, *q.CATEGORY_OF, *q.THINGS, *asked, *q.WORDS, *possible("word_sorting")])
    words = re.findall(r"\w+", text) + models.PUNCTUATION + [str(i) for i in range(10)]
    return list(dict.fromkeys(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for leader/ and agent_1/, agent_2/, …")
    parser.add_argument("--agents", type=int, default=3, help="how many agents (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights (default 0)")
    args = parser.parse_args()
    tokenizer = models.build_tokenizer(vocabulary(), POSITIONS)
    for i in range(args.agents + 1):
        name, shape = ("leader", LEADER) if i == 0 else (f"agent_{i}", AGENT)
        model = models.build_model(tokenizer, shape, 1000 * args.seed + i, POSITIONS)
        model.save_pretrained(args.out / name)
        tokenizer.save_pretrained(args.out / name)
        print(f"{args.out / name}: {model.num_parameters() / 1e6:.2f} M parameters, {len(tokenizer)} words")


if __name__ == "__main__":
    run_cli(main)
