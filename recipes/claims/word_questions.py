"""Make questions in the form of two real BIG-Bench Hard tasks, small enough for models that train on a laptop.

    python3 recipes/claims/word_questions.py --split train --n 3000 --seed 0 --out runs/claims/train.jsonl

Writes JSON Lines: {"task": "bbh", "subtask": ..., "question": ..., "answer": ...}. No row of BBH itself is used; the
two forms (`object_counting`, and `colored_objects` after `reasoning_about_colored_objects`) follow the published task
descriptions, made easier: three to five things, one of each, and a color is known, not said.
What a model has to know is the categories and the colors of 320 things: too many to learn from a reward in passing.

The splits `school` (what all models learn to speak from), `train` (the leader's training) and `test` are disjoint by
content for any seed and size: a question belongs to the split its own hash names.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.files import write_jsonl

SPLITS = ("school", "train", "test")
_BUCKETS = {"school": range(0, 5), "train": range(5, 8), "test": range(8, 10)}

THINGS = {
    "fruit": "apple orange banana plum grape peach nectarine strawberry raspberry blackberry pear cherry lemon "
    "lime mango fig apricot melon kiwi date papaya guava lychee quince pomelo tangerine mandarin "
    "cranberry blueberry gooseberry currant mulberry persimmon pineapple coconut avocado olive durian "
    "rambutan grapefruit",
    "vegetable": "onion garlic carrot yam cauliflower cabbage potato lettuce broccoli celery leek radish turnip beet "
    "pea bean spinach cucumber pepper parsnip asparagus artichoke eggplant zucchini squash pumpkin kale "
    "chard fennel okra shallot endive rutabaga lentil chickpea rhubarb arugula watercress kohlrabi taro",
    "animal": "cat dog rabbit snail frog cow pig chicken duck goat donkey snake bear mouse fish horse sheep goose "
    "fox owl lion tiger camel zebra giraffe elephant hedgehog badger beaver otter lizard tortoise dolphin "
    "whale eagle falcon pigeon hamster squirrel wolf",
    "instrument": "flute piano trombone violin accordion clarinet drum trumpet cello harp guitar oboe tuba banjo organ "
    "bugle lute fiddle gong horn mandolin ukulele saxophone bassoon piccolo harmonica xylophone marimba "
    "viola cymbal tambourine triangle bagpipe harpsichord zither sitar recorder bongo maraca lyre",
    "tool": "hammer saw drill wrench screwdriver chisel axe shovel rake hoe spade trowel crowbar mallet clamp "
    "vise anvil sander lathe ladder level file rasp plane pickaxe sickle scythe hatchet jack pulley wedge "
    "awl punch ruler caliper stapler tweezer funnel broom bucket",
    "garment": "shirt skirt dress coat jacket sweater hat cap scarf glove sock shoe boot sandal belt tie vest blouse "
    "cardigan kimono sari robe apron bonnet beret cloak poncho parka blazer tuxedo hoodie tunic kilt "
    "slipper mitten legging corset turban veil cape",
    "vehicle": "car truck bus van bicycle motorcycle scooter tram train airplane helicopter boat ship ferry canoe "
    "kayak yacht submarine tractor bulldozer ambulance taxi limousine minivan jeep sled wagon cart "
    "carriage rickshaw glider rocket balloon barge raft dinghy hovercraft trolley locomotive moped",
    "furniture": "table chair couch bed lamp desk shelf stool bench wardrobe cupboard dresser sofa armchair bookcase "
    "cabinet cradle mirror rug futon ottoman hammock crib nightstand sideboard recliner loveseat bunk "
    "chest drawer headboard mattress curtain carpet cushion hutch vanity lectern lampshade highchair",
}
CATEGORY_OF = {word: category for category, words in THINGS.items() for word in words.split()}
COLORS = "red pink yellow green blue purple black white".split()
# In the toy's world every thing has one color, and of each category as many things have one color as another.
_SORTED = sorted(CATEGORY_OF, key=lambda word: (CATEGORY_OF[word], word))
COLOR_OF = {word: COLORS[i % len(COLORS)] for i, word in enumerate(_SORTED)}
TRUTH = {"object_counting": CATEGORY_OF, "colored_objects": COLOR_OF}  # by kind of question
ASKED = {"object_counting": list(THINGS)[:-1], "colored_objects": COLORS}  # furniture is never asked for
FRAMES = {
    "object_counting": ("I have ", ". How many ", "s do I have?"),
    "colored_objects": ("On the table, I see ", ". How many of them are ", "?"),
}


def make(kind: str, rng: random.Random) -> tuple[str, str]:
    """A question about three to five things, up to two of them not of the kind asked for, and how many the rest are."""
    truth, asked, total, others = TRUTH[kind], rng.choice(ASKED[kind]), rng.randint(3, 5), rng.randint(0, 2)
    names = rng.sample([word for word, is_ in truth.items() if is_ == asked], total - others)
    names += rng.sample([word for word, is_ in truth.items() if is_ != asked], others)
    rng.shuffle(names)
    parts = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
    before, between, after = FRAMES[kind]
    return f"{before}{', '.join(parts[:-1])}, and {parts[-1]}{between}{asked}{after}", str(total - others)


def split_of(question: str) -> str:
    """The split a question belongs to, from its content alone."""
    bucket = hashlib.sha256(question.encode()).digest()[0] % 10
    return next(split for split in SPLITS if bucket in _BUCKETS[split])


def questions(split: str, seed: int, subtasks: list[str] | None = None) -> Iterator[dict[str, str]]:
    """Endless different questions of one split, the sub-tasks in turn."""
    rng, seen = random.Random(f"{split}-{seed}"), set()
    while True:
        for subtask in subtasks or list(TRUTH):
            question, answer = make(subtask, rng)
            while split_of(question) != split or question in seen:
                question, answer = make(subtask, rng)
            seen.add(question)
            yield {"task": "bbh", "subtask": subtask, "question": question, "answer": answer}


def add_arguments(parser: argparse.ArgumentParser, n: int) -> None:
    """What every script here that writes rows takes."""
    parser.add_argument("--n", type=int, default=n, help=f"rows to write (default {n})")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    parser.add_argument("--kinds", nargs="+", choices=list(TRUTH), help="kinds of question (default: all)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=SPLITS, required=True, help="school | train | test, disjoint by content")
    add_arguments(parser, 600)
    args = parser.parse_args()
    if args.n < 1:
        raise UserError(f"--n {args.n}: ask for at least 1 question")
    write_jsonl(args.out, itertools.islice(questions(args.split, args.seed, args.kinds), args.n))
    print(f"{args.out}: {args.n} questions of split {args.split}, seed {args.seed}")


if __name__ == "__main__":
    run_cli(main)
