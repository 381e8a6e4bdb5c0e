"""One self-contained HTML page: the Markdown report with its plots inlined, and a table of questions with filters and
side-by-side transcripts. Plain JavaScript (page.html), nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from eval.reporting.analysis import Run, system_name
from eval.reporting.markdown import markdown

TEMPLATE = Path(__file__).with_name("page.html")
QUESTION_CHARS = 140  # of a question in the table; the whole question stands in its transcript
TURN_CHARS = 2000  # of a message; its end is kept, where the answer is


def page(runs: Sequence[Run], report: Mapping, plots: Mapping[str, str], out: Path, limit: int) -> str:
    """The page, at most `limit` bytes where that is possible: transcripts are left out first, then questions."""
    template = TEMPLATE.read_text(encoding="utf-8")
    body = to_html(markdown(report, plots), out)
    room = max(0, limit - len(template.encode()) - len(body.encode())) // max(1, len(runs))
    data = {"runs": [explorer(run, found["title"], room) for run, found in zip(runs, report["runs"], strict=True)]}
    return template.replace("<!--BODY-->", body).replace("<!--DATA-->", _json(data))


def to_html(text: str, out: Path) -> str:
    """Markdown to HTML with images inlined. Names come from users' files, so no HTML in them is let through."""
    from markdown import markdown as convert

    parts = text.split("```")
    parts[::2] = [part.replace("&", "&amp;").replace("<", "&lt;") for part in parts[::2]]
    html = convert("```".join(parts), extensions=["tables", "fenced_code"])
    html = html.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")

    def inline(match: re.Match) -> str:
        data = base64.b64encode((out / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    return re.sub(r'src="([\w.-]+\.png)"', inline, html)


def explorer(run: Run, title: str, room: int) -> dict:
    """What the page's script needs of one run, in at most about `room` bytes.

    A question is [id, subject, text, gold, agents right, outcomes], outcomes one character per system: 1, 0 or blank.
    """
    systems = list(run.table.columns)
    firsts = run.rows.drop_duplicates("id").set_index("id")
    subjects = firsts["task"].where(firsts["subtask"] == "", firsts["subtask"])
    names = sorted(set(subjects))
    texts = question_texts(run)
    ids = list(firsts.index)
    outcomes = run.table.loc[ids].to_numpy()
    right = run.agents_right.loc[ids]
    questions = []
    for i, id_ in enumerate(ids):
        text, gold = texts.get(id_, ("", ""))
        bits = "".join(" " if value != value else str(int(value)) for value in outcomes[i])
        agents = None if pd.isna(right.iloc[i]) else int(right.iloc[i])
        questions.append([id_, names.index(subjects[id_]), _crop_start(text), gold[:80], agents, bits])
    sizes = [len(_json(q).encode()) + 1 for q in questions]
    kept, spent = 0, 0
    while kept < len(sizes) and spent + sizes[kept] < room * 0.7:
        spent += sizes[kept]
        kept += 1
    first = run.leaders[0] if run.leaders else ""
    a = _index(systems, system_name("leader_team", first), 0)
    b = _index(systems, system_name("leader_team", "untrained"), _index(systems, "majority_vote", 0))
    if b == a:
        b = _index(systems, "majority_vote", len(systems) - 1)
    order = by_interest([q[0] for q in questions[:kept]], [q[5] for q in questions[:kept]], a, b)
    transcripts = pick_transcripts(run, order, room - spent)
    note = f"Transcripts of {len(transcripts)} questions are in this page, won and lost first; all: transcripts.jsonl."
    if kept < len(questions):
        note += f" The table holds the first {kept} of {len(questions)} questions, to keep the page small."
    return {
        "label": title,
        "systems": systems,
        "told": [told_as(system) for system in systems],
        "a": a,
        "b": b,
        "subjects": names,
        "team": run.team_size,
        "questions": questions[:kept],
        "transcripts": transcripts,
        "note": note,
    }


def told_as(system: str) -> str:
    """The transcript in which a system's messages stand; systems without a leader vote over the agents' responses."""
    bare = system.split(" (equal")[0]
    return bare if bare.startswith(("leader_", "debate", "mixture_of_agents")) else "agent"


def by_interest(ids: Sequence[str], bits: Sequence[str], a: int, b: int) -> list[str]:
    """Questions that A won and those it lost in turn, then the others, so that any number of them shows both kinds."""
    won = [i for i, bit in zip(ids, bits, strict=True) if bit[a] == "1" and bit[b] == "0"]
    lost = [i for i, bit in zip(ids, bits, strict=True) if bit[a] == "0" and bit[b] == "1"]
    turn = [i for pair in zip(won, lost, strict=False) for i in pair]
    longer = (won if len(won) > len(lost) else lost)[min(len(won), len(lost)) :]
    taken = {*won, *lost}
    return turn + longer + [i for i in ids if i not in taken]


def lines_of(run: Run):
    file = run.path / "transcripts.jsonl"
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def question_texts(run: Run) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for told in lines_of(run):
        if told["id"] not in found:
            found[told["id"]] = (" ".join(told["question"].split()), str(told["gold"]))
    return found


def pick_transcripts(run: Run, order: Sequence[str], room: int) -> dict[str, dict]:
    """Transcripts in that order until `room` bytes are full. A text that several systems share is kept once."""
    candidates = set(order[: room // 400])  # no transcript is smaller, so no more than these can fit
    found: dict[str, dict] = {}
    for told in lines_of(run):
        if told["id"] in candidates and told["method"] != "leader_vote":
            entry = found.setdefault(told["id"], {"question": told["question"], "texts": {}, "turns": {}})
            texts = entry["texts"]
            entry["turns"][system_name(told["method"], told["leader"])] = [
                [t["player"], t["round"], texts.setdefault(_crop_end(t["text"]), len(texts)), t["answer"],
                 int(t["correct"]), t["completion_tokens"]]
                for t in told["turns"]
            ]  # fmt: skip
    picked: dict[str, dict] = {}
    for id_ in order:
        if id_ in found:
            entry = {**found[id_], "texts": list(found[id_]["texts"])}
            size = len(_json({id_: entry}).encode()) + 1
            if size > room:
                break
            room -= size
            picked[id_] = entry
    return picked


def _json(value: object) -> str:
    # In a script element only `<` could end the data or open a comment. Escaped here, so sizes are those in the page.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _index(systems: Sequence[str], name: str, default: int) -> int:
    return systems.index(name) if name in systems else default


def _crop_start(text: str) -> str:
    return text if len(text) <= QUESTION_CHARS else text[: QUESTION_CHARS - 1] + "…"


def _crop_end(text: str) -> str:
    return text if len(text) <= TURN_CHARS else "… " + text[-TURN_CHARS:]
