"""What README and docs tell to type exists: scripts, modules, flags, files, tests."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import lru_cache

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every command of every bash block, continued lines joined, remarks and settings in front dropped."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r"\s+#.*", "", line).strip()
                found += [re.sub(r"^(?:[A-Z_]+=\S+\s+)+", "", part) for part in line.split(" && ") if part]
    return found


@lru_cache
def help_of(module: str) -> str:
    env = {**os.environ, "OPENRLHF_MLPO_CPU": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", module, "--help"]
    if module.startswith("openrlhf.cli"):  # imports flash-attn, which a CPU has not
        command[2:3] = ["openrlhf_mlpo.cli.run_openrlhf", module]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_there_are_commands():
    assert len(commands()) > 10


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("bash ")])
def test_scripts_are_there_and_know_their_options(command):
    words = command.split()
    text = (ROOT / words[1]).read_text(encoding="utf-8")
    common = (ROOT / "recipes" / "common.sh").read_text(encoding="utf-8")
    for option in (word for word in words[2:] if word.startswith("--")):
        assert option in text or (option in common and "common.sh" in text), f"{words[1]} has no {option}"


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("python3 -m ")])
def test_modules_are_there_and_have_these_flags(command):
    words = [word for word in command.split() if word != "openrlhf_mlpo.cli.run_openrlhf"]  # which runs the next word
    shown = help_of(words[2])
    for flag in (word.partition("=")[0] for word in words[3:] if word.startswith("--") and word != "--"):
        assert re.search(rf"{re.escape(flag)}\b", shown), f"{words[2]} has no {flag}"


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("pip install ")])
def test_pip_takes_what_it_is_given(command):
    offline = ["--dry-run", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    words = [sys.executable, "-m", "pip", "install", *offline, *shlex.split(command)[2:]]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def named_in(page) -> list:
    """The files that a page names in back quotes, from the repository's root, or links to, from its own folder."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    named = re.findall(r"`((?:openrlhf_mlpo|reward_fns|recipes|eval|tests|docs)/[\w./-]+)`", text)
    return [ROOT / path for path in named] + [page.parent / path for path in re.findall(r"\]\(([\w/.]+)\)", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_text_are_there(page):
    assert [str(path) for path in named_in(page) if not path.exists()] == []


def test_pages_name_files():
    assert sum(len(named_in(page)) for page in PAGES) > 20
