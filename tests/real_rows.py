"""Samples of real benchmarks, no part of this repository: JSON Lines files in the folder that MLPO_REAL_ROWS names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("MLPO_REAL_ROWS") or "no MLPO_REAL_ROWS")


def real_rows(name: str) -> list[dict]:
    """The rows of one file; skips the test where it is absent."""
    if not (FOLDER / name).is_file():
        pytest.skip(f"{name} is absent: MLPO_REAL_ROWS names the folder with samples of the benchmarks")
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]
