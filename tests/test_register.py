"""Every seam in OpenRLHF that the extension relies on. When one of these fails, OpenRLHF moved; it says where."""

import argparse
import ast
import base64
import csv
import hashlib
import importlib
import importlib.metadata
import inspect
import sys

import pytest

from openrlhf_mlpo import cpu, register
from openrlhf_mlpo.cli import train_mlpo_ray
from openrlhf_mlpo.errors import UserError

cpu.activate() if cpu.use_cpu() else None


def source(module: str) -> str:
    path = importlib.metadata.distribution("openrlhf").locate_file(module.replace(".", "/") + ".py")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("module", "name"), register.SEAMS)
def test_what_is_replaced_exists(module, name):
    tree = ast.parse(source(module))
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert name in defined | imported, f"{module} no longer defines or imports {name}, {register.SEAMS[module, name]}"


def test_entry_point_looks_its_classes_up_when_we_expect():
    tree = ast.parse(source(register.TRAIN_MODULE))
    at_load = {(n.module, a.name) for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert ("openrlhf.trainer.ray.ppo_actor", "PolicyModelActor") in at_load, "PolicyModelActor is not imported at load"
    assert ("openrlhf.trainer.ray.launcher", "ReferenceModelActor") in at_load, "ReferenceModelActor likewise"
    train = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "train")
    at_call = {(n.module, a.name) for n in ast.walk(train) if isinstance(n, ast.ImportFrom) for a in n.names}
    for seam in (
        ("openrlhf.trainer.ppo_trainer", "PPOTrainer"),
        ("openrlhf.trainer.ppo_trainer_async", "PPOTrainerAsync"),
    ):
        assert seam in at_call, f"train() no longer imports {seam[1]} when called"
    main = next(n for n in tree.body if isinstance(n, ast.If))
    calls = {ast.unparse(n.func) for n in ast.walk(main) if isinstance(n, ast.Call)}
    assert {"parser.parse_args", "hierarchize", "train"} <= calls, "the main block parses its arguments differently"


def test_prepare_datasets_builds_training_set_first():
    text = source("openrlhf.trainer.ppo_trainer")
    function = text[text.index("def prepare_datasets") : text.index("def compute_eval_metrics")]
    assert function.count("PromptDataset(") == 2, "prepare_datasets builds another number of datasets"
    assert function.index("PromptDataset(train_data") < function.index("PromptDataset(eval_data")


SIGNATURES = [
    ("openrlhf.trainer.ppo_trainer", "BasePPOTrainer", "_compute_rollout_stats", ["self", "experiences"]),
    ("openrlhf.trainer.ppo_trainer", "BasePPOTrainer", "init_checkpoint_states", ["self"]),
    (
        "openrlhf.trainer.ppo_utils.samples_generator",
        "SamplesGenerator",
        "generate_samples",
        ["self", "generate_kwargs"],
    ),
    (
        "openrlhf.trainer.ray.ppo_actor",
        "ActorPPOTrainer",
        "training_step",
        ["self", "experience", "kl_ctl", "step", "loss_batch_info"],
    ),
    ("openrlhf.datasets.prompts_dataset", "PromptDataset", "__init__", None),
    (
        "openrlhf.models.actor",
        "Actor",
        "forward",
        "self sequences action_mask attention_mask return_output allgather_logits return_logprobs ring_attn_group "
        "packed_seq_lens return_entropy mm_inputs".split(),
    ),
    ("openrlhf.trainer.ppo_utils.replay_buffer", "NaiveReplayBuffer", "setup_dynamic_batch", ["self", "strategy"]),
    (
        "openrlhf.trainer.ppo_utils.experience_maker",
        "RemoteExperienceMaker",
        "split_rollout_samples",
        ["self", "rollout_samples"],
    ),
]


@pytest.mark.parametrize(("module", "owner", "method", "parameters"), SIGNATURES)
def test_methods_we_override_keep_their_parameters(module, owner, method, parameters):
    cls = getattr(importlib.import_module(module), owner)
    # Ray adds a parameter of its own to the methods of a class it has wrapped.
    found = [name for name in inspect.signature(getattr(cls, method)).parameters if name != "_ray_trace_ctx"]
    wanted = parameters or ["self", "dataset", "tokenizer", "strategy", "input_template"]
    assert found == wanted, f"{owner}.{method} changed its parameters from {wanted} to {found}"


def test_ray_actor_classes_show_the_plain_class():
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer, PPOTrainer

    assert issubclass(register.plain_class(PPOTrainer), BasePPOTrainer), "Ray hides the class behind an actor class"


def test_registered_classes_are_ours():
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import openrlhf.trainer.ray.launcher as launcher
    import openrlhf.trainer.ray.ppo_actor as ppo_actor

    from openrlhf_mlpo import trainer

    before = ppo_trainer.PPOTrainer, ppo_trainer_async.PPOTrainerAsync, ppo_actor.PolicyModelActor
    reference = launcher.ReferenceModelActor
    try:
        register.register()
        assert issubclass(register.plain_class(ppo_trainer.PPOTrainer), trainer.MLPOTrainer)
        assert issubclass(register.plain_class(ppo_trainer_async.PPOTrainerAsync), trainer.MLPOTrainerAsync)
        assert issubclass(register.plain_class(ppo_actor.PolicyModelActor), trainer.MLPOPolicyModelActor)
        assert issubclass(register.plain_class(launcher.ReferenceModelActor), trainer.MLPOReferenceModelActor)
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


@pytest.mark.parametrize(
    ("installed", "message"), [("0.11.1", "openrlhf 0.11.1 is installed"), (None, "not installed")]
)
def test_wrong_version_is_one_clear_line(monkeypatch, installed, message):
    def version(_name):
        if installed is None:
            raise importlib.metadata.PackageNotFoundError
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(UserError, match=message) as error:
        register.check_version()
    assert "pip install openrlhf==0.11.2" in str(error.value)
    assert "\n" not in str(error.value)


def stock_parser() -> argparse.ArgumentParser:
    """OpenRLHF's own parser with the MLPO flags, as train_mlpo_ray has it."""

    class Built(Exception):
        pass

    def capture(parser, _parsed=None):
        raise Built(parser)

    register.extend_parsers(lambda parser: (register.add_arguments(parser), capture(parser)))
    import runpy

    argv, sys.argv = sys.argv, ["train_mlpo_ray"]
    try:
        runpy.run_module(register.TRAIN_MODULE, run_name="__main__")
    except Built as built:
        return built.args[0]
    finally:
        sys.argv = argv
    raise AssertionError("train_ppo_ray no longer calls ArgumentParser.parse_args")


def test_parser_has_stock_and_mlpo_flags():
    parser = stock_parser()
    flags = {option for action in parser._actions for option in action.option_strings}
    assert {"--actor.model_name_or_path", "--rollout.batch_size", "--mlpo.pool", "--mlpo.loss_norm"} <= flags
    assert set(register.ESTIMATORS) <= set(
        next(a for a in parser._actions if a.dest == "algo.advantage.estimator").choices
    )
    modes = next(a for a in parser._actions if a.dest == "actor.loss_agg_mode").choices
    assert set(register.LOSS_NORMS) - {"constant"} == set(modes), "OpenRLHF's loss_agg_mode choices changed"


GOOD = (
    "--mlpo.pool {pool} --mlpo.template compact --actor.model_name_or_path {model} --reward.remote_url {reward} "
    "--rollout.n_samples_per_prompt 4 --rollout.max_new_tokens 32 --data.max_len 256"
)
BAD = [
    ("--mlpo.pool {tmp}/none", "no pool"),
    ("--mlpo.team_size 4", "--mlpo.team_size 4.*has 3 agents"),
    ("--mlpo.team_size -1", "--mlpo.team_size"),
    ("--mlpo.solo_fraction 1.5", "--mlpo.solo_fraction"),
    ("--mlpo.drop_correct 0", "--mlpo.drop_correct"),
    ("--mlpo.template nowhere.yaml", "template 'nowhere.yaml'"),
    ("--data.prompt_dataset x.jsonl", "--data.prompt_dataset and --mlpo.pool"),
    ("--data.apply_chat_template", "--data.apply_chat_template"),
    ("--train.agent_func_path agent.py", "--train.agent_func_path"),
    ("--algo.advantage.estimator gae", "no value network"),
    ("--rollout.n_samples_per_prompt 1", "--rollout.n_samples_per_prompt"),
    ("--rollout.max_new_tokens 256", "leaves no room"),
    ("--data.max_len 36", "row 1: a leader prompt cannot fit"),
    ("--reward.remote_url nothere.py", "nothere.py: no such file"),
    ("--actor.model_name_or_path {tmp}/nomodel", "nomodel"),
    ("--actor.loss_agg_mode token-mean", "--mlpo.loss_norm"),
    ("--mlpo.loss_norm token-mean --actor.loss_agg_mode seq-mean-token-mean", "contradict"),
    ("--eval.dataset {tmp}/none", "no pool"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    from tests.small import make_pool
    from tests.tiny import make_tiny_model

    tmp = tmp_path_factory.mktemp("register")
    make_tiny_model(tmp / "model")
    make_pool(tmp / "pool")
    (tmp / "reward.py").write_text("def reward_func(queries, prompts, labels): ...\n")
    return {"tmp": tmp, "model": tmp / "model", "pool": tmp / "pool", "reward": tmp / "reward.py"}


def check(command: str, places: dict, monkeypatch) -> argparse.Namespace:
    argv = command.format(**places).split()
    monkeypatch.setattr(sys, "argv", ["train_mlpo_ray", *argv])
    parser = stock_parser()
    parsed = argparse.ArgumentParser.parse_args(parser, argv)
    register.check_arguments(parser, parsed)
    return parsed


def test_good_arguments_pass_and_default_to_dr_grpo(places, monkeypatch):
    parsed = check(GOOD, places, monkeypatch)
    assert vars(parsed)["algo.advantage.estimator"] == "dr_grpo"
    assert vars(parsed)["data.prompt_dataset"] == str(places["pool"])


def test_prompts_are_shared_where_micro_batches_hold_groups(places, monkeypatch):
    shared = {
        extra: vars(check(f"{GOOD} {extra}", places, monkeypatch))["mlpo.share_prompt"]
        for extra in ("", "--train.micro_batch_size 8", "--train.micro_batch_size 8 --mlpo.share_prompt off")
    }
    assert list(shared.values()) == ["off", "on", "off"]
    with pytest.raises(UserError, match="--mlpo.share_prompt on: .*raise --train.micro_batch_size"):
        check(f"{GOOD} --mlpo.share_prompt on", places, monkeypatch)


@pytest.mark.parametrize(("extra", "message"), BAD)
def test_bad_arguments_are_one_clear_line(extra, message, places, monkeypatch):
    with pytest.raises(UserError, match=message) as error:
        check(f"{GOOD} {extra}", places, monkeypatch)
    assert "\n" not in str(error.value)


def test_mlpo_flag_without_pool_is_refused(places, monkeypatch):
    with pytest.raises(UserError, match="--mlpo.team_size has no effect without --mlpo.pool"):
        check("--mlpo.team_size 2", places, monkeypatch)


def test_empty_pool_and_wrong_column(places, monkeypatch, tmp_path):
    from tests.small import make_pool

    make_pool(tmp_path / "empty", n=0)
    with pytest.raises(UserError, match="no questions"):
        check(GOOD.replace("{pool}", str(tmp_path / "empty")), places, monkeypatch)
    make_pool(tmp_path / "wrong", rename={"answer": "solution"})
    with pytest.raises(UserError, match="column '?answer'?"):
        check(GOOD.replace("{pool}", str(tmp_path / "wrong")), places, monkeypatch)


def test_cli_ends_with_one_line_and_no_traceback(capsys, monkeypatch):
    from openrlhf_mlpo.errors import run_cli

    monkeypatch.setattr(sys, "argv", ["train_mlpo_ray", "--mlpo.solo_fraction", "0.5"])
    with pytest.raises(SystemExit) as stop:
        run_cli(train_mlpo_ray.main)
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: --mlpo.solo_fraction has no effect")


@pytest.mark.slow
@pytest.mark.parametrize("pool", [True, False])
def test_the_policy_worker_that_is_started_is_ours(pool, tmp_path):
    """What OpenRLHF's `train()` really hands to Ray: it imported the class when it was loaded, before any flag."""
    from openrlhf_mlpo.cli.dry_run import check_command
    from openrlhf_mlpo.trainer import MLPOPolicyModelActor
    from tests.conftest import ROOT

    command = (
        f"python3 -m openrlhf_mlpo.cli.train_mlpo_ray --actor.model_name_or_path x --reward.remote_url \
{ROOT}/reward_fns/auto_reward.py --rollout.max_new_tokens 16 --rollout.n_samples_per_prompt 2 --vllm.num_engines 1 \
--algo.kl.init_coef 0 "
        + (f"--mlpo.pool {tmp_path}" if pool else "--algo.advantage.estimator dr_grpo")
    )
    (policy,) = check_command(command).actors
    assert issubclass(policy, MLPOPolicyModelActor) == pool
