"""What an answer is worth and costs: verdicts, votes, and the rows and transcripts of an evaluation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from eval.play.backtracking import revises
from openrlhf_mlpo.questions import Question, majority
from openrlhf_mlpo.rounds import Turn
from openrlhf_mlpo.verify import Verdict


def vote(answers: Sequence[str | None], keys: Sequence[str | None], seed: int, question_id: str) -> str | None:
    """The answer most often given, counted by `keys` (`Question.key`); None does not vote.

    A tie goes to one of the tied, chosen by (seed, question): neither the first agent nor the alphabet is favoured.
    """
    counts = Counter(key for key in keys if key is not None)
    if not counts:
        return None
    tied = sorted(key for key, count in counts.items() if count == max(counts.values()))
    return answers[list(keys).index(random.Random(f"vote/{seed}/{question_id}").choice(tied))]


class Judge:
    """Verdicts of a run, one per (question, text): many methods show the same texts."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, str], Verdict] = {}

    def __call__(self, question: Question, text: str) -> Verdict:
        key = (question.id, text)
        if key not in self._verdicts:
            self._verdicts[key] = question.verify(text)
        return self._verdicts[key]

    def key(self, question: Question, text: str) -> str | None:
        """The form in which the answer of a text is compared; None when it gives none."""
        return question.key(self(question, text).answer)

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

    def follows(self, question: Question, responses: Sequence[Turn], output: Turn) -> list[str]:
        """The agents whose answer the leader's output gives, in team order; none where it gives no answer."""
        key = self.key(question, output.text)
        return [turn.player for turn in responses if key is not None and self.key(question, turn.text) == key]

    def settled(self, question: Question, last: str, now: str) -> bool:
        """Whether two outputs give the same answer; two without one are not settled."""
        return self.key(question, last) is not None and self.key(question, last) == self.key(question, now)


def tokens(turns: Sequence[Turn]) -> int:
    """Prompt and completion tokens of some turns."""
    return sum(turn.prompt_tokens + turn.completion_tokens for turn in turns)


class Recorder:
    """Collects rows and transcripts in the order in which they are to be written."""

    def __init__(self, questions: Sequence[Question], judge: Judge, first: Sequence[Sequence[Turn]], seed: int):
        self.questions, self.judge, self.seed = questions, judge, seed
        self.rows: list[dict] = []
        self.transcripts: list[dict] = []
        self.initial = [self.team_state(q, turns) for q, turns in zip(questions, first, strict=True)]

    def team_state(self, question: Question, responses: Sequence[Turn]) -> dict:
        """How many responses are right and whether the majority is; None for both without a team."""
        if not responses:
            return {"n_correct_agents": None, "majority_correct": None}
        right = sum(self.judge(question, turn.text).correct for turn in responses)
        return {"n_correct_agents": right, "majority_correct": self.judge.majority(question, responses)}

    def row(self, i: int, method: str, turns: Sequence[Turn], answer: str | None, correct: bool, **more: Any) -> None:
        """`turns`: all that the method used for this answer; they are its cost. `more` replaces or adds columns.

        `steps` counts model calls that must follow each other and `serial_tokens` the tokens generated along the
        longest of them: latency without the machine. `seconds` is this machine's share of batched time.
        """
        q, longest = self.questions[i], {}
        for turn in turns:
            step = (turn.round, turn.player == more.get("leader"))
            longest[step] = max(longest.get(step, 0), turn.completion_tokens)
        row: dict[str, Any] = {"id": q.id, "task": q.task, "subtask": q.subtask, "method": method}
        row |= {"leader": "", "agent": "", "round": None, "budget": ""}
        row |= {"answer": answer, "correct": bool(correct), "formatted": None}
        row |= {
            "prompt_tokens": sum(turn.prompt_tokens for turn in turns),
            "completion_tokens": sum(turn.completion_tokens for turn in turns),
            "tokens": tokens(turns),
            "generations": len(turns),
            "steps": len(longest),
            "serial_tokens": sum(longest.values()),
            "seconds": round(sum(turn.seconds for turn in turns), 6),
        }
        self.rows.append(row | self.initial[i] | more)

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
        """Every message of one question, each with its answer and verdict."""
        q, messages = self.questions[i], []
        for turn in turns:
            verdict = self.judge(q, turn.text)
            messages.append({**turn.__dict__, "answer": verdict.answer, "correct": bool(verdict.correct)})
        head = {"id": q.id, "task": q.task, "subtask": q.subtask, "question": q.text, "gold": q.answer}
        self.transcripts.append({**head, "method": method, "leader": leader, "turns": messages})
