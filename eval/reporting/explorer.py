"""The page of an evaluation: the report, its questions, their outcomes by system, and transcripts side by side."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from eval.reporting.claims import UNTRAINED
from eval.reporting.runs import MAJORITY, Run, System, read_jsonl
from openrlhf_mlpo.pages import escape, page, size

QUESTION_CHARS = 140  # of a question in the table; the whole question stands in its transcript
TURN_CHARS = 2000  # of a message; its end is kept, where the answer is


def explorer_page(runs: Mapping[str, Run], text: str, out: Path, limit: int) -> str:
    """The page, at most `limit` bytes where that is possible: transcripts are left out first, then questions."""
    script, body = Path(__file__).with_name("explorer.js"), to_html(text, out)
    room = max(0, limit - size(page("Evaluation report", body, [], script))) // max(1, len(runs))
    data = {"runs": [explorer(run, title, room) for title, run in runs.items()]}
    return page("Evaluation report", body, data, script)


def to_html(text: str, folder: Path) -> str:
    """Markdown to HTML, images of `folder` inlined. Names come from users' files, so no HTML in them is let through."""
    from markdown import markdown

    parts = text.split("```")
    parts[::2] = map(escape, parts[::2])  # what is fenced, `markdown` escapes
    html = markdown("```".join(parts), extensions=["tables", "fenced_code"])
    html = html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")

    def inline(match: re.Match) -> str:
        return f'src="data:image/png;base64,{base64.b64encode((folder / match[1]).read_bytes()).decode()}"'

    return re.sub(r'src="([\w.-]+\.png)"', inline, html)


def explorer(run: Run, title: str, room: int) -> dict:
    """What the page's script needs of one run, in at most about `room` bytes.

    A question is [id, subject, text, gold, agents right, outcomes], outcomes one character per system: 1 or 0.
    """
    systems = list(run.table)
    kinds = run.questions["kind"]
    subjects, texts, questions = sorted(set(kinds)), question_texts(run), []
    for id_, outcomes in zip(run.table.index, run.table.to_numpy(), strict=True):
        text, gold = texts.get(id_, ("", ""))
        right = run.questions["n_correct_agents"][id_]
        text = text if len(text) <= QUESTION_CHARS else text[: QUESTION_CHARS - 1] + "…"
        bits = "".join(str(int(value)) for value in outcomes)
        agents = None if pd.isna(right) else int(right)
        questions.append([id_, subjects.index(kinds[id_]), text, gold[:80], agents, bits])
    kept, spent = 0, 0
    while kept < len(questions) and spent + size(questions[kept]) < room * 0.7:
        spent += size(questions[kept])
        kept += 1
    leader = (run.leaders or [""])[0]
    a = next(systems.index(s) for s in (System("leader_team", leader), systems[0]) if s in systems)
    others = (System("leader_team", UNTRAINED), MAJORITY, systems[-1])
    b = next((systems.index(s) for s in others if s in systems and systems.index(s) != a), a)
    order = by_interest([q[0] for q in questions[:kept]], [q[5] for q in questions[:kept]], a, b)
    transcripts = pick_transcripts(run, order, room - spent)
    note = f"Transcripts of {len(transcripts)} questions are in this page, won and lost first; all: transcripts.jsonl."
    if kept < len(questions):
        note += f" The table holds the first {kept} of {len(questions)} questions, to keep the page small."
    return {"label": title, "systems": list(map(str, systems)), "shown_as": list(map(shown_as, systems)), "a": a,
            "b": b, "subjects": subjects, "team": len(run.agents), "questions": questions[:kept], "note": note,
            "transcripts": transcripts}  # fmt: skip


def shown_as(system: System) -> str:
    """The transcript in which a system's messages stand; systems without a leader vote over the agents' responses."""
    whole = system.method.startswith("leader_") or system.method in ("debate", "mixture_of_agents")
    return str(System(system.method, system.leader)) if whole else "agent"


def by_interest(ids: Sequence[str], bits: Sequence[str], a: int, b: int) -> list[str]:
    """Questions that A won and those it lost in turn, then the others, so that any number of them shows both kinds."""
    won = [i for i, bit in zip(ids, bits, strict=True) if bit[a] == "1" and bit[b] == "0"]
    lost = [i for i, bit in zip(ids, bits, strict=True) if bit[a] == "0" and bit[b] == "1"]
    turn = [i for pair in zip(won, lost, strict=False) for i in pair]
    return list(dict.fromkeys([*turn, *won, *lost, *ids]))


def transcripts_of(run: Run) -> Iterator[dict]:
    file = run.path / "transcripts.jsonl"
    return read_jsonl(file) if file.is_file() else iter(())


def question_texts(run: Run) -> dict[str, tuple[str, str]]:
    """A question's text on one line, and its gold answer, by id."""
    return {each["id"]: (" ".join(each["question"].split()), str(each["gold"])) for each in transcripts_of(run)}


def pick_transcripts(run: Run, order: Sequence[str], room: int) -> dict[str, dict]:
    """Transcripts in that order until `room` bytes are full. A text that several systems share is kept once."""
    candidates = set(order[: room // 400])  # no transcript is smaller, so no more than these can fit
    entries: dict[str, dict] = {}
    for each in transcripts_of(run):
        if each["id"] in candidates and each["method"] != "leader_vote":
            entry = entries.setdefault(each["id"], {"question": each["question"], "texts": {}, "turns": {}})
            texts = entry["texts"]
            entry["turns"][str(System(each["method"], each["leader"]))] = [
                [t["player"], t["round"], texts.setdefault(crop(t["text"]), len(texts)), t["answer"], int(t["correct"]),
                 t["completion_tokens"]]
                for t in each["turns"]
            ]  # fmt: skip
    picked: dict[str, dict] = {}
    for id_ in filter(entries.get, order):
        entry = {**entries[id_], "texts": list(entries[id_]["texts"])}
        room -= size({id_: entry})
        if room < 0:
            break
        picked[id_] = entry
    return picked


def crop(text: str) -> str:
    return text if len(text) <= TURN_CHARS else "… " + text[-TURN_CHARS:]
