"""Build the leader's warm-start data: traces that doubt, go back and end right, from its own outputs over a pool.

    python3 -m openrlhf_mlpo.cli.build_sft --pool pool --leader Qwen/Qwen2.5-7B-Instruct --out sft

The leader answers leader prompts (with a draw of the team's responses, some of a later round, some without a team)
--samples times each; from right and wrong outputs to the same prompt the traces of sft/traces.py are composed.
Writes OUT/train.jsonl for OpenRLHF's own SFT,

    python3 -m openrlhf.cli.train_sft --data.dataset sft/train.jsonl --data.input_key input --data.output_key output \\
        --data.input_template "{}" …

and OUT/card.json and card.md, which say what the data are: counts, lengths, yields, what was dropped and why. The
leader's outputs are kept as pools in OUT/outputs: a run that was stopped is continued by the same command, and other
proportions (--mix, --n, --phrases) cost no new sampling.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from openrlhf_mlpo.cli.sample_team import sample_agent, versions
from openrlhf_mlpo.engines import ENGINES
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.pool.format import open_pool, read_manifest
from openrlhf_mlpo.pool.writer import PoolWriter
from openrlhf_mlpo.prompts.renderer import PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.sft.traces import KINDS, LeaderPrompt, Trace, compose, leaks, load_phrases
from openrlhf_mlpo.sources import questions_dataset
from openrlhf_mlpo.team import Agent
from openrlhf_mlpo.train.dataset import Draw, keep_questions, make_draw

LEADER = "leader"


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    phrases, template = load_phrases(args.phrases), load_template(args.template)
    pool = open_pool(args.pool)
    rows = [int(i) for i in keep_questions(pool, args.drop_correct).nonzero()[0]] if len(pool) else []
    if not rows:
        raise UserError(f"--pool {args.pool}: no question is left of {len(pool)}; raise --drop_correct")
    tokenizer = load_tokenizer(args.tokenizer or args.leader)
    renderer = PromptRenderer(tokenizer, template, args.max_len - args.max_new_tokens)
    for index in rows:
        renderer.check_fits(pool[index]["question"], len({r["agent"] for r in pool[index]["responses"]}))
    leader = Agent(
        name=LEADER,
        model=args.leader,
        engine=args.engine,
        sampling={"temperature": args.temperature, "max_tokens": args.max_new_tokens},
        engine_args=args.engine_args,
    )
    outputs = args.out / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)
    prompts = first_prompts(args, pool, rows, renderer)
    answered = ask(args, outputs / "first_round", leader, prompts)
    later = later_prompts(args, answered, renderer)
    if later:
        answered += ask(args, outputs / "later_round", leader, later)
    traces, counts = build(args, answered, tokenizer, phrases)
    write(args, traces, counts, card(args, pool, rows, answered, traces, counts, tokenizer))
    return 0


class Prompt:
    """One leader prompt of the data: the pool's row it is about, the draw, its round and its text."""

    def __init__(self, row: dict, draw: Draw, number: int, later: bool, text: str):
        self.row, self.draw, self.number, self.later, self.text = row, draw, number, later, text
        self.id = hashlib.sha256(f"{row['id']}\x1f{number}\x1f{later}\x1f{text}".encode()).hexdigest()[:16]
        self.outputs: list[dict] = []

    def about(self) -> LeaderPrompt:
        row = self.row
        return LeaderPrompt(
            question=row["question"],
            gold=row["answer"],
            task=row["task"],
            subtask=row["subtask"] or "",
            choices=tuple(row["choices"] or ()),
            texts=self.draw.texts,
            correct=self.draw.correct,
        )


def draw_of(args: argparse.Namespace, row: dict, number: int, solo: float) -> Draw:
    """A draw that training, whose episodes are numbers, does not see again."""
    return make_draw(
        row["responses"], row["id"], seed=args.seed, episode=f"sft {number}", solo_fraction=solo, task=row["task"]
    )


def first_prompts(args: argparse.Namespace, pool, rows: Sequence[int], renderer: PromptRenderer) -> list[Prompt]:
    """--draws prompts for every question, of which a share is solo."""
    prompts = []
    for index in rows:
        row = pool[index]
        for number in range(args.draws):
            draw = draw_of(args, row, number, args.solo_fraction)
            prompts.append(Prompt(row, draw, number, False, renderer.render(row["question"], draw.texts)))
    return prompts


def later_prompts(args: argparse.Namespace, answered: list[Prompt], renderer: PromptRenderer) -> list[Prompt]:
    """For a share of the team prompts one of a later round: the leader's own last output, right or wrong, and a new
    draw, as the agents' revised responses are not in the pool."""
    prompts = []
    for prompt in answered:
        rng = random.Random(f"{args.seed}:later:{prompt.id}")
        if not prompt.draw.texts or not prompt.outputs or rng.random() >= args.later_fraction:
            continue
        number = args.draws + prompt.number
        draw = draw_of(args, prompt.row, number, 0.0)
        last = rng.choice(prompt.outputs)["text"]
        text = renderer.render(prompt.row["question"], draw.texts, last)
        prompts.append(Prompt(prompt.row, draw, number, True, text))
    return prompts


def ask(args: argparse.Namespace, path: Path, leader: Agent, prompts: list[Prompt]) -> list[Prompt]:
    """Let the leader answer the prompts, into a pool of its own at `path`; returns them with their outputs."""
    # Two draws can make the same prompt: it is asked once.
    prompts = list({prompt.id: prompt for prompt in prompts}.values())
    columns = {name: [prompt.row[name] for prompt in prompts] for name in ("task", "subtask", "answer", "choices")}
    columns |= {"id": [prompt.id for prompt in prompts], "question": [prompt.text for prompt in prompts]}
    questions = questions_dataset(columns)
    settings = {
        "prompts": {"rows": len(prompts), "ids": hashlib.sha256("".join(columns["id"]).encode()).hexdigest()[:16]},
        "samples": args.samples,
        "seed": args.seed,
        "agents": [leader.identity()],
    }
    manifest = {"format": 1, "settings": settings, "source": str(args.pool), "versions": versions()}
    with PoolWriter(path, questions, manifest) as writer:
        sample_agent(leader, questions, writer, lambda row: row["question"], args.seed)
        writer.assemble()
    for prompt, row in zip(prompts, open_pool(path), strict=True):
        prompt.outputs = row["responses"]
    return prompts


def build(args: argparse.Namespace, prompts: list[Prompt], tokenizer, phrases) -> tuple[list[dict], dict]:
    """The rows of train.jsonl, shuffled, and the counts of each step (`candidates`, `dropped`, `wanted`, `made`)."""
    candidates: dict[str, list[tuple[Prompt, Trace]]] = {kind: [] for kind in KINDS}
    dropped: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    offered: Counter = Counter()
    seen: set[tuple[str, str]] = set()
    for prompt in prompts:
        about = prompt.about()
        for trace in compose(about, prompt.outputs, random.Random(f"{args.seed}:trace:{prompt.id}"), phrases):
            offered[trace.kind] += 1
            if reason := problem(args, about, prompt, trace, tokenizer, seen):
                dropped[trace.kind][reason] += 1
            else:
                candidates[trace.kind].append((prompt, trace))
    wanted = args.n or len(prompts)
    rows, made = [], {}
    for kind, share in args.mix.items():
        # Where all agents are wrong and the leader is right there is most to learn: those are kept first.
        ranked = sorted(
            candidates[kind],
            key=lambda item: (
                not (item[0].draw.texts and not any(item[0].draw.correct)),
                hashlib.sha256(f"{args.seed}:{kind}:{item[0].id}".encode()).digest(),
            ),
        )
        chosen = ranked[: round(share * wanted)]
        made[kind] = len(chosen)
        rows += [row_of(prompt, trace, tokenizer) for prompt, trace in chosen]
    random.Random(args.seed).shuffle(rows)
    counts = {
        "offered": {kind: offered[kind] for kind in KINDS},
        "dropped": {kind: dict(sorted(dropped[kind].items())) for kind in KINDS},
        "candidates": {kind: len(candidates[kind]) for kind in KINDS},
        "wanted": {kind: round(share * wanted) for kind, share in args.mix.items()},
        "made": made,
    }
    return rows, counts


def problem(args, about: LeaderPrompt, prompt: Prompt, trace: Trace, tokenizer, seen: set) -> str:
    """Why a trace cannot be used, in a few words; "" when it can. Every trace is verified here."""
    from openrlhf_mlpo.verify import verify_response

    if leaks(about, trace):
        return "quotes the gold answer too early"
    verdict = verify_response(
        trace.text, about.gold, about.task, subtask=about.subtask or None, choices=about.choices or None
    )
    if not verdict.correct:
        return "does not end right"
    if not verdict.formatted:
        return "has not the form <think>…</think> <answer>…</answer>"
    if count(tokenizer, trace.text) + 1 > args.max_new_tokens:  # + 1: the end token
        return f"longer than {args.max_new_tokens} tokens"
    if (prompt.text, trace.text) in seen:
        return "the same as another"
    seen.add((prompt.text, trace.text))
    return ""


def row_of(prompt: Prompt, trace: Trace, tokenizer) -> dict:
    """A row of train.jsonl: `input` and `output` for train_sft, the rest for people."""
    return {
        "input": prompt.text,
        # With the end token: train_sft would put a blank before it.
        "output": trace.text + (tokenizer.eos_token or ""),
        "kind": trace.kind,
        "task": prompt.row["task"],
        "subtask": prompt.row["subtask"],
        "id": prompt.row["id"],
        "agents": len(prompt.draw.texts),
        "agents_correct": sum(prompt.draw.correct),
        "later_round": prompt.later,
    }


def card(args, pool, rows, prompts: list[Prompt], traces: list[dict], counts: dict, tokenizer) -> dict:
    """What OUT/card.json says of the data."""
    outputs = [output for prompt in prompts for output in prompt.outputs]
    right = [sum(output["correct"] for output in prompt.outputs) for prompt in prompts]
    team = [trace for trace in traces if trace["agents"]]
    try:
        source = read_manifest(args.pool)["settings"]
    except (UserError, KeyError):  # somebody's own Parquet directory
        source = {}
    return {
        "leader": args.leader,
        "settings": {
            name: getattr(args, name)
            for name in ("template", "samples", "draws", "solo_fraction", "later_fraction", "temperature", "max_len")
            + ("max_new_tokens", "drop_correct", "seed", "phrases", "mix", "n")
        },
        "pool": {"path": str(args.pool), "agents": source.get("agents", []), "samples": source.get("samples")},
        "yield": {
            "questions in the pool": len(pool),
            "questions kept by the filter": len(rows),
            "prompts": len(prompts),
            "prompts of a later round": sum(prompt.later for prompt in prompts),
            "solo prompts": sum(not prompt.draw.texts for prompt in prompts),
            "outputs": len(outputs),
            "right outputs": sum(output["correct"] for output in outputs),
            "outputs cut at max_new_tokens": sum(output["finish_reason"] == "length" for output in outputs),
            "prompts with right and wrong outputs": sum(
                0 < good < len(prompt.outputs) for good, prompt in zip(right, prompts)
            ),
            "prompts without a right output": sum(not good for good in right),
            "traces": len(traces),
        },
        "kinds": counts,
        "by_task": dict(
            sorted(Counter("/".join(filter(None, (t["task"], t["subtask"]))) + " " + t["kind"] for t in traces).items())
        ),
        "agents_correct": dict(sorted(Counter(str(trace["agents_correct"]) for trace in team).items())),
        "all_agents_wrong": sum(not trace["agents_correct"] for trace in team),
        "tokens": {
            "prompt": spread([count(tokenizer, trace["input"]) for trace in traces]),
            "trace": spread([count(tokenizer, trace["output"]) for trace in traces]),
        },
        "verified": len(traces),  # `problem` lets none pass that does not end right
        "versions": versions(),
    }


def count(tokenizer, text: str) -> int:
    """Tokens of a text."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def spread(values: list[int]) -> dict:
    """Mean, median, 95th percentile, largest and sum of token counts."""
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "mean": round(statistics.fmean(values), 1),
        "median": statistics.median(values),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "max": ordered[-1],
        "sum": sum(values),
    }


def write(args: argparse.Namespace, traces: list[dict], counts: dict, about: dict) -> None:
    """train.jsonl, card.json and card.md, each whole or not at all; the counts on screen."""
    if not traces:
        raise UserError(
            f"--leader {args.leader}: no trace could be made from {about['yield']['outputs']} outputs, of which "
            f"{about['yield']['right outputs']} are right; {args.out / 'outputs'} holds them"
        )
    page = markdown(about)
    texts = {
        "train.jsonl": "".join(json.dumps(trace, ensure_ascii=False) + "\n" for trace in traces),
        "card.json": json.dumps(about, indent=1, ensure_ascii=False) + "\n",
        "card.md": page,
    }
    for name, text in texts.items():
        temporary = args.out / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, args.out / name)
    made = ", ".join(f"{kind} {number}" for kind, number in counts["made"].items())
    print(f"{args.out / 'train.jsonl'}: {len(traces)} traces ({made}); {args.out / 'card.md'} says more")
    for kind, number in counts["wanted"].items():
        if counts["made"][kind] < number:
            print(f"note: {counts['made'][kind]} of {number} wanted traces of kind {kind}; there were no more")


def markdown(about: dict) -> str:
    """OUT/card.md."""
    kinds = about["kinds"]
    lines = [
        "# Warm-start data",
        "",
        f"{about['yield']['traces']} traces of leader `{about['leader']}` over the pool `{about['pool']['path']}`; "
        f"each was verified to end right ({about['verified']} of {about['yield']['traces']}).",
        "",
        "| kind | composed | dropped | usable | wanted | in the data |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for kind in KINDS:
        lost = sum(kinds["dropped"][kind].values())
        numbers = (kinds["offered"][kind], lost, kinds["candidates"][kind])
        numbers += (kinds["wanted"].get(kind, 0), kinds["made"].get(kind, 0))
        lines.append(f"| {kind} | " + " | ".join(map(str, numbers)) + " |")
    lines += ["", "Dropped:", ""]
    reasons: Counter = Counter()
    for counter in kinds["dropped"].values():
        reasons.update(counter)
    lines += [f"- {number}: {reason}" for reason, number in sorted(reasons.items())] or ["- none"]
    lines += ["", "| yield | |", "| --- | --: |"]
    lines += [f"| {name} | {number} |" for name, number in about["yield"].items()]
    lines += ["", "| agents right | traces with a team |", "| --- | --: |"]
    lines += [f"| {number} | {traces} |" for number, traces in about["agents_correct"].items()]
    lines += ["", "| task and kind | traces |", "| --- | --: |"]
    lines += [f"| {name} | {number} |" for name, number in about["by_task"].items()]
    lines += ["", "| tokens | mean | median | 95 % | max | sum |", "| --- | --: | --: | --: | --: | --: |"]
    lines += [f"| {name} | " + " | ".join(map(str, values.values())) + " |" for name, values in about["tokens"].items()]
    lines += ["", "Agents:", ""]
    for agent in about["pool"]["agents"]:
        lines.append(f"- {agent['name']}: {agent['model']}, {json.dumps(agent['sampling'])}")
    for name in ("settings", "versions"):
        lines += ["", f"{name.capitalize()}: `{json.dumps(about[name])}`"]
    lines.append("")
    return "\n".join(lines)


def load_tokenizer(model: str):
    """The leader's tokenizer. Raises UserError when it cannot be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--leader {model}: no tokenizer there ({str(error).splitlines()[0]}); name a model, or --tokenizer MODEL"
        ) from None


def parse_mix(text: str) -> dict[str, float]:
    """`plain=0.5,own_line=0.5` as shares that add up to 1. Raises UserError."""
    mix: dict[str, float] = {}
    for pair in filter(str.strip, text.split(",")):
        kind, _, share = pair.partition("=")
        try:
            mix[kind.strip()] = float(share)
        except ValueError:
            raise UserError(f"--mix {pair!r}: write KIND=SHARE, for example plain=0.5") from None
    if unknown := sorted(set(mix) - set(KINDS)):
        raise UserError(f"--mix: unknown kind {unknown[0]!r}; the kinds are {', '.join(KINDS)}")
    total = sum(mix.values())
    if not mix or min(mix.values()) < 0 or not total > 0:
        raise UserError(f"--mix {text!r}: shares must not be negative, and one must be above 0")
    return {kind: share / total for kind, share in mix.items()}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m openrlhf_mlpo.cli.build_sft",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    usual = ",".join(f"{kind}={share:g}" for kind, share in KINDS.items())
    add("--pool", required=True, help="pool directory (sample_team), from training questions")
    add("--leader", required=True, help="the model to tune, as it is before: it writes the outputs")
    add("--out", type=Path, required=True, help="directory to write to; an unfinished one is continued")
    add("--n", type=int, default=0, help="traces wanted; 0: one a prompt (default)")
    add(
        "--mix",
        default=usual,
        help=f"shares of the kinds of traces (default {usual}). plain: a right output over a team's responses; "
        "own_line: its own wrong line, doubt, a right one; agent_line: a wrong agent's line, doubt, a right one; "
        "checked: a right line, doubt, another right one; solo: a right output without a team",
    )
    add(
        "--phrases",
        default="",
        help="YAML file with phrases that join lines (default: English ones, see sft/traces.py)",
    )
    add("--draws", type=int, default=1, help="prompts per question, each with a draw of its own (default 1)")
    add("--samples", type=int, default=8, help="outputs per prompt (default 8)")
    add("--temperature", type=float, default=1.0, help="of the leader (default 1)")
    add("--solo_fraction", type=float, default=0.25, help="share of prompts without a team (default 0.25)")
    add(
        "--later_fraction",
        type=float,
        default=0.2,
        help="for this share of team prompts also one of a later round, with the leader's last output (default 0.2)",
    )
    add("--drop_correct", type=float, default=0.75, help="leave out questions with this share of right responses, as "
        "--mlpo.drop_correct; above 1 keeps all (default 0.75)")  # fmt: skip
    add("--template", default="chat", help="prompt template, as in training: chat, compact or a YAML file")
    add("--max_len", type=int, default=8192, help="tokens of prompt and output, as --data.max_len (default 8192)")
    add("--max_new_tokens", type=int, default=2048, help="tokens of an output; longer traces go (default 2048)")
    add("--engine", default="vllm", choices=ENGINES, help="what runs the leader (default vllm)")
    add("--engine_args", default="{}", help="JSON of its arguments, such as '{\"tensor_parallel_size\": 2}'")
    add("--tokenizer", default="", help="model whose tokenizer and chat template to use (default: the leader's)")
    add("--seed", type=int, default=0, help="seed of draws, outputs and choices (default 0)")
    args = parser.parse_args(argv)
    for name, least in (("n", 0), ("draws", 1), ("samples", 1), ("max_new_tokens", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} must be at least {least}, not {getattr(args, name)}")
    for name in ("solo_fraction", "later_fraction"):
        if not 0 <= getattr(args, name) <= 1:
            raise UserError(f"--{name} must be between 0 and 1, not {getattr(args, name)}")
    if args.max_len <= args.max_new_tokens:
        raise UserError(f"--max_len {args.max_len} must exceed --max_new_tokens {args.max_new_tokens}: it counts both")
    try:
        args.engine_args = json.loads(args.engine_args)
        if not isinstance(args.engine_args, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UserError(f"--engine_args is not a JSON object: {error}") from None
    args.mix = parse_mix(args.mix)
    if args.engine == "vllm":
        args.engine_args.setdefault("max_model_len", args.max_len)
    return args


if __name__ == "__main__":
    run_cli(main)
