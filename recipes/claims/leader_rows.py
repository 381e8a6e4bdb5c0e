"""Make the leader's schooling, for `openrlhf.cli.train_sft`: what an instruct model brings along.

    python3 recipes/claims/leader_rows.py --model runs/claims/models/leader --n 24000 --seed 0 \
        --out runs/claims/base.jsonl

Writes JSON Lines {"input": rendered leader prompt, "output": trace} of the `school` split, rendered exactly as in MLPO
training: alone, with responses of up to eight agents, and in later rounds. The leader learns its own beliefs, some of
them wrong, and a habit that uses the team badly: at each word it goes by its own belief, and now and then takes up what
one of the agents claims, whichever. So its samples are as good as its greedy answers, nothing tells it when to listen
or to whom, and that is left to MLPO. The agents here are none of those that it will meet.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import word_questions as q
from agent_rows import DOUBTS, lead, respond
from beliefs import WRONG, Beliefs, Problem
from tqdm import tqdm

from openrlhf_mlpo.errors import run_cli
from openrlhf_mlpo.models import open_tokenizer
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template

LEADER_WRONG = WRONG + 0.05  # worse than its agents, so that what it takes up at random is as good as its own
STRANGERS = 40  # agents whose responses these prompts show
SIZES = (1, 2, 3, 3, 3, 3, 4, 5, 6, 8)  # of teams, as likely each


def habit(rng: random.Random, own: list[str], team: list[list[str]], listening: float) -> list[str]:
    """The leader's claims: its own, but at each word with probability `listening` those of some agent."""
    return [rng.choice(team)[i] if team and rng.random() < listening else claim for i, claim in enumerate(own)]


def prompts(seed: int, solo: float, later: float, listening: float) -> Iterator[tuple[str, list[str], str | None, str]]:
    """Endless (question, responses, last output, trace)."""
    rng = random.Random(f"leader-{seed}")
    own = Beliefs(f"{seed}/leader", LEADER_WRONG)
    strangers = [Beliefs(f"{seed}/stranger {i}") for i in range(STRANGERS)]
    for row in q.questions("school", 10 * seed):
        problem = Problem.of(row["subtask"], row["question"])
        believed = own.claims(problem)
        agents = [] if rng.random() < solo else rng.sample(strangers, rng.choice(SIZES))
        team, last = [agent.claims(problem) for agent in agents], None
        if agents and rng.random() < later:
            for _ in range(rng.choice((1, 1, 2))):
                said = habit(rng, believed, team, listening)
                before = f"{problem.solve(habit(rng, believed, team, listening))[0]} , {rng.choice(DOUBTS)} "
                last = lead(problem, said, before if rng.random() < 0.1 else "")
                team = [agent.claims(problem, [said]) for agent in agents]
        trace = lead(problem, habit(rng, believed, team, listening))
        yield row["question"], [respond(problem, claims) for claims in team], last, trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the leader, for its tokenizer and chat template")
    parser.add_argument("--template", default="compact", help="prompt template (default compact)")
    parser.add_argument("--n", type=int, default=24000, help="rows to write (default 24000)")
    parser.add_argument("--solo", type=float, default=0.3, help="share of rows without a team (default 0.3)")
    parser.add_argument("--later", type=float, default=0.5, help="share of team rows from a later round (default 0.5)")
    parser.add_argument(
        "--listening", type=float, default=0.25, help="share of words at which an agent is followed (default 0.25)"
    )
    parser.add_argument("--max_prompt_tokens", type=int, default=544, help="budget of a prompt (default 544)")
    parser.add_argument("--seed", type=int, default=0, help="seed of beliefs, draws and traces (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    args = parser.parse_args()
    tokenizer = open_tokenizer(args.model, "--model")
    renderer = PromptRenderer(tokenizer, load_template(args.template), args.max_prompt_tokens)
    made = prompts(args.seed, args.solo, args.later, args.listening)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", encoding="utf-8") as file:
        for _ in tqdm(range(args.n), desc="leader traces"):
            question, responses, last, trace = next(made)
            row = {"input": renderer.render(question, responses, last), "output": trace + tokenizer.eos_token}
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    run_cli(main)
