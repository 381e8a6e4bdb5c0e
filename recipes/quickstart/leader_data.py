"""Make the leader's schooling from a pool, for `openrlhf.cli.train_sft`: what an instruct model brings along.

    python3 recipes/quickstart/leader_data.py --pool runs/quickstart/pool --model runs/quickstart/models/leader \
        --n 9600 --solo 0.3 --seed 0 --out runs/quickstart/leader_base.jsonl

Writes JSON Lines {"input": rendered leader prompt, "output": trace}. Prompts are rendered exactly as in MLPO training.
A leader of 0.2 million parameters comes from nowhere: here it learns the output form, to follow some agent and to work
alone. Backtracking and self-correction come after, from its own outputs (openrlhf_mlpo.cli.build_sft), and whom to
trust is left to MLPO.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import questions as q
from tqdm import tqdm

from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.models import open_tokenizer
from openrlhf_mlpo.pool.draw import make_draw
from openrlhf_mlpo.pool.format import open_pool
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.sft.traces import excerpt
from openrlhf_mlpo.verify import extract_answer

# How each agent puts its answer. The answer first, then two words and, in the leader's prompt, the agent's number: a
# tiny model soon learns to choose by the words, to go on from them to the number, and to copy what stands at a fixed
# distance before the number.
PHRASES = (
    "<answer> {} </answer> I think",
    "<answer> {} </answer> my result",
    "<answer> {} </answer> we get",
    "<answer> {} </answer> must be",
    "<answer> {} </answer> answer here",
    "<answer> {} </answer> so say",
    "<answer> {} </answer> the truth",
)


def output(think: str, answer: str) -> str:
    """A leader output in the form MLPO rewards."""
    return f"<think> {think} </think> <answer> {answer} </answer>"


def follow(work: str, number: int, response: str, answer: str) -> str:
    """The leader takes up the response of agent `number`: its words, its number, its answer.

    The kind of question comes first, the first word of a derivation (`questions.work`): whom to trust for which kind is
    then a matter of one word and the next, which MLPO can teach a tiny model in some dozen steps.
    """
    return output(f"{work.split()[0]} follow {excerpt(response)} {number} {answer}", answer)


def derive(work: str, answer: str) -> str:
    """The leader works the answer out."""
    return output(f"I do it myself : {work}", answer)


def solo_trace(rng: random.Random, work: str, answer: str, guess: float) -> str:
    """Without a team: with probability `guess` the bare answer, else a short derivation first."""
    return output("I see it at once", answer) if rng.random() < guess else derive(work, answer)


def reworded(rng: random.Random, texts: tuple[str, ...]) -> tuple[str, ...]:
    """The same answers in other agents' words: so the leader learns to read any team, and by no short cut.

    In this team's own words a tiny model soon guesses which answers go with which words, and is slow to learn to look
    the answer up in its prompt.
    """
    answers = [extract_answer(text) for text in texts]
    words = rng.sample(PHRASES, len(texts))
    return tuple(
        text if answer is None else say.format(answer) for text, answer, say in zip(texts, answers, words, strict=True)
    )


def team_trace(rng: random.Random, texts: tuple[str, ...], gold: str, work: str, own: float) -> str:
    """Over a draw (`texts` in the order shown): follow one of the agents, right or wrong, whoever comes.

    With probability `own`, and where no agent gave an answer, the leader derives the answer itself. Nothing here tells
    it whom to trust. Wrong answers are followed too: where every trace copies a right answer, a small model learns to
    guess the answer and not to copy.
    """
    answers = {number: answer for number, text in enumerate(texts, 1) if (answer := extract_answer(text)) is not None}
    if not answers or rng.random() < own:
        return derive(work, gold)
    number = rng.choice(list(answers))
    return follow(work, number, texts[number - 1], answers[number])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", required=True, help="pool directory")
    parser.add_argument("--model", required=True, help="the leader, for its tokenizer and chat template")
    parser.add_argument("--template", default="compact", help="prompt template (default compact)")
    parser.add_argument("--n", type=int, default=9600, help="rows to write (default 9600)")
    parser.add_argument("--solo", type=float, default=0.3, help="share of rows without a team (default 0.3)")
    parser.add_argument(
        "--guess", type=float, default=0.5, help="share of solo rows without a derivation (default 0.5)"
    )
    parser.add_argument(
        "--own", type=float, default=0.15, help="share of team rows the leader works out (default 0.15)"
    )
    parser.add_argument("--later", type=float, default=0.3, help="share of team rows from a later round (default 0.3)")
    parser.add_argument("--max_prompt_tokens", type=int, default=352, help="budget of a prompt (default 352)")
    parser.add_argument("--seed", type=int, default=0, help="seed of draws and traces (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    args = parser.parse_args()
    pool = open_pool(args.pool)
    if not len(pool):
        raise UserError(f"{args.pool}: the pool has no questions")
    tokenizer = open_tokenizer(args.model, "--model")
    renderer = PromptRenderer(tokenizer, load_template(args.template), args.max_prompt_tokens)
    rng = random.Random(args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", encoding="utf-8") as file:
        for number in tqdm(range(args.n), desc="leader traces"):
            row = pool[number % len(pool)]
            draw = make_draw(
                Question.from_row(row),
                row["responses"],
                seed=args.seed,
                episode=f"warm start {number // len(pool)}",
                solo_fraction=args.solo,
            )
            derivation = q.work(row["subtask"], row["question"])
            texts = reworded(rng, draw.texts)
            trace = (
                team_trace(rng, texts, row["answer"], derivation, args.own)
                if draw.texts
                else solo_trace(rng, derivation, row["answer"], args.guess)
            )
            last = None
            if draw.texts and rng.random() < args.later:  # what the leader finds in its prompt in rounds t > 0
                last = team_trace(rng, texts, row["answer"], derivation, args.own)
            prompt = renderer.render(row["question"], texts, last)
            # train_sft puts a blank before an end token that is missing.
            file.write(json.dumps({"input": prompt, "output": trace + tokenizer.eos_token}) + "\n")


if __name__ == "__main__":
    run_cli(main)
