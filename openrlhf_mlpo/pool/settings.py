"""Whether a run may go on with a pool: its settings must be those of before, or ask for more of the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LISTS = ("questions", "prompts")  # settings that describe what is asked, by number of rows and digests


def contradiction(
    before: Mapping[str, Any], now: Mapping[str, Any], asked: Mapping[str, tuple] | None, asks: Mapping[str, tuple]
) -> str:
    """The first setting in which a pool cannot become what is wanted now, in words; "" when it can.

    It can get more questions, more samples and more agents. `before`, `now`: "settings" of the manifest; `asked`,
    `asks`: question id -> (answer, subtask) of the pool (None: not known) and of now.
    """
    more = {"agents", "samples", *LISTS}
    fixed_before, fixed_now = ({k: v for k, v in each.items() if k not in more} for each in (before, now))
    if problem := difference(fixed_before, fixed_now):
        return problem
    if now["samples"] < before["samples"]:
        return difference(before["samples"], now["samples"], "samples")
    names = [[agent["name"] for agent in each["agents"]] for each in (before, now)]
    if not set(names[0]) <= set(names[1]):
        return f"agents {', '.join(names[0])} in the pool, {', '.join(names[1])} now"
    agents = {agent["name"]: agent for agent in now["agents"]}
    for agent in before["agents"]:
        if problem := difference(agent, agents[agent["name"]], f"agent {agent['name']}"):
            return problem
    for name in LISTS:
        stored, wanted = before.get(name), now.get(name)
        if stored == wanted:
            continue
        if asked is None or not stored or not wanted or wanted["rows"] < stored["rows"]:
            return difference(stored, wanted, name)
        for question_id, value in asked.items():
            if question_id not in asks:
                return f"{name}: {question_id} of the pool is not among the {wanted['rows']} now"
            if value != asks[question_id]:
                return f"{name}: {question_id} has answer and subtask {value} in the pool, {asks[question_id]} now"
    return ""


def difference(stored: Any, now: Any, where: str = "") -> str:
    """The first place where two JSON values differ, in words; "" when they are equal."""
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*stored, *now)):
            place = f"{where}.{key}" if where else key
            if key not in stored or key not in now:
                return f"{place} {'is new' if key not in stored else 'is no longer given'}"
            if problem := difference(stored[key], now[key], place):
                return problem
        return ""
    return "" if stored == now else f"{where} {stored!r} in the pool, {now!r} now"
