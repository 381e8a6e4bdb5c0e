"""What is said of warm-start data: card.json and card.md, written beside train.jsonl."""

from __future__ import annotations

import json
import statistics
from collections import Counter

from openrlhf_mlpo.errors import UserError, versions
from openrlhf_mlpo.files import write_jsonl, write_whole
from openrlhf_mlpo.pool.format import read_manifest
from openrlhf_mlpo.pool.sample import PACKAGES
from openrlhf_mlpo.prompts.budget import count_tokens
from openrlhf_mlpo.sft.build import LeaderPrompt
from openrlhf_mlpo.sft.traces import KINDS
from openrlhf_mlpo.text import markdown_table

SETTINGS = (
    "template chat_template_kwargs team samples draws solo_fraction later_fraction temperature max_len max_new_tokens "
    "drop_correct seed phrases mix n"
).split()


def card(args, pool, kept, prompts: list[LeaderPrompt], traces: list[dict], counts: dict, tokenizer) -> dict:
    """What OUT/card.json says of the data."""
    outputs = [output for prompt in prompts for output in prompt.outputs]
    right = [sum(output["correct"] for output in prompt.outputs) for prompt in prompts]
    team = [trace for trace in traces if trace["agents"]]
    kinds = Counter("/".join(filter(None, (t["task"], t["subtask"]))) + " " + t["kind"] for t in traces)
    try:
        source = read_manifest(args.pool)["settings"]
    except UserError:  # somebody's own Parquet directory
        source = {}
    return {
        "leader": args.leader,
        "settings": {name: getattr(args, name) for name in SETTINGS},
        "pool": {"path": str(args.pool), "agents": source.get("agents", []), "samples": source.get("samples")},
        "yield": {
            "questions in the pool": len(pool),
            "questions kept by the filter": len(kept),
            "prompts": len(prompts),
            "prompts of a later round": sum(prompt.later for prompt in prompts),
            "solo prompts": sum(not prompt.draw.texts for prompt in prompts),
            "outputs": len(outputs),
            "right outputs": sum(right),
            "outputs cut at max_new_tokens": sum(output["finish_reason"] == "length" for output in outputs),
            "prompts with right and wrong outputs": sum(
                0 < good < len(prompt.outputs) for good, prompt in zip(right, prompts)
            ),
            "prompts without a right output": sum(not good for good in right),
            "traces": len(traces),
        },
        "kinds": counts,
        "by_task": dict(sorted(kinds.items())),
        "agents_correct": dict(sorted(Counter(str(trace["agents_correct"]) for trace in team).items())),
        "all_agents_wrong": sum(not trace["agents_correct"] for trace in team),
        "tokens": {
            "prompt": spread([count_tokens(tokenizer, trace["input"]) for trace in traces]),
            "trace": spread([count_tokens(tokenizer, trace["output"]) for trace in traces]),
        },
        "verified": len(traces),  # `problem` lets none pass that does not end right
        "versions": versions(*PACKAGES),
    }


def spread(values: list[int]) -> dict:
    """Mean, median, 95th percentile, largest and sum of token counts."""
    if not values:
        return {}
    p95 = sorted(values)[int(0.95 * len(values))]
    mean, median = round(statistics.fmean(values), 1), statistics.median(values)
    return {"mean": mean, "median": median, "p95": p95, "max": max(values), "sum": sum(values)}


def write(args, traces: list[dict], counts: dict, about: dict) -> None:
    """train.jsonl, card.json and card.md, each whole or not at all; the counts on screen."""
    if not traces:
        raise UserError(
            f"--leader {args.leader}: no trace could be made from {about['yield']['outputs']} outputs, of which "
            f"{about['yield']['right outputs']} are right; {args.out / 'outputs'} holds them"
        )
    write_jsonl(args.out / "train.jsonl", traces)
    write_whole(args.out / "card.json", [json.dumps(about, indent=1, ensure_ascii=False), "\n"])
    write_whole(args.out / "card.md", [markdown(about)])
    by_kind = ", ".join(f"{kind} {number}" for kind, number in counts["made"].items())
    print(f"{args.out / 'train.jsonl'}: {len(traces)} traces ({by_kind}); {args.out / 'card.md'} says more")
    for kind, number in counts["wanted"].items():
        if counts["made"][kind] < number:
            print(f"note: {counts['made'][kind]} of {number} wanted traces of kind {kind}; there were no more")


def markdown(about: dict) -> str:
    """OUT/card.md."""
    kinds, number = about["kinds"], about["yield"]["traces"]
    reasons: Counter = sum(map(Counter, kinds["dropped"].values()), Counter())
    kinds = {**kinds, "dropped": {kind: sum(lost.values()) for kind, lost in kinds["dropped"].items()}}
    columns = ("offered", "dropped", "candidates", "wanted", "made")
    by_kind = [[kind, *(kinds[column].get(kind, 0) for column in columns)] for kind in KINDS]
    tokens = [(name, *values.values()) for name, values in about["tokens"].items()]
    tables = (
        (("kind", "composed", "dropped", "usable", "wanted", "in the data"), by_kind),
        (("dropped because", "traces"), [(reason, reasons[reason]) for reason in sorted(reasons)]),
        (("yield", ""), about["yield"].items()),
        (("agents right", "traces with a team"), about["agents_correct"].items()),
        (("task and kind", "traces"), about["by_task"].items()),
        (("tokens", "mean", "median", "95 %", "max", "sum"), tokens),
    )
    lines = [
        "# Warm-start data",
        "",
        f"{number} traces of leader `{about['leader']}` over the pool `{about['pool']['path']}`; each was verified to "
        f"end right ({about['verified']} of {number}).",
    ]
    for header, rows in tables:
        lines += ["", *markdown_table(header, rows)]
    lines += ["", "Agents:", ""]
    lines += [f"- {a['name']}: {a['model']}, {json.dumps(a['sampling'])}" for a in about["pool"]["agents"]]
    for name in ("settings", "versions"):
        lines += ["", f"{name.capitalize()}: `{json.dumps(about[name])}`"]
    return "\n".join([*lines, ""])
