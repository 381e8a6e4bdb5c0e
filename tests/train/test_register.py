"""Every seam in OpenRLHF that the extension relies on. When one of these fails, OpenRLHF moved; it says where."""

import base64
import csv
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from openrlhf_mlpo import cpu
from openrlhf_mlpo.cli import train_mlpo_ray
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.train import flags, inputs, seams
from tests.conftest import ROOT

cpu.activate() if cpu.use_cpu() else None


def test_every_seam_is_there():
    assert seams.problems() == [], "OpenRLHF moved"


def test_methods_we_override_have_these_parameters_when_imported():
    """The signatures are read off the source; Python's own view of the imported classes agrees."""
    for (module, name), wanted in seams.SIGNATURES.items():
        owner, _, method = name.rpartition(".")
        found = getattr(importlib.import_module(module), owner or name)
        found = getattr(found, "__ray_metadata__", None) and seams.plain_class(found) or found
        # Ray adds a parameter of its own to the methods of a class it has wrapped.
        parameters = [p for p in inspect.signature(getattr(found, method) if owner else found).parameters]
        parameters = [p for p in parameters if p != "_ray_trace_ctx"]
        names = wanted.removesuffix("…").split()
        assert parameters[: len(names)] == names, f"{module}.{name}"


def test_every_flag_our_code_reads_is_a_seam():
    """OpenRLHF renames flags between releases: one that is read must be one that is looked for at the start."""
    folder = ROOT / "openrlhf_mlpo" / "train"
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    read = set(re.findall(r"\b(?:a|args)\.((?!mlpo)[a-z_0-9]+(?:\.[a-z_0-9]+)+)", text))
    assert {"rollout.batch_size", "algo.advantage.estimator", "ds.lora.rank"} <= read
    assert read <= set(seams.FLAGS)


@pytest.fixture
def changed_openrlhf(tmp_path, monkeypatch):
    """A function that makes OpenRLHF look as if one of its files had been edited; the installed one stays as it is."""
    real = Path(importlib.util.find_spec("openrlhf").origin).parent
    copy = tmp_path / "openrlhf"

    def change(file: str, old: str, new: str) -> None:
        for module in {module for table in (seams.SEAMS, seams.SIGNATURES, seams.ATTRIBUTES) for module, _ in table}:
            path = Path(*module.split(".")[1:]).with_suffix(".py")
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(real / path, copy / path)
        text = (copy / file).read_text(encoding="utf-8")
        assert old in text
        (copy / file).write_text(text.replace(old, new), encoding="utf-8")
        spec = SimpleNamespace(submodule_search_locations=[str(copy)])
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        seams._tree.cache_clear()

    yield change
    seams._tree.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("trainer/ppo_trainer.py", "class PPOTrainer(", "class Trainer(", "ppo_trainer has no PPOTrainer"),
        ("trainer/ppo_trainer.py", "PromptDataset(train_data", "PromptDataset(eval_data", "prepare_datasets builds"),
        (
            "trainer/ppo_trainer.py",
            "self.samples_generator =",
            "self.generator =",
            "PPOTrainer has no samples_generator",
        ),
        ("trainer/ray/ppo_actor.py", "kl_ctl: float, step: int, loss", "kl_ctl: float, loss", "training_step takes"),
        ("trainer/ppo_trainer_async.py", "episode: int, total", "episode: int, state, total", "Actor.fit takes"),
        ("trainer/ppo_utils/experience.py", "labels:", "golds:", "Experience has no labels"),
        (
            "cli/train_ppo_ray.py",
            "--rollout.n_samples_per_prompt",
            "--rollout.n_samples",
            "has no --rollout.n_samples_per",
        ),
        (
            "cli/train_ppo_ray.py",
            "ppo_trainer import PPOTrainer",
            "moved import PPOTrainer",
            "train does not import PPOTrainer of",
        ),
        ("utils/config.py", "def hierarchize", "def nest", r"has no hierarchize\(args"),
    ],
)
def test_a_seam_that_moved_is_named(file, old, new, message, changed_openrlhf):
    changed_openrlhf(file, old, new)
    with pytest.raises(UserError, match=message) as error:
        flags.check_openrlhf()
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("; run: pip install --force-reinstall --no-deps openrlhf==0.11.2")


def test_ray_actor_classes_show_the_plain_class():
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer, PPOTrainer

    assert issubclass(seams.plain_class(PPOTrainer), BasePPOTrainer), "Ray hides the class behind an actor class"


def test_registered_classes_are_ours():
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import openrlhf.trainer.ray.launcher as launcher
    import openrlhf.trainer.ray.ppo_actor as ppo_actor

    from openrlhf_mlpo.train import trainer

    before = ppo_trainer.PPOTrainer, ppo_trainer_async.PPOTrainerAsync, ppo_actor.PolicyModelActor
    reference = launcher.ReferenceModelActor
    try:
        trainer.register()
        assert issubclass(seams.plain_class(ppo_trainer.PPOTrainer), trainer.MLPOTrainer)
        assert issubclass(seams.plain_class(ppo_trainer_async.PPOTrainerAsync), trainer.MLPOTrainerAsync)
        assert issubclass(seams.plain_class(ppo_actor.PolicyModelActor), trainer.MLPOPolicyModelActor)
        assert issubclass(seams.plain_class(launcher.ReferenceModelActor), trainer.MLPOReferenceModelActor)
    finally:
        ppo_trainer.PPOTrainer, ppo_trainer_async.PPOTrainerAsync, ppo_actor.PolicyModelActor = before
        launcher.ReferenceModelActor = reference


def test_installed_openrlhf_is_as_pip_left_it():
    """OpenRLHF's files are never edited: every hash in the wheel's RECORD still fits."""
    distribution = importlib.metadata.distribution("openrlhf")
    changed, checked = [], 0
    for path, hashed, _size in csv.reader(distribution.read_text("RECORD").splitlines()):
        if path.endswith(".py") and hashed:
            digest = hashlib.sha256(distribution.locate_file(path).read_bytes()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != hashed.removeprefix("sha256="):
                changed.append(path)
            checked += 1
    assert checked > 50
    assert not changed


def installed_version(monkeypatch, installed: str | None) -> None:
    def version(_name):
        if installed is None:
            raise importlib.metadata.PackageNotFoundError
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.parametrize(
    ("installed", "message"),
    [("0.11.1", "0.11.1 is installed"), ("0.12.0", "0.12.0 is"), ("0.9.10", "0.9.10 is"), (None, "not installed")],
)
def test_wrong_version_is_one_clear_line(monkeypatch, installed, message):
    installed_version(monkeypatch, installed)
    with pytest.raises(UserError, match=message) as error:
        flags.check_openrlhf()
    assert "pip install openrlhf==0.11.2" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("installed", ["0.11.3", "0.11.2.post1", "0.11.10"])
def test_a_version_not_tested_is_one_warning(monkeypatch, capsys, installed):
    installed_version(monkeypatch, installed)
    flags.check_openrlhf()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: openrlhf {installed} was not tested")


@pytest.mark.slow
@pytest.mark.parametrize("pool", [True, False])
def test_the_policy_worker_that_is_started_is_ours(pool, tmp_path, monkeypatch):
    """What OpenRLHF's `train()` would hand to Ray: it imported the class when it was loaded, before any flag."""

    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import openrlhf.trainer.ray.ppo_actor as ppo_actor
    import openrlhf.utils
    import ray

    from openrlhf_mlpo.train.trainer import MLPOPolicyModelActor

    class Started(BaseException):
        pass

    def start(_args):
        raise Started(sys.modules["__main__"].PolicyModelActor)

    for module, name in (
        (ppo_trainer, "PPOTrainer"),
        (ppo_trainer_async, "PPOTrainerAsync"),
        (ppo_actor, "PolicyModelActor"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back in the end
    monkeypatch.setattr(inputs, "check_files", lambda args, flat: None)
    monkeypatch.setattr(openrlhf.utils, "get_strategy", start)  # the first thing that train() calls
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    command = (
        f"--actor.model_name_or_path x --reward.remote_url {ROOT}/reward_fns/auto_reward.py "
        "--rollout.max_new_tokens 16 --rollout.n_samples_per_prompt 2 --vllm.num_engines 1 --algo.kl.init_coef 0 "
        + (f"--mlpo.pool {tmp_path}" if pool else "--algo.advantage.estimator dr_grpo")
    )
    monkeypatch.setattr(sys, "argv", ["train_mlpo_ray", *command.split()])
    with pytest.raises(Started) as started:
        train_mlpo_ray.main()
    assert issubclass(seams.plain_class(started.value.args[0]), MLPOPolicyModelActor) == pool
