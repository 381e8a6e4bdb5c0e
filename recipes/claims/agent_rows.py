"""Make the training rows of a toy agent, for `openrlhf.cli.train_sft`.

    python3 recipes/claims/agent_rows.py --agent 1 --model runs/claims/base --seed 0 --out runs/claims/agent_1.jsonl

Writes JSON Lines {"input": rendered prompt, "output": response} of the `school` split. Each agent learns its own
beliefs (beliefs.Beliefs), right and wrong alike, from three forms of prompt:

- the question alone;
- a later round: its own last response and an output of the leader, whose claims it takes up where it is not sure;
- several other responses, as in a mixture of agents: it takes up what most of them claim where it is not sure.

So an agent is as good at listening in the baselines as it is with a leader. Agents 1 to 3 are the team, the others make
the teams that no leader meets in training.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import word_questions as q
from beliefs import Beliefs, Problem, possible

from openrlhf_mlpo.errors import run_cli
from openrlhf_mlpo.files import write_jsonl
from openrlhf_mlpo.models import open_tokenizer
from openrlhf_mlpo.prompts.templates import BUILTIN_TEMPLATES, agent_messages, leader_messages

TEMPLATE = BUILTIN_TEMPLATES["compact"]
CANDIDATES = 12  # questions for a row in which others are listened to
DOUBTS = ("look again :", "wait , check it :")  # how a leader that turns back begins anew


def respond(problem: Problem, claims: Sequence[str]) -> str:
    """An agent's response."""
    work, answer = problem.solve(claims)
    return f"{work} <answer> {answer} </answer>"


def lead(problem: Problem, claims: Sequence[str], before: str = "") -> str:
    """A leader's output, in the form that MLPO rewards; `before`: what it thought first."""
    work, answer = problem.solve(claims)
    return f"<think> {before}{work} </think> <answer> {answer} </answer>"


def training_row(tokenizer: Any, prompt: str | list[dict], output: str) -> dict[str, str]:
    """A row for `train_sft`: the prompt as the model's chat template renders it, and the output with its end."""
    if not isinstance(prompt, str):
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return {"input": prompt, "output": output + tokenizer.eos_token}


def some_claims(rng: random.Random, problem: Problem) -> list[str]:
    """Claims of nobody in particular, any as likely: were they right more often, they would teach the facts."""
    return [rng.choice(possible(kind)) for kind, _ in problem.facts]


def led(rng: random.Random, problem: Problem, own: Beliefs, last: Sequence[str]) -> list[str]:
    """Claims of a leader to an agent: as they are met, many the same as its own, but any where the agent yields."""
    same = rng.choice((0, 0.5, 1))
    return [
        claim if fact not in own.yields and rng.random() < same else rng.choice(possible(fact[0]))
        for fact, claim in zip(problem.facts, last, strict=True)
    ]


def agent_rows(
    rng: random.Random,
    beliefs: Iterator[Beliefs],
    questions: Iterator[dict[str, str]],
    revise: float,
    listen: float,
    candidates: int = 1,
) -> Iterator[tuple[list[dict], str]]:
    """Endless (messages, response) of agents, row by row; a share of them revises, and one listens to other agents.

    These two shares are about that one of so many `candidates`, among those with as many words as the first, of which
    the agent would take up most: what it keeps it soon learns, to copy it learns slowly.
    """
    for own in beliefs:
        form, others = rng.random(), []
        rows = list(itertools.islice(questions, candidates if form < revise + listen else 1))
        problems = [Problem.of(row["subtask"], row["question"]) for row in rows]
        alike = [pair for pair in zip(problems, rows) if len(pair[0].words) == len(problems[0].words)]
        problem, row = max(alike, key=lambda pair: len(own.yields.intersection(pair[0].facts)))
        if form < revise:
            last = own.claims(problem, [some_claims(rng, problem)] if rng.random() < 0.5 else [])
            others = [led(rng, problem, own, last)]
            before = f"{problem.solve(some_claims(rng, problem))[0]} , {rng.choice(DOUBTS)} "
            leader = lead(problem, others[0], before if rng.random() < 0.15 else "")
            messages = agent_messages(TEMPLATE, row["question"], own=respond(problem, last), leader=leader)
        elif form < revise + listen:
            most = some_claims(rng, problem)  # what two of three say
            others = rng.sample([most, most, some_claims(rng, problem)], 3)
            messages = leader_messages(TEMPLATE, row["question"], [respond(problem, claims) for claims in others])
        else:
            messages = agent_messages(TEMPLATE, row["question"])
        yield messages, respond(problem, own.claims(problem, others))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=int, required=True, help="which agent, from 1")
    parser.add_argument("--model", required=True, help="the model that is trained, for its chat template")
    parser.add_argument("--revise", type=float, default=0.7, help="share of later-round rows (default 0.7)")
    parser.add_argument("--listen", type=float, default=0.15, help="share with others' responses (default 0.15)")
    q.add_arguments(parser, 12000)
    args = parser.parse_args()
    tokenizer = open_tokenizer(args.model, "--model")
    own = itertools.repeat(Beliefs(f"{args.seed}/agent {args.agent}"))
    questions = q.questions("school", 1000 * args.seed + args.agent, args.kinds)
    rng = random.Random(f"agent-{args.agent}-{args.seed}")
    made = agent_rows(rng, own, questions, args.revise, args.listen, CANDIDATES)
    write_jsonl(args.out, (training_row(tokenizer, *row) for row in itertools.islice(made, args.n)))


if __name__ == "__main__":
    run_cli(main)
