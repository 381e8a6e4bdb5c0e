"""Make questions in the form of two real BIG-Bench Hard tasks, small enough for models that train on a laptop.

    python3 recipes/claims/word_questions.py --split train --n 3000 --seed 0 --out runs/claims/train.jsonl

Writes JSON Lines: {"task": "bbh", "subtask": ..., "question": ..., "answer": ...}. No row of BBH itself is used; the
two forms (`object_counting`, `word_sorting`) follow the published task descriptions, made easier: at most seven things,
one of each; four words to sort, no two with the same first letter.
What a model has to know is a hundred things with their categories and as many words with their first letters, as a
word is one token here.

The splits `school` (what all models learn to speak from), `train` (the leader's training) and `test` are disjoint by
content for any seed and size: a question belongs to the split its own hash names.
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

SPLITS = ("school", "train", "test")
_BUCKETS = {"school": range(0, 5), "train": range(5, 8), "test": range(8, 10)}

THINGS = {
    "fruit": "apple orange banana plum grape peach nectarine strawberry raspberry blackberry pear cherry lemon lime "
    "mango fig apricot melon kiwi date",
    "vegetable": "onion garlic carrot yam cauliflower cabbage potato lettuce broccoli celery leek radish turnip beet "
    "pea bean spinach cucumber pepper parsnip",
    "animal": "cat dog rabbit snail frog cow pig chicken duck goat donkey snake bear mouse fish horse sheep goose "
    "fox owl",
    "instrument": "flute piano trombone violin accordion clarinet drum trumpet cello harp guitar oboe tuba banjo organ "
    "bugle lute fiddle gong horn",
    "furniture": "table chair couch bed lamp desk shelf stool bench wardrobe cupboard dresser sofa armchair bookcase "
    "cabinet cradle mirror rug futon",
}
CATEGORY_OF = {word: category for category, words in THINGS.items() for word in words.split()}
COUNTED = tuple(THINGS)[:4]  # furniture is never asked for
SORT_FRAME = "Sort the following words alphabetically: List: "
WORDS = (
    "anchor amber arrow autumn acorn anvil alley basket beacon border butter barrel bishop bottle candle canyon copper "
    "cactus castle circle dagger desert dollar dragon dinner donor eagle ember engine escape echo effort fabric falcon "
    "flower forest fossil funnel garden ginger glacier gravel goblet gutter hammer harbor helmet hollow hinge island "
    "ivory index insect iris jacket jungle jigsaw journal jewel jockey kettle kingdom kernel kitchen keeper knight "
    "ladder lantern legend linen lizard locket"
).split()


def object_counting(rng: random.Random) -> tuple[str, str]:
    """Five to seven things, up to two of them of another category; the answer is how many the rest are."""
    category, kinds, others = rng.choice(COUNTED), rng.randint(5, 7), rng.randint(0, 2)
    names = rng.sample(THINGS[category].split(), kinds - others)
    names += rng.sample([word for word, own in CATEGORY_OF.items() if own != category], others)
    rng.shuffle(names)
    parts = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
    return f"I have {', '.join(parts[:-1])}, and {parts[-1]}. How many {category}s do I have?", str(kinds - others)


def word_sorting(rng: random.Random) -> tuple[str, str]:
    """Four words, no two with the same first letter; the answer is the words in order."""
    letters = rng.sample(sorted({word[0] for word in WORDS}), 4)
    words = [rng.choice([word for word in WORDS if word[0] == letter]) for letter in letters]
    return SORT_FRAME + " ".join(words), " ".join(sorted(words))


MAKERS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "object_counting": object_counting,
    "word_sorting": word_sorting,
}


def split_of(question: str) -> str:
    """The split a question belongs to, from its content alone."""
    bucket = hashlib.sha256(question.encode()).digest()[0] % 10
    return next(split for split in SPLITS if bucket in _BUCKETS[split])


def questions(split: str, seed: int, subtasks: list[str] | None = None) -> Iterator[dict[str, str]]:
    """Endless different questions of one split, the sub-tasks in turn."""
    rng, seen = random.Random(f"{split}-{seed}"), set()
    while True:
        for subtask in subtasks or list(MAKERS):
            question, answer = MAKERS[subtask](rng)
            while split_of(question) != split or question in seen:
                question, answer = MAKERS[subtask](rng)
            seen.add(question)
            yield {"task": "bbh", "subtask": subtask, "question": question, "answer": answer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=SPLITS, required=True, help="school | train | test, disjoint by content")
    parser.add_argument("--n", type=int, default=600, help="questions to write, the tasks in turn (default 600)")
    parser.add_argument("--seed", type=int, default=0, help="which questions of the split (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    args = parser.parse_args()
    if args.n < 1:
        raise UserError(f"--n {args.n}: ask for at least 1 question")
    write_jsonl(args.out, itertools.islice(questions(args.split, args.seed), args.n))
    print(f"{args.out}: {args.n} questions of split {args.split}, seed {args.seed}")


if __name__ == "__main__":
    run_cli(main)
