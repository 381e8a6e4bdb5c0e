"""Make rows that teach a chat model the output form, for `openrlhf.cli.train_sft`: sums with four options each.

    python3 recipes/smollm2/form_data.py --model runs/smollm2/model --out runs/smollm2/form.jsonl

With the form in its prompt, SmolLM2-135M-Instruct keeps to it in fewer than one of ten outputs, so that no warm start
could be built from them. Bigger chat models need no such rows.
Writes JSON Lines {"input": rendered leader prompt, "output": trace}, half of the prompts with two responses, of which
each is right or wrong.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from openrlhf_mlpo.errors import run_cli
from openrlhf_mlpo.files import write_jsonl
from openrlhf_mlpo.models import open_tokenizer
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template

LETTERS = "ABCD"


def row(rng: random.Random) -> tuple[str, tuple[str, ...], str]:
    """A question, the responses shown with it, and the leader's output."""
    a, b = rng.randint(2, 40), rng.randint(2, 40)
    options = rng.sample([a + b + d for d in (-10, -2, -1, 1, 2, 10)], 3)
    place = rng.randrange(4)
    options.insert(place, a + b)
    question = f"What is {a} + {b}?\n" + "\n".join(f"{x}. {value}" for x, value in zip(LETTERS, options))
    said = tuple(f"It is {rng.choice(LETTERS)}." for _ in range(rng.choice((0, 2))))
    letter = LETTERS[place]
    return (
        question,
        said,
        f"<think>{a} + {b} makes {a + b}, which is option {letter}.</think> <answer>{letter}</answer>",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the leader, for its tokenizer and chat template")
    parser.add_argument("--template", default="chat", help="prompt template (default chat)")
    parser.add_argument("--n", type=int, default=64, help="rows to write (default 64)")
    parser.add_argument("--max_prompt_tokens", type=int, default=512, help="budget of a prompt (default 512)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    args = parser.parse_args()
    tokenizer = open_tokenizer(args.model, "--model")
    renderer = PromptRenderer(tokenizer, load_template(args.template), args.max_prompt_tokens)
    rng = random.Random(args.seed)
    rows = (row(rng) for _ in range(args.n))
    # train_sft puts a blank before an end token that is missing.
    write_jsonl(
        args.out, ({"input": renderer.render(q, said), "output": o + tokenizer.eos_token} for q, said, o in rows)
    )
    print(f"{args.out}: {args.n} rows")


if __name__ == "__main__":
    run_cli(main)
