"""Make the training rows of the quickstart's agents, for `openrlhf.cli.train_sft`.

    python3 recipes/quickstart/agent_data.py --agent 1 --n 20000 --seed 0 --out runs/quickstart/agent_1.jsonl

Writes JSON Lines {"input": ..., "output": ...}. Each agent sees its own mixture of the three tasks and has its own
phrasing, so each is good at something else; what it gets wrong, it gets wrong because it learned too little of it.
Agents 1 to 3 are the team; 4 to 7 make the one that the leader never meets in training.
All rows end right and come from the `agents` split, which neither the leader nor the test ever sees.

A share of the rows (--revise) has the form of a later round: the question, a last response of the agent and a last
output of the leader, which may each be wrong; the output is the right answer again. There the agent learns how far
to trust a leader. Nothing is altered when agents are run.
"""

from __future__ import annotations

import argparse
import itertools
import random
from pathlib import Path

import questions as q
from leader_data import PHRASES, derive, follow

from openrlhf_mlpo.errors import run_cli
from openrlhf_mlpo.files import write_jsonl
from openrlhf_mlpo.prompts.untrusted import defuse

# How much of each task (in questions.MAKERS' order) an agent is taught; leader_data.PHRASES is how it puts its answer.
_THIRD = 1 / 3
MIXTURES = (
    (0.80, 0.10, 0.10), (0.08, 0.84, 0.08), (0.10, 0.10, 0.80),
    (0.70, 0.15, 0.15), (0.15, 0.70, 0.15), (0.15, 0.15, 0.70), (_THIRD, _THIRD, _THIRD),
)  # fmt: skip
SKILL = 0.8  # how often the leader's output in a revise row is right


def rows(agent: int, seed: int, revise: float):  # noqa: ANN201
    """Endless {"input", "output"} rows of agent number `agent` (from 1)."""
    rng = random.Random(f"agent-{agent}-{seed}")
    say, mixture = PHRASES[agent - 1], MIXTURES[agent - 1]
    streams = {s: q.questions("agents", 10 * seed + agent, [s]) for s in q.MAKERS}
    seen: dict[str, list[str]] = {s: [] for s in q.MAKERS}
    while True:
        subtask = rng.choices(list(streams), mixture)[0]
        row = next(streams[subtask])
        gold = row["answer"]
        prompt = row["question"]
        if rng.random() < revise:
            own_skill = max(mixture) if mixture[list(streams).index(subtask)] == max(mixture) else 0.4
            own = gold if rng.random() < own_skill else rng.choice(seen[subtask] or [gold])
            led = gold if rng.random() < SKILL else rng.choice(seen[subtask] or [gold])
            prompt += f"\nagent : {defuse(say.format(own))}\nleader : {defuse(leader_text(rng, led, row))}"
        seen[subtask] = (seen[subtask] + [gold])[-50:]
        yield {"input": prompt, "output": say.format(gold)}


def leader_text(rng: random.Random, answer: str, row: dict) -> str:
    """A leader output in the form of the leader's own schooling, ending in `answer`."""
    work = q.work(row["subtask"], row["question"])
    if rng.random() < 0.2:
        return derive(work, answer)
    return follow(work, rng.randint(1, 3), rng.choice(PHRASES[:3]).format(answer), answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=int, required=True, choices=range(1, len(PHRASES) + 1), help="which agent")
    parser.add_argument("--n", type=int, default=20000, help="rows to write (default 20000)")
    parser.add_argument("--revise", type=float, default=0.4, help="share of later-round rows (default 0.4; 0 = none)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    args = parser.parse_args()
    write_jsonl(args.out, itertools.islice(rows(args.agent, args.seed, args.revise), args.n))


if __name__ == "__main__":
    run_cli(main)
