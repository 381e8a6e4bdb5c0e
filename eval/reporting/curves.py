"""Learning curves from the TensorBoard folders that OpenRLHF writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from openrlhf_mlpo.errors import UserError

Curves = dict[str, dict[str, list[tuple[int, float]]]]  # {tag: {run: [(step, value)]}}
# What tells whether training goes well, most telling first; a run logs some fifty tags, several of them twice.
TELLING = ("accuracy", "overr", "misled", "format", "reward", "policy_loss", "kl", "response_length")
MOST_CURVES = 18


def read_training(specs: Sequence[str]) -> Curves:
    """All scalars below the folders; a spec is `[NAME=]DIR`. Raises UserError where there are none.

    A folder that holds several runs gives each the name of its own folder in it.
    """
    curves: Curves = {}
    for spec in specs:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        name, given, folder = spec.partition("=")
        name, folder = (name, folder) if given else (Path(spec).name, spec)
        files = sorted(Path(folder).rglob("events.out.tfevents.*"))
        if not files:
            raise UserError(f"--training {spec}: no TensorBoard event files below it")
        inside = {file: (*file.relative_to(folder).parts[:-1], name)[0] for file in files}
        several = len(set(inside.values())) > 1
        for file in files:
            events = EventAccumulator(str(file), size_guidance={"scalars": 0})
            events.Reload()
            for tag in events.Tags()["scalars"]:
                points = curves.setdefault(tag, {}).setdefault(inside[file] if several else name, [])
                points += [(event.step, event.value) for event in events.Scalars(tag)]
                points.sort(key=lambda point: point[0])
    return dict(sorted(curves.items()))


def telling(training: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """The curves that a report shows: averages, not spreads, and nothing twice."""
    chosen: dict[str, Mapping] = {}
    for word in TELLING:
        for tag, curves in training.items():
            if word in tag and "std" not in tag and not any(curves == other for other in chosen.values()):
                chosen[tag] = curves
    return dict(list(chosen.items())[:MOST_CURVES])
