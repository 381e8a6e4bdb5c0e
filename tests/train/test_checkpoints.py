"""A damaged checkpoint is found before anything starts, and the one to go on from is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.train.checkpoints import check_checkpoint

STATE = "mp_rank_00_model_states.pt"


@pytest.fixture
def saved(tmp_path) -> Path:
    """Three saved states as DeepSpeed lays them out."""
    for step in (2, 9, 10):
        folder = tmp_path / "_actor" / f"global_step{step}"
        folder.mkdir(parents=True)
        torch.save({"step": step}, folder / STATE)
    (tmp_path / "_actor" / "latest").write_text("global_step10")
    return tmp_path


def test_whole_checkpoints_and_first_starts_pass(saved, tmp_path):
    check_checkpoint(saved)
    check_checkpoint(tmp_path / "nothing here yet")


@pytest.mark.parametrize("harm", ["cut", "empty", "gone"])
def test_a_damaged_state_names_the_newest_whole_one(saved, harm):
    file = saved / "_actor" / "global_step10" / STATE
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 0 if harm == "empty" else -100])
    with pytest.raises(UserError, match=re.escape(f"go on from global_step9: echo -n global_step9 > {saved}")) as found:
        check_checkpoint(saved)
    assert len(str(found.value).splitlines()) == 1
    # the remedy, as written
    (saved / "_actor" / "latest").write_text("global_step9")
    check_checkpoint(saved)


def test_when_nothing_is_whole_it_says_so(saved):
    for file in saved.rglob("*.pt"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="start again: remove .*_actor"):
        check_checkpoint(saved)


def test_a_folder_without_a_finished_state_is_refused(tmp_path):
    """As a run leaves it that was killed during its first save."""
    (tmp_path / "_actor" / "global_step1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"_actor: holds no finished state; start again: remove it$"):
        check_checkpoint(tmp_path)
