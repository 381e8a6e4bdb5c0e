"""Is the checkpoint that a run is about to resume from whole? Found out before any engine starts."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from openrlhf_mlpo.errors import UserError

SAMPLES = "_samples"  # folder of transcripts beside the checkpoints


def check_checkpoint(path: str | Path) -> None:
    """Raise UserError when the training state in `path` (--ckpt.path) is damaged, naming the newest that is whole.

    DeepSpeed would fail minutes later, in a worker and with a traceback. Only the end of each file is read: PyTorch
    writes zip archives, whose directory comes last, so a file that a full disk or a kill cut short lacks it. A path
    without a checkpoint is a run that starts, and no mistake.
    """
    folder = Path(path) / "_actor"
    latest = folder / "latest"
    try:
        tag = latest.read_text().strip()
    except FileNotFoundError:
        if folder.is_dir():  # killed during its first save; OpenRLHF would end in a KeyError after minutes
            raise UserError(f"--ckpt.load_enable: {folder}: holds no finished state; start again: remove it") from None
        return
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{latest}: cannot be read: {error}") from None
    if not (damage := _damage(folder / tag)):
        return
    tags = [state.name for state in folder.iterdir() if re.fullmatch(r"global_step\d+", state.name)]
    whole = [t for t in sorted(tags, key=lambda t: int(t[11:])) if t != tag and not _damage(folder / t)]
    remedy = f"go on from {whole[-1]}: echo -n {whole[-1]} > {latest}" if whole else f"start again: remove {folder}"
    raise UserError(f"--ckpt.load_enable: {damage}; {remedy}")


def _damage(state: Path) -> str:
    """What is wrong with one saved state, in a few words; "" when nothing is."""
    files = sorted(state.glob("*.pt"))
    if not files:
        return f"{state}: holds no saved state"
    return next((f"{file}: cut short or damaged" for file in files if not zipfile.is_zipfile(file)), "")
