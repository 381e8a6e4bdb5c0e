"""Make the leader's schooling, for `openrlhf.cli.train_sft`: what an instruct model brings along.

    python3 recipes/claims/leader_rows.py --model runs/claims/base --seed 0 --out runs/claims/leader.jsonl

Writes JSON Lines {"input": rendered leader prompt, "output": trace} of the `school` split, rendered exactly as in MLPO
training: alone, with responses of up to eight agents, and in later rounds. The leader learns its own beliefs, some of
them wrong, and a habit that uses the team badly: at each word it goes by its own belief, and now and then takes up what
one of the agents claims, whichever. So its samples are as good as its greedy answers, nothing tells it when to listen
or to whom, and that is left to MLPO. The agents here are none of those that it will meet.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator, Sequence

import word_questions as q
from agent_rows import DOUBTS, TEMPLATE, lead, respond, training_row
from beliefs import WRONG, Beliefs, Problem

from openrlhf_mlpo.errors import run_cli
from openrlhf_mlpo.files import write_jsonl
from openrlhf_mlpo.models import open_tokenizer
from openrlhf_mlpo.prompts.renderer import PromptRenderer

LEADER_WRONG = WRONG + 0.02  # such that what it takes up at random is as good as its own
STRANGERS = 40  # agents whose responses these prompts show
SOLO, LATER = 0.3, 0.5  # shares: of rows without a team, and of the other rows that are from a later round
SIZES = (1, 2, 3, 3, 3, 3, 4, 5, 6, 8)  # of teams, as likely each


def habit(rng: random.Random, own: list[str], team: list[list[str]], listening: float) -> list[str]:
    """The leader's claims: its own, but at each word with probability `listening` those of some agent."""
    return [rng.choice(team)[i] if team and rng.random() < listening else claim for i, claim in enumerate(own)]


def leader_rows(
    rng: random.Random,
    beliefs: Iterator[Beliefs],
    strangers: Sequence[Beliefs],
    questions: Iterator[dict[str, str]],
    listening: float,
    max_team: int = SIZES[-1],
) -> Iterator[tuple[tuple[str, list[str], str | None], str]]:
    """Endless ((question, responses, last output), trace) of leaders, row by row."""
    sizes = [size for size in SIZES if size <= max_team]
    for row, own in zip(questions, beliefs, strict=False):
        problem = Problem.of(row["subtask"], row["question"])
        believed = own.claims(problem)
        agents = [] if rng.random() < SOLO else rng.sample(strangers, rng.choice(sizes))
        team, last = [agent.claims(problem) for agent in agents], None
        if agents and rng.random() < LATER:
            for _ in range(rng.choice((1, 1, 2))):
                said = habit(rng, believed, team, listening)
                before = f"{problem.solve(habit(rng, believed, team, listening))[0]} , {rng.choice(DOUBTS)} "
                last = lead(problem, said, before if rng.random() < 0.1 else "")
                team = [agent.claims(problem, [said]) for agent in agents]
        trace = lead(problem, habit(rng, believed, team, listening))
        yield (row["question"], [respond(problem, claims) for claims in team], last), trace


def add_arguments(parser: argparse.ArgumentParser, n: int) -> None:
    """What the scripts that render leader prompts take."""
    parser.add_argument("--model", required=True, help="the model that is trained, for its tokenizer and chat template")
    parser.add_argument(
        "--listening", type=float, default=0.25, help="share of words at which an agent is followed (default 0.25)"
    )
    parser.add_argument("--max_team", type=int, default=SIZES[-1], help="agents in a prompt at most (default 8)")
    parser.add_argument("--max_prompt_tokens", type=int, default=464, help="budget of a prompt (default 464)")
    q.add_arguments(parser, n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, 12000)
    args = parser.parse_args()
    tokenizer = open_tokenizer(args.model, "--model")
    renderer = PromptRenderer(tokenizer, TEMPLATE, args.max_prompt_tokens)
    own = itertools.repeat(Beliefs(f"{args.seed}/leader", LEADER_WRONG))
    strangers = [Beliefs(f"{args.seed}/stranger {i}") for i in range(STRANGERS)]
    questions = q.questions("school", 1000 * args.seed, args.kinds)
    made = leader_rows(random.Random(f"leader-{args.seed}"), own, strangers, questions, args.listening, args.max_team)
    rows = itertools.islice(made, args.n)
    write_jsonl(args.out, (training_row(tokenizer, renderer.render(*prompt), trace) for prompt, trace in rows))


if __name__ == "__main__":
    run_cli(main)
