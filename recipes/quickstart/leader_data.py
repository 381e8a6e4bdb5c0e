"""Make the leader's warm-start rows from a pool, for `openrlhf.cli.train_sft`.

    python3 recipes/quickstart/leader_data.py --pool runs/quickstart/pool --model runs/quickstart/models/leader \
        --n 8000 --solo 0.4 --seed 0 --out runs/quickstart/leader_sft.jsonl

Writes JSON Lines {"input": rendered leader prompt, "output": trace}. Prompts are rendered exactly as in MLPO training.
The paper tunes its leader on traces with backtracking before MLPO; a leader of half a million parameters needs them
to know the output form, how to follow an agent and how to work alone. Whom to trust on what is left to MLPO.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import questions as q
from tqdm import tqdm

from openrlhf_mlpo.dataset import make_draw
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.pool import open_pool
from openrlhf_mlpo.prompts import PromptRenderer, load_template


def output(think: str, answer: str) -> str:
    """A leader output in the form MLPO rewards."""
    return f"<think> {think} </think> <answer> {answer} </answer>"


def solo_trace(rng: random.Random, work: str, answer: str, guess: float) -> str:
    """Without a team: with probability `guess` the bare answer, else a short derivation first."""
    return output("I see it at once" if rng.random() < guess else f"I do it myself : {work}", answer)


def team_trace(
    rng: random.Random, answers: tuple[str | None, ...], gold: str, work: str, own: float, backtrack: float
) -> str:
    """Over a draw: follow an agent that is right, or turn back from one that is wrong first; every trace ends right.

    `answers` in the order shown. With probability `own`, and where no agent is right, the leader derives the answer
    itself. With probability `backtrack` it first takes up a wrong agent's answer, looks again and changes to a right
    one. Which right agent it follows is chosen at random: nothing here tells the leader whom to trust. The answer of an
    agent is stated where it is followed: stated wrong answers are what teaches a small model to copy at all. Where
    every trace copies a right answer, it learns to guess the answer instead.
    """
    right = [number for number, answer in enumerate(answers, 1) if answer == gold]
    wrong = [number for number, answer in enumerate(answers, 1) if answer not in (None, gold)]
    if not right or rng.random() < own:
        return output(f"I do it myself : {work}", gold)
    follow = f"follow agent {rng.choice(right)} , it says {gold}"
    if wrong and rng.random() < backtrack:
        first = rng.choice(wrong)
        follow = f"follow agent {first} , it says {answers[first - 1]} , look again : {follow}"
    return output(follow, gold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", required=True, help="pool directory")
    parser.add_argument("--model", required=True, help="the leader, for its tokenizer and chat template")
    parser.add_argument("--template", default="compact", help="prompt template (default compact)")
    parser.add_argument("--n", type=int, default=8000, help="rows to write (default 8000)")
    parser.add_argument("--solo", type=float, default=0.4, help="share of rows without a team (default 0.4)")
    parser.add_argument(
        "--guess", type=float, default=0.5, help="share of solo rows without a derivation (default 0.5)"
    )
    parser.add_argument(
        "--own", type=float, default=0.15, help="share of team rows the leader works out (default 0.15)"
    )
    parser.add_argument("--backtrack", type=float, default=0.6, help="share of team rows that turn back (default 0.6)")
    parser.add_argument("--later", type=float, default=0.1, help="share of team rows from a later round (default 0.1)")
    parser.add_argument("--max_prompt_tokens", type=int, default=352, help="budget of a prompt (default 352)")
    parser.add_argument("--seed", type=int, default=0, help="seed of draws and traces (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    args = parser.parse_args()
    from transformers import AutoTokenizer

    pool = open_pool(args.pool)
    if not len(pool):
        raise UserError(f"{args.pool}: the pool has no questions")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    renderer = PromptRenderer(tokenizer, load_template(args.template), args.max_prompt_tokens)
    rng = random.Random(args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", encoding="utf-8") as file:
        for number in tqdm(range(args.n), desc="leader traces"):
            row = pool[number % len(pool)]
            draw = make_draw(
                row["responses"],
                row["id"],
                seed=args.seed,
                episode=f"warm start {number // len(pool)}",
                solo_fraction=args.solo,
                task=row["task"],
            )
            derivation = q.work(row["subtask"], row["question"])
            answers = tuple(row["answer"] if right else answer for answer, right in zip(draw.answers, draw.correct))
            trace = (
                team_trace(rng, answers, row["answer"], derivation, args.own, args.backtrack)
                if draw.texts
                else solo_trace(rng, derivation, row["answer"], args.guess)
            )
            last = None
            if draw.texts and rng.random() < args.later:  # what the leader finds in its prompt in rounds t > 0
                number = rng.randrange(len(answers))
                last = output(f"follow agent {number + 1}", answers[number] or row["answer"])
            prompt = renderer.render(row["question"], draw.texts, last)
            # train_sft puts a blank before an end token that is missing.
            file.write(json.dumps({"input": prompt, "output": trace + tokenizer.eos_token}) + "\n")


if __name__ == "__main__":
    run_cli(main)
