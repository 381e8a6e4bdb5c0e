"""Show what the leader does while it trains: the groups that --mlpo.log_samples kept, as one HTML page.

    python3 -m openrlhf_mlpo.cli.samples runs/math/ckpt

The page needs nothing else: filter by step, task, round, right and wrong, by what became of the agents' majority,
search, and compare the outputs to one prompt side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openrlhf_mlpo import pages
from openrlhf_mlpo.cli.options import Parser, at_least
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.files import read_rows, write_whole
from openrlhf_mlpo.train.checkpoints import SAMPLES

FIELDS = ("step", "prompt", "gold", "outputs")


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python3 -m openrlhf_mlpo.cli.samples", description=__doc__)
    parser.add_argument(
        "dir", type=Path, metavar="DIR", help="the training's --ckpt.path, or the folder _samples in it"
    )
    parser.add_argument("--out", type=Path, help="HTML file to write (default: samples.html in the folder _samples)")
    parser.add_argument(
        "--max_megabytes", type=float, default=20, help="size of the page; older steps are left out (default 20)"
    )
    args = parser.parse_args(argv)
    at_least(args, max_megabytes=0.1)
    folder = args.dir / SAMPLES if (args.dir / SAMPLES).is_dir() else args.dir
    files = sorted(folder.glob("step_*.jsonl"))
    if not files:
        raise UserError(f"{args.dir}: no transcripts here (_samples/step_*.jsonl); name the training's --ckpt.path")
    groups: list[dict] = []
    room = args.max_megabytes * 1e6
    for file in reversed(files):
        of_step = list(map(checked, read_rows(file)))
        room -= sum(map(pages.size, of_step))
        if room < 0 and groups:
            print(f"note: steps up to {file.stem.removeprefix('step_')} are left out of the page (--max_megabytes)")
            break
        groups = [*of_step, *groups]
    out = args.out or folder / "samples.html"
    script = Path(pages.__file__).with_name("samples.js")
    write_whole(out, [pages.page("Transcripts of training", "<h1>Transcripts of training</h1>", groups, script)])
    print(f"wrote {out}: {len(groups)} groups of {len({group['step'] for group in groups})} steps")
    return 0


def checked(placed: tuple[str, dict]) -> dict:
    """A group with what the page needs; raises UserError, which names file and line."""
    place, group = placed
    if missing := [name for name in FIELDS if name not in group]:
        raise UserError(f"{place}: no transcript of training, {missing[0]!r} is missing")
    return {"kind": "", **group}


if __name__ == "__main__":
    run_cli(main)
