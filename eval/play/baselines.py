"""Debate and mixture of agents: the methods in which agents read each other's responses.

Debate follows Du et al. 2023 (arXiv 2305.14325): each agent sees the others' last responses and answers again, and the
last answers vote. Mixture of agents follows Wang et al. 2024 (arXiv 2406.04692): each layer sees all responses of the
layer before, and an untrained model aggregates the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

from eval.play.state import Play
from openrlhf_mlpo.prompts.templates import agent_messages, leader_messages, with_system
from openrlhf_mlpo.rounds import Turn, shown_order

DEBATE = (
    "You answered before:\n\n[your last response]\n{own} \n[end of your last response]\n\nOther agents answered:\n\n"
    "{leader}\n\nUse their responses as additional information, check them, then answer again."
)


def debate(play: Play) -> None:
    """The agents show each other their responses and answer again; the last answers vote."""
    config, team, questions = play.config, play.team, play.questions
    episodes = [[list(turns)] for turns in play.first]  # [question][round][agent]

    def prompt(k: int, i: int) -> list[dict]:
        form = team[k].template or config.template
        bare = not form.agent_instruction  # "compact": models that follow no instructions are shown none
        form = replace(form, revision="agent : {own}\n{leader}" if bare else DEBATE)

        def build(texts: Sequence[str]) -> list[dict]:
            blocks = [
                form.response.replace("{number}", str(number)).replace("{text}", text)
                for number, text in enumerate(texts[1:], 1)
            ]
            others = form.separator.join(blocks)
            messages = agent_messages(form, questions[i].text, own=texts[0], leader=others)
            return with_system(team[k].system, messages)

        last = [turn.text for turn in episodes[i][-1]]
        return build(team[k].fit([last[k], *last[:k], *last[k + 1 :]], build))

    longest = max(config.debate_rounds, play.generations // len(team) if config.budgets else 0)
    for t in range(1, longest):
        for episode, turns in zip(episodes, ask_team(play, prompt, t)):
            episode.append(turns)
    for i, episode in enumerate(episodes):
        costs = list(accumulate(episode))  # of lists: all turns up to each round
        for budget, t in [*(("", t) for t in range(config.debate_rounds)), *play.affordable(i, costs)]:
            play.record.elected(i, "debate", episode[t], costs[t], budget=budget, round=t)
        play.record.transcript(i, "debate", costs[-1])


def mixture_of_agents(play: Play) -> None:
    """Layers of agents that see all responses of the layer before; the aggregator answers from the last."""
    config, team, questions, aggregator = play.config, play.team, play.questions, play.aggregator
    assert aggregator, "a leader that aggregates"
    proposals, shown = play.first, []
    episodes: list[list[list[Turn]]] = [[] for _ in questions]  # [question][layer]: responses, then the aggregator's

    def prompt(k: int, i: int) -> list[dict]:
        form = team[k].template or config.template
        form = replace(form, instruction_team=form.agent_instruction, system=form.agent_system)

        def build(texts: Sequence[str]) -> list[dict]:
            return with_system(team[k].system, leader_messages(form, questions[i].text, texts))

        return build(team[k].fit(shown[i], build))

    longest = max(config.moa_layers, (play.generations - 1) // len(team) if config.budgets else 0)
    for layer in range(longest):
        proposals = ask_team(play, prompt, layer) if layer else proposals
        orders = [shown_order(len(team), config.seed, question.id) for question in questions]
        shown = [[turns[j].text for j in order] for turns, order in zip(proposals, orders)]
        prompts = [aggregator.leader_prompt(config.template, q.text, texts) for q, texts in zip(questions, shown)]
        outputs = aggregator.ask(prompts, round=layer, seed=config.seed)
        for episode, turns, samples in zip(episodes, proposals, outputs):
            episode.append([*turns, samples[0]])
    for i, episode in enumerate(episodes):
        # At depth t the earlier layers' proposals are used, but not what the aggregator would have made of them.
        costs = [[turn for turns in episode[:t] for turn in turns[:-1]] + episode[t] for t in range(longest)]
        for budget, t in [("", config.moa_layers - 1), *play.affordable(i, costs)]:
            more = {"leader": aggregator.name, "round": t, "budget": budget}
            play.record.output(i, "mixture_of_agents", costs[t], episode[t][-1], **more)
        play.record.transcript(i, "mixture_of_agents", costs[-1], aggregator.name)


def ask_team(play: Play, prompt: Callable[[int, int], list[dict]], round: int) -> list[list[Turn]]:
    """Every agent's turn on every question, `[question][agent]`; `prompt(k, i)`: agent k's prompt for question i."""
    columns = [
        agent.ask([prompt(k, i) for i in range(len(play.questions))], round=round, seed=play.config.seed)
        for k, agent in enumerate(play.team)
    ]
    return [[samples[0] for samples in of_question] for of_question in zip(*columns)]
