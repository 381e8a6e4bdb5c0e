"""What an answer is worth and costs: verdicts, votes, and the rows and transcripts of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.play.backtracking import revises
from eval.play.baselines import vote
from openrlhf_mlpo.questions import Question, majority
from openrlhf_mlpo.rounds import Turn
from openrlhf_mlpo.verify import Verdict, extract_answer


class Judge:
    """Verdicts of a run, one per (question, text): many methods show the same texts."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, str], Verdict] = {}

    def __call__(self, question: Question, text: str) -> Verdict:
        key = (question.id, text)
        if key not in self._verdicts:
            self._verdicts[key] = question.verify(text)
        return self._verdicts[key]

    def elect(self, question: Question, turns: Sequence[Turn], seed: int) -> tuple[str | None, bool]:
        """The answer that these turns vote for, and whether it is right."""
        verdicts = [self(question, turn.text) for turn in turns]
        answers = [verdict.answer for verdict in verdicts]
        winner = vote(answers, [question.key(answer) for answer in answers], seed, question.id)
        return winner, winner is not None and verdicts[answers.index(winner)].correct

    def majority(self, question: Question, turns: Sequence[Turn]) -> bool | None:
        """Whether the answer of more than half of the team is right; None where no answer has that many."""
        verdicts = [self(question, turn.text) for turn in turns]
        return majority([question.key(v.answer) for v in verdicts], [bool(v.correct) for v in verdicts])


def settled(question: Question, last: str, now: str) -> bool:
    """Whether two outputs give the same answer; two without one are not settled."""
    keys = [question.key(extract_answer(text)) for text in (last, now)]
    return keys[0] is not None and keys[0] == keys[1]


class Recorder:
    """Collects rows and transcripts in the order in which they are to be written."""

    def __init__(self, questions: Sequence[Question], judge: Judge, first: Sequence[Sequence[Turn]], seed: int):
        self.questions, self.judge, self.seed = questions, judge, seed
        self.rows: list[dict] = []
        self.transcripts: list[dict] = []
        self.initial = [self.team_state(q, turns) for q, turns in zip(questions, first, strict=True)]

    def team_state(self, question: Question, responses: Sequence[Turn]) -> dict:
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
                "id": q.id,
                "task": q.task,
                "subtask": q.subtask,
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
            "id": q.id,
            "task": q.task,
            "subtask": q.subtask,
            "question": q.text,
            "gold": q.answer,
        }
        self.transcripts.append({**head, "method": method, "leader": leader, "turns": told})
