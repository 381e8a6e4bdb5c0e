"""Pages in headless Chromium; tests that need it are skipped where there is none."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
# What scripts have at hand: a filter of the page set as a person would.
SET = """
const set = (id, value) => {
  const e = document.getElementById(id);
  e.value = value;
  e.dispatchEvent(new Event("input"));
};
"""


def in_browser(page: Path, script: str, tmp_path: Path, fragment: str = "") -> dict:
    """Open the page offline in headless Chromium, run `script` in it after SET, and give back the object it returns."""
    probe = (
        "<script>addEventListener('load', () => { let seen; try { seen = (() => {" + SET + script + "})(); }"
        " catch (error) { seen = {error: String(error)}; }"
        " const pre = document.createElement('pre'); pre.id = 'probe'; pre.textContent = JSON.stringify(seen);"
        " document.body.append(pre); });</script>"
    )
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", probe + "</body>"))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000", "--dump-dom", f"file://{copy}{fragment}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
