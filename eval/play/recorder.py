"""What an answer is worth and costs: verdicts, votes, and the rows and transcripts of an evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from eval.play.backtracking import revises
from eval.play.baselines import vote
from openrlhf_mlpo.rounds import Turn
from openrlhf_mlpo.verify import canonical, extract_answer, verify_response


class Judge:
    """Verdicts of `openrlhf_mlpo.verify`, one per (question, text); many methods show the same texts."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, str], Any] = {}
        self._keys: dict[tuple[str, str], str] = {}

    def __call__(self, question: Mapping, text: str) -> Any:
        key = (question["id"], text)
        if key not in self._verdicts:
            verdict = verify_response(
                text,
                question["answer"],
                question["task"],
                subtask=question["subtask"] or None,
                choices=question["choices"] or None,
            )
            self._verdicts[key] = verdict
        return self._verdicts[key]

    def elect(self, question: Mapping, turns: Sequence[Turn], seed: int) -> tuple[str | None, bool]:
        """The answer that these turns vote for, and whether it is right."""
        verdicts = [self(question, turn.text) for turn in turns]
        keys = [self.key(question, v.answer) for v in verdicts]
        answers = [v.answer for v in verdicts]
        winner = vote(answers, keys, seed, question["id"])
        return winner, winner is not None and verdicts[answers.index(winner)].correct

    def majority(self, question: Mapping, turns: Sequence[Turn]) -> bool | None:
        """Whether the answer of more than half of the team is right; None where no answer has that many."""
        verdicts = [self(question, turn.text) for turn in turns]
        keys = [self.key(question, v.answer) for v in verdicts]
        key, most = Counter(keys).most_common(1)[0] if keys else (None, 0)
        return None if key is None or 2 * most <= len(turns) else bool(verdicts[keys.index(key)].correct)

    def key(self, question: Mapping, answer: str | None) -> str | None:
        """The form in which answers to this question are compared with each other; None stays None."""
        if answer is None:
            return None
        key = (question["id"], answer)
        if key not in self._keys:
            choices = question["choices"] or None
            self._keys[key] = canonical(answer, question["task"], subtask=question["subtask"] or None, choices=choices)
        return self._keys[key]

    def settled(self, question: Mapping, last: str, now: str) -> bool:
        """Two outputs with the same answer; two without one are not settled."""
        a, b = extract_answer(last), extract_answer(now)
        return None not in (a, b) and self.key(question, a) == self.key(question, b)


class Recorder:
    """Collects rows and transcripts in the order in which they are to be written."""

    def __init__(self, questions: Sequence[Mapping], judge: Judge, first: Sequence[Sequence[Turn]], seed: int):
        self.questions, self.judge, self.seed = questions, judge, seed
        self.rows: list[dict] = []
        self.transcripts: list[dict] = []
        self.initial = [self.team_state(q, turns) for q, turns in zip(questions, first, strict=True)]

    def team_state(self, question: Mapping, responses: Sequence[Turn]) -> dict:
        if not responses:
            return {"n_correct_agents": None, "majority_correct": None}
        right = sum(self.judge(question, turn.text).correct for turn in responses)
        return {"n_correct_agents": right, "majority_correct": self.judge.majority(question, responses)}

    def row(self, i: int, method: str, turns: Sequence[Turn], answer: str | None, correct: bool, **more: Any) -> None:
        """`turns`: all that the method used for this answer; they are its cost.

        `steps` counts model calls that must follow each other and `serial_tokens` the tokens generated along the
        longest of them: latency without the machine. `seconds` is this machine's share of batched time.
        """
        q = self.questions[i]
        prompt = sum(turn.prompt_tokens for turn in turns)
        completion = sum(turn.completion_tokens for turn in turns)
        longest: dict[tuple[int, bool], int] = {}
        leading = more.pop("leading", "")
        for turn in turns:
            key = (turn.round, turn.player == leading)
            longest[key] = max(longest.get(key, 0), turn.completion_tokens)
        self.rows.append(
            {
                "id": q["id"],
                "task": q["task"],
                "subtask": q["subtask"],
                "method": method,
                "leader": more.pop("leader", ""),
                "agent": more.pop("agent", ""),
                "round": more.pop("round", None),
                "budget": more.pop("budget", ""),
                "answer": answer,
                "correct": bool(correct),
                "formatted": more.pop("formatted", None),
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "tokens": prompt + completion,
                "generations": len(turns),
                "steps": len(longest),
                "serial_tokens": sum(longest.values()),
                "seconds": round(sum(turn.seconds for turn in turns), 6),
                **self.initial[i],
                **more,
            }
        )

    def output(self, i: int, method: str, turns: Sequence[Turn], output: Turn, **more: Any) -> None:
        """A row whose answer is what `output` says."""
        verdict = self.judge(self.questions[i], output.text)
        if method in ("leader_team", "leader_solo"):
            more["revised"] = revises(output.text)
        self.row(i, method, turns, verdict.answer, verdict.correct, formatted=bool(verdict.formatted), **more)

    def elected(self, i: int, method: str, voters: Sequence[Turn], turns: Sequence[Turn] | None = None, **more: Any):
        """A row whose answer is what `voters` vote for."""
        self.row(i, method, turns or voters, *self.judge.elect(self.questions[i], voters, self.seed), **more)

    def transcript(self, i: int, method: str, turns: Sequence[Turn], leader: str = "") -> None:
        q = self.questions[i]
        told = []
        for turn in turns:
            verdict = self.judge(q, turn.text)
            told.append({**turn.__dict__, "answer": verdict.answer, "correct": bool(verdict.correct)})
        head = {
            "id": q["id"],
            "task": q["task"],
            "subtask": q["subtask"],
            "question": q["question"],
            "gold": q["answer"],
        }
        self.transcripts.append({**head, "method": method, "leader": leader, "turns": told})
