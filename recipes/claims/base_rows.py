"""Make the rows of the base model that all models of claims_cpu.sh start from, for `openrlhf.cli.train_sft`.

    python3 recipes/claims/base_rows.py --model runs/claims/models/blank --seed 0 --out runs/claims/base.jsonl

Writes JSON Lines {"text": prompt and response}. What a pretrained model brings along: half of the rows are agents'
(agent_rows.py), half leaders' (leader_rows.py), and each is written by another of many people, who are wrong about half
of the facts; from one who knows all to one who knows nothing, so that a row begun as a copy goes on as one. The model
learns every token, as in pretraining: the responses in the prompts teach it to state claims, to copy and to count.
What is believed of which word, and who is unsure of what, comes with the training of each agent and of the leader.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator

import word_questions as q
from agent_rows import TEMPLATE, agent_rows, training_row
from beliefs import Beliefs
from leader_rows import add_arguments, leader_rows

from openrlhf_mlpo.errors import run_cli
from openrlhf_mlpo.files import write_jsonl
from openrlhf_mlpo.models import open_tokenizer
from openrlhf_mlpo.prompts.renderer import PromptRenderer

PEOPLE = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, 24000)
    args = parser.parse_args()
    tokenizer = open_tokenizer(args.model, "--model")
    renderer = PromptRenderer(tokenizer, TEMPLATE, args.max_prompt_tokens)
    rng = random.Random(f"base-{args.seed}")
    people = [Beliefs(f"{args.seed}/person {i}", i / (PEOPLE - 1)) for i in range(PEOPLE)]
    anybody = iter(lambda: rng.choice(people), None)
    questions = q.questions("school", 1000 * args.seed + 999, args.kinds)
    agents = agent_rows(rng, anybody, questions, 0.4, 0.2)
    leaders = leader_rows(rng, anybody, people, questions, args.listening, args.max_team)

    def rows() -> Iterator[dict[str, str]]:
        for (messages, response), (prompt, trace) in zip(agents, leaders, strict=False):
            yield training_row(tokenizer, messages, response)
            yield training_row(tokenizer, renderer.render(*prompt), trace)

    texts = ({"text": row["input"] + row["output"]} for row in itertools.islice(rows(), args.n))
    write_jsonl(args.out, texts)


if __name__ == "__main__":
    run_cli(main)
