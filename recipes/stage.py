"""Run one stage of a recipe: progress bar and time on screen, everything else in a log, nothing done twice.

    python3 recipes/stage.py --dir runs/mine --name pool -- python3 -m openrlhf_mlpo.cli.sample_team …
    python3 recipes/stage.py --dir runs/mine --name sft -- COMMAND… --and COMMAND… [--and COMMAND…]
    python3 recipes/stage.py --dir runs/mine --times

Ray, vLLM and DeepSpeed print thousands of lines; they go to DIR/logs/NAME.log, and the bar is read from them. Several
commands run at once, one thread each: on two cores that beats two threads for one small model after another. The first
that fails ends the others.

A stage that has finished is skipped the next time; one that was stopped is run again and goes on where its command can.
A stage whose command has changed since it began, or that stands on a stage which was run again since, is refused: its
results would be mixed. DIR/stages/NAME.json says what began; without that file the stage is new.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402
from openrlhf_mlpo.files import write_whole  # noqa: E402

# What tells how far a stage is: tqdm's "37%|" (the last one printed), and training's own account of itself.
PERCENT = re.compile(r"^(?!Map|Filter|Loading|Generating).*?(\d{1,3})%\|")  # not those of getting ready
EPISODE = re.compile(r"Episode \[(\d+)/(\d+)\]: +(\d{1,3})%\|")
ACCURACY = re.compile(r"Global step (\d+).*?'rollout/reward_mean': ([\d.]+)")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENRLHF_MLPO_TRAIN_THREADS": "1"}


def run_stage(folder: Path, name: str, commands: list[list[str]], text: str) -> int:
    """Run the commands unless the stage is done. Returns the exit status; `text` is what must not change."""
    file, log_file = folder / "stages" / f"{name}.json", folder / "logs" / f"{name}.log"
    records = {path.stem: json.loads(path.read_text()) for path in file.parent.glob("*.json")}
    mine = records.pop(name, {"command": text, "began": time.time(), "finished": None})
    before = {stage: r["finished"] for stage, r in records.items() if r["finished"] and r["finished"] <= mine["began"]}
    if mine["command"] != text or mine.setdefault("stands_on", before) != before:
        why = "began with other commands" if mine["command"] != text else "stands on a stage that was run again"
        later = [stage for stage, r in records.items() if r["began"] >= mine["began"]]
        files = f"{{{','.join([name, *later])}}}" if later else name
        raise UserError(
            f"stage {name} {why}, so results would be mixed; take another folder than {folder}, or delete "
            f"{file.parent}/{files}.json and what {'these stages' if later else 'the stage'} wrote"
        )
    if mine["finished"]:
        print(f"{name:<12} done before ({mine['seconds']:.0f} s)")
        return 0
    write(file, mine)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    start = time.time()
    with log_file.open("w", encoding="utf-8") as log:
        for command in commands:
            print("$", shlex.join(command), file=log, flush=True)
        status = watch(commands, name, log)
    if status:
        lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        print("\n".join(errors[-1:] or lines[-20:]), file=sys.stderr)
        print(
            f"error: stage {name} failed (exit {status}); its log is {log_file}; the same command goes on from here",
            file=sys.stderr,
        )
        return status
    write(file, {**mine, "finished": time.time(), "seconds": round(time.time() - start, 1)})
    return 0


def write(file: Path, record: dict) -> None:
    write_whole(file, [json.dumps(record, indent=1), "\n"])


def watch(commands: list[list[str]], name: str, log) -> int:
    """Run commands at once with their output in `log`, turning what it says of their progress into one bar."""
    in_ray = any(word.endswith("_ray") for command in commands for word in command)  # its workers print bars too
    if not sys.stderr.isatty():
        print(f"{name:<12} {time.strftime('%F %T')}; its log is {log.name}", flush=True)
    form = "{desc} {percentage:3.0f}%|{bar:24}| {elapsed}{postfix}"
    with tqdm(total=100, desc=f"{name:<12}", bar_format=form, disable=None) as bar:
        with running(commands, bar) as (processes, output):
            for line in output:
                log.write(line)
                log.flush()
                if match := EPISODE.search(line):
                    episode, episodes, percent = map(int, match.groups())
                    bar.n = max(bar.n, min(100, (100 * (episode - 1) + percent) // episodes))
                elif not in_ray and (match := PERCENT.match(line)):
                    bar.n = min(100, int(match[1]))
                if match := ACCURACY.search(line):
                    bar.set_postfix_str(f"step {match[1]}, reward {float(match[2]):.2f}", refresh=False)
        status = next((abs(p.returncode) for p in processes if p.returncode > 0), 0)
        status = status or next((128 - p.returncode for p in processes if p.returncode < 0), 0)
        bar.n = bar.n if status else 100
    return status


@contextlib.contextmanager
def running(commands: list[list[str]], bar: tqdm) -> Generator[tuple[list[subprocess.Popen], Iterable[str]]]:
    """Processes of the commands and the lines that they print; none is left when this ends, however it does."""
    reader, writer = os.pipe()
    processes: list[subprocess.Popen] = []
    over = threading.Event()

    def end() -> None:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # with what it started

    def tick() -> None:
        while not over.wait(1):
            bar.refresh()
            if any(process.poll() for process in processes):
                end()

    clock = threading.Thread(target=tick, daemon=True)
    try:
        for command in commands:
            env = os.environ | (ONE_THREAD if len(commands) > 1 else {})
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, env=env, start_new_session=True
            )
            processes.append(process)
        os.close(writer)
        clock.start()
        # Universal newlines: a carriage return ends a line as well.
        with open(reader, encoding="utf-8", errors="replace") as output:
            yield processes, output
        for process in processes:
            process.wait()
    finally:
        over.set()
        end()
        for process in processes:
            process.wait()


def finished_stages(folder: Path) -> list[tuple[str, float]]:
    """Name and seconds of each finished stage, in the order in which they began."""
    records = [(file.stem, json.loads(file.read_text())) for file in (folder / "stages").glob("*.json")]
    finished = sorted((r["began"], name, r["seconds"]) for name, r in records if r["finished"])
    return [(name, seconds) for _, name, seconds in finished]


def print_times(folder: Path) -> int:
    """Print the seconds of each finished stage, in order, and the minutes of all."""
    finished = finished_stages(folder)
    for name, seconds in finished:
        print(f"{name:<24}{seconds:7.1f} s")
    print(f"{'all stages':<24}{sum(seconds for _, seconds in finished) / 60:7.1f} min")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="the run's folder, for logs, times and what is done")
    parser.add_argument("--name", help="name of the stage")
    parser.add_argument("--times", action="store_true", help="run nothing; print how long the finished stages took")
    parser.add_argument("--text", default="", help="what stands for the commands and must not change (default: they)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command, or several with --and between")
    args = parser.parse_args()
    if args.times:
        return print_times(args.dir)
    if not args.name:
        parser.error("--name is needed")
    commands: list[list[str]] = [[]]
    for word in args.command[args.command[:1] == ["--"] :]:
        if word == "--and":
            commands.append([])
        else:
            commands[-1].append(word)
    if not all(commands):
        parser.error("no command after -- or --and")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run_stage(args.dir, args.name, commands, args.text or "\n".join(map(shlex.join, commands)))
    except OSError as error:
        raise UserError(f"stage {args.name}: {error}") from None
    except KeyboardInterrupt:
        print(f"\ninterrupted in stage {args.name}; the same command continues", file=sys.stderr)
        return 130


if __name__ == "__main__":
    run_cli(main)
