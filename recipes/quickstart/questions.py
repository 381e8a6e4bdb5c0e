"""Make questions in the form of three real BIG-Bench Hard tasks, small enough for models that train on a laptop.

    python3 recipes/quickstart/questions.py --split train --n 3000 --seed 0 --out runs/quickstart/train.jsonl

Writes JSON Lines: {"task": "bbh", "subtask": ..., "question": ..., "answer": ...}. No row of BBH itself is used; the
three forms (`dyck_languages`, `object_counting`, `web_of_lies`) follow the published task descriptions, so a model
trained here can be tried on the real rows. Two tasks are made easier: bracket sequences are at most 15 long and leave
one bracket open (BBH's reach 90 and leave up to ten), and at most five kinds of things are counted.

The splits `agents` (what the team learns from), `train` (the leader) and `test` are disjoint by content for any seed
and size: a question belongs to the split its own hash names.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.files import write_jsonl

SPLITS = ("agents", "train", "test")
_BUCKETS = {"agents": range(0, 5), "train": range(5, 8), "test": range(8, 10)}

NAMES = (
    "Ada Ben Cleo Dan Eva Finn Gus Hana Ivan Jill Kofi Lena Milo Nora Otto Pia Quinn Rosa Sam Tess Uma Vito Wanda Yara"
).split()

PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
DYCK_FRAME = "Complete the rest of the sequence, making sure that the parentheses are closed properly. Input: "
NUMBER_WORDS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5}
# category -> {singular: plural}; multi-word things keep BBH's habit of counting the unit ("two heads of broccoli").
THINGS = {
    "fruits": "apple orange banana plum grape peach:peaches nectarine strawberry:strawberries raspberry:raspberries "
    "blackberry:blackberries",
    "vegetables": "onion garlic carrot yam cauliflower cabbage potato:potatoes lettuce_head head_of_broccoli:"
    "heads_of_broccoli stalk_of_celery:stalks_of_celery",
    "animals": "cat dog rabbit snail frog cow pig chicken duck goat donkey snake bear mouse:mice fish:fish",
    "musical instruments": "flute piano trombone violin accordion clarinet drum trumpet",
    "objects": "table chair car stove oven couch bed lamp toaster microwave fridge",
}


def _nouns(spec: str) -> dict[str, str]:
    """'apple mouse:mice' -> {'apple': 'apples', 'mouse': 'mice'}; underscores stand for blanks."""
    pairs = (word.replace("_", " ").partition(":")[::2] for word in spec.split())
    return {one: many or one + "s" for one, many in pairs}


NOUNS = {category: _nouns(spec) for category, spec in THINGS.items()}
_CATEGORY_OF = {word: c for c, nouns in NOUNS.items() for pair in nouns.items() for word in pair}


def dyck_language(rng: random.Random) -> tuple[str, str]:
    """An unfinished sequence of up to 15 brackets; the answer closes the one that is open."""
    while True:
        length, stack, out = 2 * rng.randint(1, 7) + 1, [], []
        for _ in range(length):
            if not stack or (len(stack) < 6 and rng.random() < 0.5):
                stack.append(rng.choice(list(PAIRS)))
                out.append(stack[-1])
            else:
                out.append(PAIRS[stack.pop()])
        if len(stack) == 1:
            return DYCK_FRAME + " ".join(out), PAIRS[stack[0]]


def object_counting(rng: random.Random) -> tuple[str, str]:
    """Two to five kinds of things, at most one of them of another category; the answer is the sum of the rest."""
    while True:
        category = rng.choice(list(NOUNS))
        kinds = rng.randint(2, 5)
        others = 0 if category == "objects" else min(rng.choice((0, 0, 0, 0, 1)), kinds - 1)
        names = rng.sample(list(NOUNS[category]), kinds - others)
        strangers = [n for c in NOUNS if c != category for n in NOUNS[c]]
        names += rng.sample(strangers, others)
        rng.shuffle(names)
        total, parts = 0, []
        for name in names:
            count = rng.choice((1, 1, 1, 1, 1, 2, 2, 3, 3, 4))
            own = _CATEGORY_OF[name]
            article = "an" if name[0] in "aeiou" else "a"
            word = {1: article, 2: "two", 3: "three", 4: "four", 5: "five"}[count]
            parts.append(f"{word} {name if count == 1 else NOUNS[own][name]}")
            total += count * (own == category)
        if total <= 20:
            return f"I have {', '.join(parts[:-1])}, and {parts[-1]}. How many {category} do I have?", str(total)


_BEHAVIOUR = {True: "tells the truth", False: "lies"}


def web_of_lies(rng: random.Random) -> tuple[str, str]:
    """Five people: the first is honest or not, each next one speaks of the one before; is the last one honest?"""
    people = rng.sample(NAMES, 5)
    honest = rng.random() < 0.5
    said = [f"{people[0]} {_BEHAVIOUR[honest]}."]
    for before, person in zip(people, people[1:]):
        claim = rng.random() < 0.5
        honest = honest == claim
        said.append(f"{person} says {before} {_BEHAVIOUR[claim]}.")
    return f"Question: {' '.join(said)} Does {people[-1]} tell the truth?", "Yes" if honest else "No"


MAKERS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "dyck_languages": dyck_language,
    "object_counting": object_counting,
    "web_of_lies": web_of_lies,
}


def work(subtask: str, question: str) -> str:
    """A short, right derivation of a question's answer (without the answer itself), for the leader's solo traces.

    Brackets: how many are open after each; counting: the running sum; lies: who is honest, one by one.
    """
    if subtask == "dyck_languages":
        depth, steps = 0, []
        for bracket in question[len(DYCK_FRAME) :].split():
            depth += 1 if bracket in PAIRS else -1
            steps.append(str(depth))
        return "depth " + " ".join(steps)
    if subtask == "object_counting":
        listed, _, asked = question.removeprefix("I have ").partition(". How many ")
        category, total, steps = asked.removesuffix(" do I have?"), 0, []
        for part in listed.split(", "):
            number, _, name = part.removeprefix("and ").partition(" ")
            total += NUMBER_WORDS[number] * (_CATEGORY_OF[name] == category)
            steps.append(str(total))
        return "sum " + " ".join(steps)
    honest, steps = True, []
    for part in question.removeprefix("Question: ").split(". ")[:-1]:
        honest = honest == (not part.endswith("lies"))
        steps.append("truth" if honest else "lies")
    return "chain " + " ".join(steps)


def split_of(question: str) -> str:
    """The split a question belongs to, from its content alone."""
    bucket = hashlib.sha256(question.encode()).digest()[0] % 10
    return next(split for split in SPLITS if bucket in _BUCKETS[split])


def questions(split: str, seed: int, subtasks: list[str] | None = None) -> Iterator[dict[str, str]]:
    """Endless different questions of one split, the sub-tasks in turn; `UserError` when a form is used up."""
    rng, seen = random.Random(f"{split}-{seed}"), set()
    while True:
        for subtask in subtasks or list(MAKERS):
            for _ in range(20_000):
                question, answer = MAKERS[subtask](rng)
                if split_of(question) == split and question not in seen:
                    break
            else:
                raise UserError(f"no new {subtask} question in split {split} after {len(seen)}: ask for fewer (--n)")
            seen.add(question)
            yield {"task": "bbh", "subtask": subtask, "question": question, "answer": answer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=SPLITS, required=True, help="agents | train | test, disjoint by content")
    parser.add_argument("--n", type=int, default=600, help="questions to write, the tasks in turn (default 600)")
    parser.add_argument("--seed", type=int, default=0, help="which questions of the split (default 0)")
    parser.add_argument("--subtasks", nargs="+", choices=list(MAKERS), default=None, help="default: all three")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    args = parser.parse_args()
    if args.n < 1:
        raise UserError(f"--n {args.n}: ask for at least 1 question")
    write_jsonl(args.out, itertools.islice(questions(args.split, args.seed, args.subtasks), args.n))
    print(f"{args.out}: {args.n} questions of split {args.split}, seed {args.seed}")


if __name__ == "__main__":
    run_cli(main)
