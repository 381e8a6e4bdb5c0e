"""What a leader and its team are compared with: votes, debate, mixture of agents; and votes on an equal budget.

Debate follows Du et al. 2023 (arXiv 2305.14325): each agent sees the others' last responses and answers again, and the
last answers vote. Mixture of agents follows Wang et al. 2024 (arXiv 2406.04692): each layer sees all responses of the
layer before, and an untrained model aggregates the last.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from openrlhf_mlpo.prompts.templates import PromptTemplate, agent_messages, leader_messages
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player, Turn, shown_order

DEBATE = (
    "You answered before:\n\n[your last response]\n{own} \n[end of your last response]\n\nOther agents answered:\n\n"
    "{leader}\n\nUse their responses as additional information, check them, then answer again."
)


def vote(answers: Sequence[str | None], keys: Sequence[str | None], seed: int, question_id: str) -> str | None:
    """The answer most often given, counted by `keys` (normal forms); None does not vote.

    A tie goes to one of the tied, chosen by (seed, question): neither the first agent nor the alphabet is favoured.
    """
    counts = Counter(key for key in keys if key is not None)
    if not counts:
        return None
    most = max(counts.values())
    tied = sorted(key for key, count in counts.items() if count == most)
    winner = random.Random(f"vote/{seed}/{question_id}").choice(tied)
    return answers[list(keys).index(winner)]


def debate(
    team: Sequence[Player],
    questions: Sequence[Question],
    first: Sequence[Sequence[Turn]],
    template: PromptTemplate,
    *,
    rounds: int,
    seed: int = 0,
) -> list[list[list[Turn]]]:
    """`[question][round][agent]`, round 0 being `first`."""
    played = [[list(turns)] for turns in first]
    for t in range(1, rounds):
        columns = []
        for k, agent in enumerate(team):
            prompts = []
            form = agent.template or template
            bare = not form.agent_instruction  # "compact": models that follow no instructions are shown none
            revision = replace(form, revision="agent : {own}\n{leader}" if bare else DEBATE)
            for q, episode in zip(questions, played, strict=True):
                last = [turn.text for turn in episode[-1]]
                texts = [last[k], *(text for j, text in enumerate(last) if j != k)]

                def build(
                    texts: Sequence[str], q: Question = q, agent: Player = agent, revision: PromptTemplate = revision
                ) -> list[dict]:
                    others = revision.separator.join(
                        revision.response.replace("{number}", str(number)).replace("{text}", text)
                        for number, text in enumerate(texts[1:], 1)
                    )
                    return agent.with_system(agent_messages(revision, q.text, own=texts[0], leader=others))

                prompts.append(build(agent.fit(texts, build)))
            columns.append([samples[0] for samples in agent.ask(prompts, round=t, seed=seed)])
        for i, episode in enumerate(played):
            episode.append([column[i] for column in columns])
    return played


def mixture_of_agents(
    team: Sequence[Player],
    aggregator: Player,
    questions: Sequence[Question],
    first: Sequence[Sequence[Turn]],
    template: PromptTemplate,
    *,
    layers: int,
    seed: int = 0,
) -> list[list[list[Turn]]]:
    """`[question][layer]`: the K responses of the layer, then what the aggregator makes of them."""
    proposals = [list(turns) for turns in first]
    played: list[list[list[Turn]]] = [[] for _ in questions]
    for layer in range(layers):
        if layer:
            shown = _shown(proposals, questions, len(team), seed)
            columns = []
            for agent in team:
                form = agent.template or template
                proposer = replace(form, instruction_team=form.agent_instruction, system=form.agent_system)
                prompts = []
                for q, texts in zip(questions, shown, strict=True):

                    def build(
                        texts: Sequence[str],
                        q: Question = q,
                        agent: Player = agent,
                        proposer: PromptTemplate = proposer,
                    ) -> list[dict]:
                        return agent.with_system(leader_messages(proposer, q.text, texts))

                    prompts.append(build(agent.fit(texts, build)))
                columns.append([samples[0] for samples in agent.ask(prompts, round=layer, seed=seed)])
            proposals = [[column[i] for column in columns] for i in range(len(questions))]
        shown = _shown(proposals, questions, len(team), seed)
        pairs = zip(questions, shown, strict=True)
        prompts = [aggregator.leader_prompt(template, q.text, texts) for q, texts in pairs]
        for i, samples in enumerate(aggregator.ask(prompts, round=layer, seed=seed)):
            played[i].append([*proposals[i], samples[0]])
    return played


def _shown(proposals: list[list[Turn]], questions: Sequence[Question], k: int, seed: int) -> list[list[str]]:
    return [[turns[j].text for j in shown_order(k, seed, q.id)] for q, turns in zip(questions, proposals, strict=True)]


def within_tokens(turns: Sequence[Turn], budget: int) -> list[Turn]:
    """The first turns whose tokens, prompt and completion, add up to at most `budget`; always at least one."""
    kept, spent = [], 0
    for turn in turns:
        spent += turn.prompt_tokens + turn.completion_tokens
        if kept and spent > budget:
            break
        kept.append(turn)
    return kept
