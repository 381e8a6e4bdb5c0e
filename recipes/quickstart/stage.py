"""Run one stage of a recipe: progress bar and time on screen, everything else in a log, nothing done twice.

    python3 recipes/quickstart/stage.py --dir runs/quickstart --name pool -- python3 -m openrlhf_mlpo.cli.sample_team …

Ray, vLLM and DeepSpeed print thousands of lines; they go to DIR/logs/NAME.log, and the bar is read from them. A stage
that has finished is skipped the next time, unless its command or a stage before it has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

from tqdm import tqdm

# What tells how far a stage is: tqdm's "37%|" (the last one printed), and training's own account of itself.
PERCENT = re.compile(r"^(?!Map|Filter|Loading|Generating).*?(\d{1,3})%\|")  # not those of getting ready
EPISODE = re.compile(r"Episode \[(\d+)/(\d+)\]: +(\d{1,3})%\|")
ACCURACY = re.compile(r"Global step (\d+).*?'rollout/reward_mean': ([\d.]+)")


def run_stage(folder: Path, name: str, command: list[str]) -> int:
    """Run `command` unless it is done, keeping its time in DIR/stages.json. Returns its exit status."""
    record_file = folder / "stages.json"
    record = json.loads(record_file.read_text()) if record_file.exists() else {}
    # A stage depends on the ones before it: their fingerprints go into its own.
    earlier = list(record)[: list(record).index(name)] if name in record else list(record)
    fingerprint = hashlib.sha256(
        json.dumps([command, [record[s]["fingerprint"] for s in earlier]]).encode()
    ).hexdigest()
    if name in record and record[name]["fingerprint"] == fingerprint:
        tqdm.write(f"{name:<12} done before ({record[name]['seconds']:.0f} s)")
        return 0
    record = {stage: record[stage] for stage in earlier}
    log_file = folder / "logs" / f"{name}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    start = time.time()
    with log_file.open("w", encoding="utf-8") as log:
        print("$", shlex.join(command), file=log, flush=True)
        status = watch(command, name, log)
    seconds = time.time() - start
    if status:
        lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        print("\n".join(errors[-1:] or lines[-20:]), file=sys.stderr)
        print(f"error: stage {name} failed (exit {status}); its log is {log_file}", file=sys.stderr)
        return status
    record[name] = {"fingerprint": fingerprint, "seconds": round(seconds, 1), "command": shlex.join(command)}
    record_file.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def watch(command: list[str], name: str, log) -> int:
    """Run `command` with its output in `log`, turning what it says of its progress into one bar."""
    bar = tqdm(total=100, desc=f"{name:<12}", bar_format="{desc} {percentage:3.0f}%|{bar:24}| {elapsed}{postfix}")
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        bufsize=1,
        errors="replace",
        start_new_session=False,
    )
    in_ray = any(word.endswith("_ray") for word in command)  # whose workers print many small bars of their own
    ticking = threading.Event()
    clock = threading.Thread(target=lambda: [bar.refresh() for _ in iter(lambda: ticking.wait(1), True)], daemon=True)
    clock.start()
    try:
        for line in process.stdout:  # universal newlines: a carriage return ends a line as well
            log.write(line)
            log.flush()
            if match := EPISODE.search(line):
                episode, episodes, percent = map(int, match.groups())
                bar.n = max(bar.n, min(100, (100 * (episode - 1) + percent) // episodes))
            elif not in_ray and (match := PERCENT.match(line)):
                bar.n = min(100, int(match[1]))
            if match := ACCURACY.search(line):
                bar.set_postfix_str(f"step {match[1]}, reward {float(match[2]):.2f}", refresh=False)
        status = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    finally:
        ticking.set()
        clock.join()
    if status == 0:
        bar.n = 100
    bar.close()
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="the run's folder, for log, times and what is done")
    parser.add_argument("--name", required=True, help="name of the stage")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command to run")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("no command after --")
    try:
        return run_stage(args.dir, args.name, command)
    except KeyboardInterrupt:
        print(f"\ninterrupted in stage {args.name}; the same command continues", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
