"""What the toy's models know: facts about words, beliefs that are wrong here and there, and derivations made of them.

A question asks for several facts, such as whether potatoes are vegetables or what color a drum has. A derivation states
one claim after another and what follows from them, so a mistake can be seen and disputed where it stands. Every model
believes something false about some words, each about others, and it is as good at one kind of question as at the next:
who is right cannot be told from the kind, the wording or the place.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import word_questions as q

WRONG = 0.3  # share of the facts that an agent gets wrong
STUBBORN = 0.1  # of these, the share that it defends against others
RECALLING = 0.2  # of these, the share that it gets right on a second look; at the rest it takes up what others claim

Fact = tuple[str, str]  # kind of question, word


def truth(fact: Fact) -> str:
    """The category or the color of a thing."""
    kind, word = fact
    return q.TRUTH[kind][word]


def possible(kind: str) -> list[str]:
    """What can be claimed of a word in a kind of question."""
    return list(dict.fromkeys(q.TRUTH[kind].values()))


def another(rng: random.Random, fact: Fact) -> str:
    """A false claim."""
    return rng.choice([claim for claim in possible(fact[0]) if claim != truth(fact)])


FACTS: list[Fact] = [(kind, word) for kind, truths in q.TRUTH.items() for word in truths]


@dataclass(frozen=True)
class Problem:
    """A question as the facts that it asks for: `words`, and the category or color to count."""

    kind: str
    words: tuple[str, ...]
    asked: str

    @classmethod
    def of(cls, kind: str, question: str) -> Problem:
        before, between, after = q.FRAMES[kind]
        listed, _, asked = question.removeprefix(before).partition(between)
        return cls(kind, tuple(part.split()[-1] for part in listed.split(", ")), asked.removesuffix(after))

    @property
    def facts(self) -> list[Fact]:
        return [(self.kind, word) for word in self.words]

    def solve(self, claims: Sequence[str]) -> tuple[str, str]:
        """The derivation (each word with its claim and the count so far), and the answer it comes to."""
        steps, total = [], 0
        for word, claim in zip(self.words, claims, strict=True):
            total += claim == self.asked
            steps.append(f"{word} {claim} {total}")
        return " ".join(steps), str(total)

    def read(self, text: str) -> list[str | None]:
        """What a text claims of each word: the last claim of it; None where there is none."""
        known, claims = set(possible(self.kind)), {}
        tokens = text.split()
        for word, claim in zip(tokens, tokens[1:]):
            if claim in known:
                claims[word] = claim
        return [claims.get(word) for word in self.words]


class Beliefs:
    """What one model believes: of every fact a claim, and what becomes of it when others claim something else."""

    def __init__(self, name: str, wrong: float = WRONG):
        rng = random.Random(f"beliefs/{name}")
        self.claim: dict[Fact, str] = {}
        self.yields: set[Fact] = set()  # takes up what the others claim
        self.recalls: set[Fact] = set()  # claims the truth on its second look, whatever the others claim
        # The same shares among the facts of every category and color: so agents are of like skill.
        groups: dict[tuple[str, str], list[Fact]] = {}
        for fact in FACTS:
            groups.setdefault((fact[0], truth(fact)), []).append(fact)
        for facts in groups.values():
            mistaken = set(rng.sample(facts, round(wrong * len(facts))))
            for fact in facts:
                self.claim[fact] = another(rng, fact) if fact in mistaken else truth(fact)
            shuffled = rng.sample(sorted(mistaken), len(mistaken))
            stubborn, recalled = round(STUBBORN * len(mistaken)), round(RECALLING * len(mistaken))
            self.recalls.update(shuffled[stubborn : stubborn + recalled])
            self.yields.update(shuffled[stubborn + recalled :])

    def claims(self, problem: Problem, others: Sequence[Sequence[str | None]] = ()) -> list[str]:
        """Its claims alone, or before `others`: in the light of what most of them claim of the same words."""
        return [self._claim(fact, [each[i] for each in others]) for i, fact in enumerate(problem.facts)]

    def _claim(self, fact: Fact, others: Sequence[str | None]) -> str:
        said = Counter(claim for claim in others if claim is not None)
        if said and fact in self.recalls:
            return truth(fact)
        return said.most_common(1)[0][0] if said and fact in self.yields else self.claim[fact]
