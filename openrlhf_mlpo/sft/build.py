"""The warm-start data: leader prompts over a pool, the leader's outputs to them, and the traces composed of those."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from openrlhf_mlpo.engines import Conversation, Sampling
from openrlhf_mlpo.errors import UserError, versions
from openrlhf_mlpo.pool.draw import Draw, draw_of, make_draw
from openrlhf_mlpo.pool.format import open_pool
from openrlhf_mlpo.pool.sample import PACKAGES, sample_pool
from openrlhf_mlpo.prompts.budget import count_tokens
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.questions import Question, questions_dataset
from openrlhf_mlpo.rounds import Player, agent_player
from openrlhf_mlpo.sft.traces import KINDS, Trace, compose, leaks
from openrlhf_mlpo.team import Agent, digest, load_team
from openrlhf_mlpo.verify.extract import opened_thinking

Team = list[tuple[Agent, Player]]


@dataclass
class LeaderPrompt:
    """One leader prompt of the data: its question and that question's responses, the draw, its round and its text."""

    question: Question
    responses: list[dict]
    draw: Draw
    number: int
    later: bool
    text: str
    outputs: list[dict] = field(default_factory=list)

    @property
    def id(self) -> str:
        return digest(f"{self.question.id}\x1f{self.number}\x1f{self.later}\x1f{self.text}")

    @property
    def opened(self) -> str:
        """The `<think>` that the text ends with, if its chat template opens the thinking itself; else ""."""
        return opened_thinking(self.text)

    @property
    def last_output(self) -> str:
        """What a later round shows of the leader: its first output, right or wrong, as a turn of inference holds it."""
        return self.opened + self.outputs[0]["text"]


def new_draw(args, question: Question, responses: list[dict], number: int, solo: float) -> Draw:
    """A draw that training, whose episodes are numbers, does not see again."""
    return make_draw(question, responses, seed=args.seed, episode=f"sft {number}", solo_fraction=solo)


def first_prompts(args, rows, renderer: PromptRenderer) -> list[LeaderPrompt]:
    """--draws prompts for every question, of which a share is solo. `rows`: of a pool."""
    prompts = []
    for row in rows:
        question, responses = Question.from_row(row), row["responses"]
        for number in range(args.draws):
            draw = new_draw(args, question, responses, number, args.solo_fraction)
            text = renderer.render(question.text, draw.texts)
            prompts.append(LeaderPrompt(question, responses, draw, number, False, text))
    return prompts


def later_prompts(args, answered: list[LeaderPrompt], renderer: PromptRenderer, team: Team) -> list[LeaderPrompt]:
    """For a share of the team prompts one of a later round: the leader's first output, right or wrong, and what the
    team answers to it; without a team a new draw. More --draws or --samples change none of them."""
    before = []
    for prompt in answered:
        rng = random.Random(f"{args.seed}:later:{prompt.id}")
        if prompt.draw.texts and prompt.outputs and rng.random() < args.later_fraction:
            before.append(prompt)
    numbers = [-1 - prompt.number for prompt in before]  # draws of their own, however many the first prompts have
    if team and before:
        draws = revised_draws(args, before, team)
    else:
        draws = [new_draw(args, p.question, p.responses, number, 0.0) for p, number in zip(before, numbers)]
    prompts = []
    for prompt, number, draw in zip(before, numbers, draws, strict=True):
        text = renderer.render(prompt.question.text, draw.texts, prompt.last_output)
        prompts.append(LeaderPrompt(prompt.question, prompt.responses, draw, number, True, text))
    return prompts


def open_team(args, pool) -> Team:
    """The agents of --team with their players, which say what an agent is asked; none without --team.

    Raises UserError when a response of the pool is of another agent.
    """
    agents = load_team(args.team) if args.team else []
    names = {response["agent"] for row in pool for response in row["responses"]} if agents else set()
    if unknown := sorted(names - {agent.name for agent in agents}):
        raise UserError(
            f"--team {args.team} has no agent {unknown[0]!r}, whose responses {args.pool} holds; name the team file "
            "that the pool was sampled with"
        )
    return [(a, agent_player(a, None, Sampling.from_dict(a.sampling))) for a in agents if a.name in names]


def revised_draws(args, before: Sequence[LeaderPrompt], team: Team) -> list[Draw]:
    """Let the team revise its responses after the leader's first outputs; the draws keep their agents' order.

    Each agent sees the question, its own response and the leader's output, as at inference.
    """
    template = load_template(args.template)
    asked, ids = {}, []
    for prompt in before:
        own, question = dict(zip(prompt.draw.agents, prompt.draw.texts)), prompt.question.text
        messages = {
            agent.name: player.agent_prompt(template, question, own.get(agent.name), prompt.last_output)
            for agent, player in team
        }
        ids.append(digest(json.dumps([prompt.id, messages])))
        asked[ids[-1]] = (replace(prompt.question, id=ids[-1]), messages)
    responses = answers(
        args,
        args.out / "outputs" / "revised",
        [agent for agent, _ in team],
        [question for question, _ in asked.values()],
        1,
        lambda agent, question: asked[question.id][1][agent.name],
    )
    revised = {key: {r["agent"]: r for r in row} for key, row in zip(asked, responses, strict=True)}
    return [
        draw_of(prompt.question, [revised[key][name] for name in prompt.draw.agents])
        for prompt, key in zip(before, ids, strict=True)
    ]


def ask(args, path: Path, leader: Agent, prompts: list[LeaderPrompt]) -> list[LeaderPrompt]:
    """Let the leader answer the prompts, into a pool of its own at `path`; returns them with their outputs."""
    # Two draws can make the same prompt: it is asked once.
    prompts = list({prompt.id: prompt for prompt in prompts}.values())
    questions = [replace(prompt.question, id=prompt.id, text=prompt.text) for prompt in prompts]
    outputs = answers(args, path, [leader], questions, args.samples, lambda _, question: question.text)
    for prompt, responses in zip(prompts, outputs, strict=True):
        prompt.outputs = responses
    return prompts


def answers(
    args,
    path: Path,
    agents: Sequence[Agent],
    questions: Sequence[Question],
    samples: int,
    conversation: Callable[[Agent, Question], Conversation],
) -> Iterator[list[dict]]:
    """The models' responses to each question, verified, from a pool at `path`: what it holds is not asked again."""
    dataset = questions_dataset(questions)
    settings = {
        "prompts": {"rows": len(dataset), "ids": digest("".join(dataset["id"]))},
        "samples": samples,
        "seed": args.seed,
        "agents": [agent.identity() for agent in agents],
    }
    manifest = {"format": 1, "settings": settings, "source": str(args.pool), "versions": versions(*PACKAGES)}
    sample_pool(path, dataset, manifest, agents, conversation, args.seed)
    return (row["responses"] for row in open_pool(path))


def build(args, prompts: list[LeaderPrompt], tokenizer, phrases) -> tuple[list[dict], dict]:
    """The rows of train.jsonl, shuffled, and the counts of each step (`offered`, `dropped`, `candidates`, `wanted`,
    `made`) by kind."""
    candidates: dict[str, list[tuple[LeaderPrompt, Trace]]] = {kind: [] for kind in KINDS}
    dropped: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    seen: set[tuple[str, str]] = set()
    for prompt in prompts:
        rng = random.Random(f"{args.seed}:trace:{prompt.id}")
        outputs = [{**output, "text": prompt.opened + output["text"]} for output in prompt.outputs]
        for trace in compose(prompt.question, prompt.draw, outputs, rng, phrases):
            if reason := problem(args, prompt, trace, tokenizer, seen):
                dropped[trace.kind][reason] += 1
            else:
                candidates[trace.kind].append((prompt, trace))

    def rank(item: tuple[LeaderPrompt, Trace]):
        # Where all agents are wrong and the leader is right there is most to learn: those are kept first.
        prompt, trace = item
        all_wrong = prompt.draw.texts and not any(prompt.draw.correct)
        return not all_wrong, hashlib.sha256(f"{args.seed}:{trace.kind}:{prompt.id}".encode()).digest()

    total = args.n or len(prompts)
    wanted = {kind: round(share * total) for kind, share in args.mix.items()}
    chosen = {kind: sorted(candidates[kind], key=rank)[:number] for kind, number in wanted.items()}
    rows = [row_of(prompt, trace, tokenizer) for kind in chosen for prompt, trace in chosen[kind]]
    random.Random(args.seed).shuffle(rows)
    return rows, {
        "offered": {kind: len(candidates[kind]) + dropped[kind].total() for kind in KINDS},
        "dropped": {kind: dict(sorted(dropped[kind].items())) for kind in KINDS},
        "candidates": {kind: len(candidates[kind]) for kind in KINDS},
        "wanted": wanted,
        "made": {kind: len(chosen[kind]) for kind in chosen},
    }


def problem(args, prompt: LeaderPrompt, trace: Trace, tokenizer, seen: set) -> str:
    """Why a trace cannot be used, in a few words; "" when it can. Every trace is verified here."""
    if leaks(prompt.question, trace):
        return "quotes the gold answer too early"
    verdict = prompt.question.verify(trace.text)
    if not verdict.correct:
        return "does not end right"
    if not verdict.formatted:
        return "has not the form <think>…</think> <answer>…</answer>"
    if count_tokens(tokenizer, output_of(prompt, trace)) + 1 > args.max_new_tokens:  # + 1: the end token
        return f"longer than {args.max_new_tokens} tokens"
    if (prompt.text, trace.text) in seen:
        return "the same as another"
    seen.add((prompt.text, trace.text))
    return ""


def output_of(prompt: LeaderPrompt, trace: Trace) -> str:
    """What the leader is to write: the trace, less the `<think>` with which the prompt ends already."""
    if not prompt.opened:
        return trace.text
    if trace.text.startswith(prompt.opened):
        return trace.text[len(prompt.opened) :]
    return trace.text.removeprefix("<think>").lstrip()


def row_of(prompt: LeaderPrompt, trace: Trace, tokenizer) -> dict:
    """A row of train.jsonl: `input` and `output` for train_sft, the rest for people."""
    return {
        "input": prompt.text,
        # With the end token: train_sft would put a blank before it.
        "output": output_of(prompt, trace) + (tokenizer.eos_token or ""),
        "kind": trace.kind,
        "task": prompt.question.task,
        "subtask": prompt.question.subtask,
        "id": prompt.question.id,
        "agents": len(prompt.draw.texts),
        "agents_correct": sum(prompt.draw.correct),
        "later_round": prompt.later,
    }
