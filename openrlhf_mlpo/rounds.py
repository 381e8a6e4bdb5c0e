"""The leader-team protocol at inference: T rounds in which the team answers, then the leader (paper, inference).

`leader_team` is the whole flow. It goes through all questions of a round at once, one batch per model, because a batch
costs a fraction of the same prompts sent one by one. Nothing is judged here: `Turn`s keep every message, token count
and time, and eval/ says which are right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openrlhf_mlpo.engines import Sampling, request_seed
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.models import context_length, open_tokenizer
from openrlhf_mlpo.prompts.budget import count_tokens, cut_to_fit, encode
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import PromptTemplate, agent_messages, leader_messages, load_template, with_system
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.team import Agent
from openrlhf_mlpo.verify.extract import opened_thinking

Prompt = str | list[dict]  # a rendered string or chat messages, as engines take them


@dataclass(frozen=True)
class Turn:
    """One message of one model. `seconds` is its share of the batch's wall time, not the wait of a lone user."""

    player: str
    round: int
    prompt: Prompt
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    seconds: float


@dataclass(frozen=True)
class Round:
    """What happened to one question in one round; `responses` in team order."""

    responses: tuple[Turn, ...]
    output: Turn


# (prompts, n, seed) -> per prompt, n completions with the fields of `engines.Completion`; and the wall seconds it took.
Generate = Callable[[Sequence[Prompt], int, int], tuple[list[list[Any]], float]]


@dataclass
class Player:
    """A model that takes part, agent or leader. With `renderer`, its leader prompts are rendered to fit its budget;
    with `tokenizer` and `max_prompt_tokens`, what an agent is shown in rounds t > 0 is cut to fit."""

    name: str
    generate: Generate | None  # None for a player that only makes prompts
    renderer: PromptRenderer | None = None
    tokenizer: Any = None
    max_prompt_tokens: int = 0  # 0: no limit
    about: dict = field(default_factory=dict)  # for the manifest: model, engine, sampling
    system: str = ""  # put before the agent's messages when the team file gives one
    template: PromptTemplate | None = None  # an agent's own, in place of the run's
    show: str = "full"  # what a leader without renderer sees of a response, see `prompts.templates.shown`
    chat_template_kwargs: dict = field(default_factory=dict)  # with which the engine renders an agent's messages

    def ask(self, prompts: Sequence[Prompt], *, round: int = 0, n: int = 1, seed: int = 0) -> list[list[Turn]]:
        """`n` turns per prompt. Equal requests get equal seeds: a method may ask again what another has asked."""
        if not prompts:
            return []
        assert self.generate is not None, f"{self.name} only makes prompts"
        completions, seconds = self.generate(prompts, n, request_seed(seed, self.name, str(round)))
        share = seconds / (len(prompts) * n)
        return [
            [self.turn(prompt, completion, round, share) for completion in samples]
            for prompt, samples in zip(prompts, completions, strict=True)
        ]

    def turn(self, prompt: Prompt, completion: Any, round: int, seconds: float) -> Turn:
        """A completion as this player's turn, with the thinking that its prompt opened."""
        text, reason = opened_thinking(prompt) + completion.text, str(completion.finish_reason)
        tokens = completion.prompt_tokens, completion.completion_tokens
        return Turn(self.name, round, prompt, text, *tokens, reason, seconds)

    def agent_prompt(self, template: PromptTemplate, question: str, own: str | None, leader: str | None) -> list[dict]:
        """What this agent is sent: the question, and from round 1 its last response and the leader's last output."""

        def build(own: str | None, leader: str | None) -> list[dict]:
            messages = agent_messages(self.template or template, question, own=own, leader=leader)
            return with_system(self.system, messages)

        texts = self.fit([own or "", leader or ""], lambda texts: build(*texts)) if own is not None else (None, None)
        return build(*texts)

    def leader_prompt(
        self, template: PromptTemplate, question: str, responses: Sequence[str], last_output: str | None = None
    ) -> Prompt:
        """What this leader is sent; no responses: solo. The leader's history is carried in the user turn."""
        if self.renderer is not None:
            return self.renderer.render(question, responses, last_output)
        return leader_messages(template, question, responses, last_output=last_output, show=self.show)

    def fit(self, texts: Sequence[str], build: Callable[[Sequence[str]], list[dict]]) -> list[str]:
        """The texts, cut from their beginnings (the answer is at the end) until `build(texts)` fits the budget."""
        texts = list(texts)
        if not (self.tokenizer and self.max_prompt_tokens):
            return texts

        def rendered(texts: Sequence[str]) -> str:
            messages = build(texts)
            if not getattr(self.tokenizer, "chat_template", None):
                return "\n".join(message["content"] for message in messages)
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.chat_template_kwargs
            )

        prompt = rendered(texts)
        # A token covers at least one ASCII character, and some tokenizers put one blank in front: a short prompt fits
        # without being tokenized, which would cost more than all else here.
        if prompt.isascii() and len(prompt) < self.max_prompt_tokens:
            return texts

        def excess(texts: Sequence[str]) -> int:
            return count_tokens(self.tokenizer, rendered(texts)) - self.max_prompt_tokens

        over = excess(texts)
        if over <= 0:
            return texts
        tokens = encode(self.tokenizer, texts)
        return cut_to_fit(self.tokenizer, texts, tokens, sum(map(len, tokens)) - over, excess)


def agent_player(agent: Agent, generate: Generate | None, sampling: Sampling, *, max_prompt_tokens: int = 0) -> Player:
    """An agent of a team file as a player, its prompts cut to what its model's context leaves.

    `max_prompt_tokens`: another limit of a prompt; 0: context less `sampling.max_tokens` (half of the context where an
    agent has no limit). Raises UserError.
    """
    about = {"model": agent.model, "engine": agent.engine, "sampling": sampling.as_dict()}
    template = load_template(agent.prompt) if agent.prompt else None
    player = Player(agent.name, generate, about=about, system=agent.system, template=template)
    if agent.runs_vllm:
        where = f"{agent.name}: model"
        player.tokenizer = open_tokenizer(agent.model, where)
        player.chat_template_kwargs = agent.engine_args.get("chat_template_kwargs") or {}
        context = context_length(agent.model, agent.engine_args, where)
        player.max_prompt_tokens = max_prompt_tokens or context - (sampling.max_tokens or context // 2)
        if player.max_prompt_tokens < 1:
            raise UserError(
                f"{agent.name}: max_tokens {sampling.max_tokens} leaves nothing of the model's context of {context} "
                "tokens for a prompt; lower it"
            )
    return player


def as_leader(player: Player, template: PromptTemplate, show: str) -> Player:
    """The player as a leader: with a tokenizer of its own its prompts are rendered to fit. See `PromptRenderer`."""
    player.show = show
    if player.tokenizer is not None:
        player.renderer = PromptRenderer(
            player.tokenizer, template, player.max_prompt_tokens, show, player.chat_template_kwargs
        )
    return player


def shown_order(k: int, seed: int, question_id: str) -> list[int]:
    """The order in which a question's K responses are shown: shuffled, as in training, so that a place carries no
    identity; the same in every round, so that the leader's last output can still say "response 2"."""
    order = list(range(k))
    random.Random(f"{seed}/{question_id}").shuffle(order)
    return order


def team_answers(
    team: Sequence[Player], questions: Sequence[Question], template: PromptTemplate, *, n: int = 1, seed: int = 0
) -> list[list[list[Turn]]]:
    """Round 0 of the team, without a leader: `[question][agent][sample]`."""
    by_agent = [
        agent.ask([agent.agent_prompt(template, q.text, None, None) for q in questions], n=n, seed=seed)
        for agent in team
    ]
    return [list(of_question) for of_question in zip(*by_agent, strict=True)]


def leader_team(
    team: Sequence[Player],
    leaders: Sequence[Player],
    questions: Sequence[Question],
    template: PromptTemplate,
    *,
    rounds: int,
    seed: int = 0,
    settled: Callable[[Question, str, str], bool] | None = None,
) -> dict[str, list[list[Round]]]:
    """Play every question with every leader: `{leader: [question][round]}`.

    Round 0's responses are the same for all leaders (a paired comparison); after it each leader has a team of its own.
    Models take turns in the outer loops, so a model that must be loaded is loaded once a round for all leaders.
    `settled(question, last_output, output)` ends a question early; None plays all rounds.
    """
    played: dict[str, list[list[Round]]] = {leader.name: [[] for _ in questions] for leader in leaders}
    open_: dict[str, list[int]] = {leader.name: list(range(len(questions))) for leader in leaders}
    first = [[samples[0] for samples in agents] for agents in team_answers(team, questions, template, seed=seed)]
    for t in range(rounds):
        responses: dict[str, dict[int, list[Turn]]] = {name: {i: [] for i in open_[name]} for name in played}
        for k, agent in enumerate(team):
            for name, episodes in played.items():
                if t == 0:
                    turns = [[first[i][k]] for i in open_[name]]
                else:
                    last = [episodes[i][-1] for i in open_[name]]
                    prompts = [
                        agent.agent_prompt(template, questions[i].text, r.responses[k].text, r.output.text)
                        for i, r in zip(open_[name], last, strict=True)
                    ]
                    turns = agent.ask(prompts, round=t, seed=seed)
                for i, turn in zip(open_[name], turns, strict=True):
                    responses[name][i].append(turn[0])
        for leader in leaders:
            episodes, live = played[leader.name], open_[leader.name]
            prompts = []
            for i in live:
                order = shown_order(len(team), seed, questions[i].id)
                shown = [responses[leader.name][i][k].text for k in order]
                last_output = episodes[i][-1].output.text if t else None
                prompts.append(leader.leader_prompt(template, questions[i].text, shown, last_output))
            for i, output in zip(live, leader.ask(prompts, round=t, seed=seed), strict=True):
                episodes[i].append(Round(tuple(responses[leader.name][i]), output[0]))
            if settled and t:
                outputs = {i: (episodes[i][-2].output.text, episodes[i][-1].output.text) for i in live}
                open_[leader.name] = [i for i in live if not settled(questions[i], *outputs[i])]
    return played


def leader_solo(
    leader: Player, questions: Sequence[Question], template: PromptTemplate, *, n: int = 1, seed: int = 0
) -> list[list[Turn]]:
    """The leader alone, `[question][sample]`."""
    prompts = [leader.leader_prompt(template, q.text, []) for q in questions]
    return leader.ask(prompts, n=n, seed=seed)
