"""Counting what became of an agent's requests: how many responses are empty, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

from openrlhf_mlpo.engines.base import CONTENT_FILTER, TOO_LONG, Completion
from openrlhf_mlpo.errors import UserError

EARLY = 64  # responses without one that has text: no use to go on
_WHAT_TO_DO = {
    TOO_LONG: "the model's context is too small for these prompts",
    "length": "raise sampling.max_tokens: a model that reasons spends them before it answers",
    "stop": "the model ends at once: look at its chat template and at sampling.stop",
    CONTENT_FILTER: "the endpoint's content filter refuses them",
}


class Outcomes:
    """Counts of what a model answered, by `finish_reason`; `answered`: responses that an earlier run has stored."""

    def __init__(self, name: str, answered: int = 0):
        self.name, self.total, self.answered = name, answered, answered
        self.reasons: Counter[str] = Counter()  # of empty responses
        self.words: dict[str, str] = {}  # reason -> what the endpoint said first

    def add(self, completions: Iterable[Completion]) -> None:
        """Count some responses."""
        for completion in completions:
            self.total += 1
            if completion.text.strip():
                self.answered += 1
                continue
            reason, _, words = completion.finish_reason.partition(": ")
            self.reasons[reason] += 1
            self.words.setdefault(reason, words)

    def watch(
        self, stream: Generator[tuple[int, list[Completion]], None, None]
    ) -> Iterator[tuple[int, list[Completion]]]:
        """What an engine's `stream` yields, counted; conversations without any text come last.

        So nothing of them is stored when most responses turn out to be empty: that raises UserError that says why, at
        the end or once `EARLY` responses have come and none has text. Such a pool teaches nothing.
        """
        empty = []
        with closing(stream):  # at once: an endpoint must not be asked on while an error is reported
            for index, completions in stream:
                self.add(completions)
                if any(completion.text.strip() for completion in completions):
                    yield index, completions
                else:
                    empty.append((index, completions))
                if self.total >= EARLY and not self.answered:
                    break
        if 2 * self.answered < self.total:
            raise UserError(self.summary())
        yield from empty

    def summary(self) -> str:
        """`3 of 64 responses are empty: 2 content_filter, 1 refused (its words)`, and what to do about the most
        frequent; "" when none is empty."""
        if not self.reasons:
            return ""
        counts = ", ".join(
            f"{count} {reason}" + (f" ({self.words[reason]})" if self.words[reason] else "")
            for reason, count in self.reasons.most_common()
        )
        advice = _WHAT_TO_DO.get(self.reasons.most_common(1)[0][0], "")
        return f"{self.reasons.total()} of {self.total} responses are empty: {counts}" + (advice and f"; {advice}")

    def report(self) -> None:
        """Print one line that names the empty responses, if there are any."""
        if self.reasons:
            print(f"{self.name}: {self.summary()}", flush=True)
