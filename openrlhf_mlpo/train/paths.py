"""What a training command names: pools and the reward file, judged by their paths before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from openrlhf_mlpo.errors import one_line
from openrlhf_mlpo.files import defined_names

# Endings of a path by which OpenRLHF's loader takes it for something else than a folder.
_LOADER_ENDINGS = (".py", ".json", ".jsonl", ".csv", ".parquet", ".arrow")


def path_problems(flag: str, paths: str) -> Iterator[str]:
    """Paths that OpenRLHF's loader would take apart, or for something else."""
    if not paths:
        return
    if "," in paths and os.path.isdir(paths):
        yield f"{flag} {paths}: OpenRLHF takes a comma for the end of a path; rename the folder"
        return
    for path in map(str.strip, paths.split(",")):
        name = path.rstrip("/")
        if not path:
            yield f"{flag} {paths}: an empty path beside a comma; leave the comma out"
        elif "@" in path:
            yield f"{flag} {path}: OpenRLHF takes what follows an @ for a folder inside; rename the folder"
        elif os.path.isfile(name):
            yield f"{flag} {path}: a file, where a pool is wanted; make one of it with openrlhf_mlpo.cli.sample_team"
        elif name.endswith(_LOADER_ENDINGS):
            yield f"{flag} {path}: OpenRLHF takes a folder with such an ending for a file; rename the folder"


def reward_problems(text: str) -> Iterator[str]:
    """`--reward.remote_url`: one Python file, or addresses that OpenRLHF asks in turn."""
    urls = text.split(",") if text else []
    files = [url for url in urls if url.endswith(".py")]
    if files and len(urls) > 1:
        yield f"--reward.remote_url {text}: a reward file stands alone, OpenRLHF would ignore the rest"
    elif files:
        yield from _reward_file_problems(text)
    for url in urls:
        if url not in files and not url.startswith(("http://", "https://")):
            yield f"--reward.remote_url {url!r}: neither a reward file (.py) nor an address (http://…, https://…)"


def _reward_file_problems(path: str) -> Iterator[str]:
    """OpenRLHF imports the file in its engines, minutes later; it is read here, not run."""
    try:
        names = defined_names(Path(path))
    except FileNotFoundError:
        yield f"--reward.remote_url {path}: no such file"
    except (OSError, SyntaxError, ValueError) as error:
        yield f"--reward.remote_url {path}: not a Python file that can be read: {one_line(error)}"
    else:
        if not names.keys() & {"reward_func", "*"}:
            yield f"--reward.remote_url {path}: has no function reward_func(queries, prompts, labels)"
