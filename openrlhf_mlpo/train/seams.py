"""Every point of contact with OpenRLHF: what we replace, what we rely on, and whether it is still there.

OpenRLHF has no plugin interface, but its entry point looks its classes up when it runs. Nothing installed is edited:
names in already imported modules are pointed at our subclasses. A version is accepted by its seams, not by its number.
Imports nothing of ours, so that every other module may import it.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.metadata
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

TESTED_VERSION = "0.11.2"
SUPPORTED = ">=0.11.2,<0.12"
TRAIN_MODULE = "openrlhf.cli.train_ppo_ray"
_TRAINER, _ASYNC = "openrlhf.trainer.ppo_trainer", "openrlhf.trainer.ppo_trainer_async"
_GENERATOR, _ACTOR = "openrlhf.trainer.ppo_utils.samples_generator", "openrlhf.trainer.ray.ppo_actor"
_BUFFER, _LAUNCHER = "openrlhf.trainer.ppo_utils.replay_buffer", "openrlhf.trainer.ray.launcher"

# Module and name of everything that is replaced or subclassed, and who looks it up.
SEAMS = {
    (TRAIN_MODULE, "PolicyModelActor"): "handed to RayActorGroup by train()",
    (_TRAINER, "PPOTrainer"): "looked up by train() for synchronous runs",
    (_TRAINER, "PromptDataset"): "built by prepare_datasets(), training set first, then evaluation",
    (_TRAINER, "SamplesGenerator"): "built by PPOTrainer.__init__",
    (_ASYNC, "PPOTrainerAsync"): "looked up by train() for asynchronous runs",
    (_ASYNC, "GenerateSamplesActor"): "built by PPOTrainerAsync.__init__",
    (_ASYNC, "TrainingActor"): "built by PPOTrainerAsync.__init__",
    (_ASYNC, "SamplesGenerator"): "built by GenerateSamplesActor.__init__",
    (_ACTOR, "PolicyModelActor"): "imported by train_ppo_ray when it is loaded",
    (_ACTOR, "ActorPPOTrainer"): "built by PolicyModelActor.init_model_from_pretrained",
    (_ACTOR, "Actor"): "built by PolicyModelActor.init_model_from_pretrained",
    (TRAIN_MODULE, "ReferenceModelActor"): "handed to RayActorGroup by train()",
    (_LAUNCHER, "ReferenceModelActor"): "imported by train_ppo_ray when it is loaded",
    (_LAUNCHER, "Actor"): "built by ReferenceModelActor.init_model_from_pretrained",
    (_TRAINER, "RemoteExperienceMaker"): "built by BasePPOTrainer.__init__",
    (_TRAINER, "balance_experiences"): "called by BasePPOTrainer.train_step with dynamic batches",
    (_BUFFER, "NaiveReplayBuffer"): "built by ActorPPOTrainer.__init__, replaced after it",
}
# Parameters of what we override or call, in their order; with "…" at the end, others may follow.
SIGNATURES = {
    (TRAIN_MODULE, "train"): "args",
    ("openrlhf.utils.config", "hierarchize"): "args …",
    ("openrlhf.utils.loss_utils", "get_loss_batch_info"): "strategy loss_mask replay_buffer step dynamic_batch …",
    ("openrlhf.datasets.prompts_dataset", "PromptDataset.__init__"): "self dataset tokenizer strategy input_template",
    ("openrlhf.datasets.prompts_dataset", "PromptDataset.collate_fn"): "self item_list",
    (_TRAINER, "prepare_datasets"): "strategy tokenizer",
    (_TRAINER, "BasePPOTrainer._compute_rollout_stats"): "self experiences",
    (_TRAINER, "BasePPOTrainer.train_step"): "self rollout_samples global_step",
    (_TRAINER, "BasePPOTrainer.init_checkpoint_states"): "self",
    (_TRAINER, "PPOTrainer.__init__"): "self pretrain strategy …",
    (_TRAINER, "PPOTrainer.get_max_steps"): "self",
    (_ASYNC, "GenerateSamplesActor.__init__"): "self pretrain strategy …",
    (_ASYNC, "GenerateSamplesActor.fit"): "self episode total_consumed_prompts",
    (_ASYNC, "GenerateSamplesActor.get_max_steps"): "self",
    (_ASYNC, "GenerateSamplesActor._should_eval"): "self global_step",
    (_ASYNC, "PPOTrainerAsync.__init__"): "self …",
    (_GENERATOR, "SamplesGenerator.generate_samples"): "self generate_kwargs",
    (_GENERATOR, "SamplesGenerator.generate_eval_samples"): "self generate_kwargs",
    (_GENERATOR, "SamplesGenerator._generate_vllm"): (
        "self dataloader_iter num_prompts dynamic_filtering generate_kwargs"
    ),
    (_ACTOR, "ActorPPOTrainer.training_step"): "self experience kl_ctl step loss_batch_info",
    (_ACTOR, "ActorPPOTrainer.broadcast_to_vllm"): "self",
    (_ACTOR, "PolicyModelActor.init_model_from_pretrained"): "self strategy …",
    (_LAUNCHER, "ReferenceModelActor.init_model_from_pretrained"): "self strategy …",
    ("openrlhf.models.actor", "Actor.forward"): (
        "self sequences action_mask attention_mask return_output allgather_logits return_logprobs ring_attn_group "
        "packed_seq_lens return_entropy mm_inputs"
    ),
    (_BUFFER, "NaiveReplayBuffer.setup_dynamic_batch"): "self strategy",
    ("openrlhf.trainer.ppo_utils.experience_maker", "RemoteExperienceMaker.split_rollout_samples"): (
        "self rollout_samples"
    ),
    (_ACTOR, "PolicyModelActor.save_checkpoint"): "self …",
}
# What our code reads of their objects.
ATTRIBUTES = {
    ("openrlhf.trainer.ppo_utils.experience", "Experience"): "sequences action_mask labels scores info",
    (_GENERATOR, "SamplesGenerator"): "args tokenizer prompts_dataloader _dataloader_iter",
    (_TRAINER, "PPOTrainer"): "samples_generator prompts_dataloader",
    (_TRAINER, "BasePPOTrainer"): "args",
    (_ASYNC, "GenerateSamplesActor"): "samples_generator prompts_dataloader args",
    (_ACTOR, "ActorPPOTrainer"): "args strategy actor replay_buffer",
}
# Flags of train_ppo_ray that our checks and classes read; releases do rename some.
FLAGS = (
    "actor.loss_agg_mode actor.model_name_or_path actor.num_gpus_per_node actor.num_nodes actor.policy_loss_type "
    "algo.advantage.estimator ckpt.load_enable ckpt.path ckpt.save_steps data.max_images_per_prompt data.max_len "
    "data.max_samples data.prompt_dataset data.prompt_probs data.prompt_split ds.attn_implementation ds.deepcompile "
    "ds.load_in_4bit ds.lora.rank ds.ring_attn_size ds.tensor_parallel_size ds.use_liger_kernel ds.zero_stage "
    "eval.dataset eval.split reward.remote_url rollout.batch_size rollout.max_new_tokens rollout.max_tokens_per_gpu "
    "rollout.micro_batch_size rollout.n_samples_per_prompt rollout.vllm_generate_batch_size train.batch_size "
    "train.dynamic_batch_enable train.max_epochs train.max_tokens_per_gpu train.micro_batch_size train.num_episodes "
    "train.partial_rollout_enable train.seed vllm.num_engines"
).split()


class SeamError(Exception):
    """OpenRLHF is missing, too old or too new, or a seam moved; the message is one line for the user."""


def check_version() -> None:
    """Raise SeamError unless an OpenRLHF is installed that can be extended; warn once of a version not tested."""
    fix = f"run: pip install openrlhf=={TESTED_VERSION}"
    try:
        installed = importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError:
        raise SeamError(f"openrlhf is not installed; {fix}") from None
    from packaging.specifiers import SpecifierSet

    if not SpecifierSet(SUPPORTED).contains(installed, prereleases=True):
        raise SeamError(f"openrlhf {installed} is installed, but this release extends {SUPPORTED}; {fix}")
    if moved := problems():
        if installed == TESTED_VERSION:  # somebody changed its files
            fix = fix.replace("install", "install --force-reinstall --no-deps")
        raise SeamError(f"openrlhf {installed} cannot be extended: {'; '.join(moved)}; {fix}")
    if installed != TESTED_VERSION:
        untested = f"openrlhf {installed} was not tested with this release ({TESTED_VERSION} was)"
        print(f"warning: {untested}; what it extends is all there", file=sys.stderr)


def problems() -> list[str]:
    """What moved in the installed OpenRLHF, one line a seam; nothing is imported, so this takes milliseconds."""
    return [*_missing_names(), *_changed_signatures(), *_missing_attributes(), *_other_moves()]


def _missing_names() -> Iterator[str]:
    for (module, name), why in SEAMS.items():
        body = _tree(module).body
        defined = {node.name for node in body if isinstance(node, ast.ClassDef)}
        imported = {alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
        if name not in defined | imported:
            yield f"{module} has no {name} ({why})"


def _changed_signatures() -> Iterator[str]:
    for (module, name), wanted in SIGNATURES.items():
        function = _find(module, name)
        if not isinstance(function, ast.FunctionDef):
            yield f"{module} has no {name}({wanted.replace(' ', ', ')})"
            continue
        groups = function.args
        given = [arg.arg for arg in (*groups.posonlyargs, *groups.args, *groups.kwonlyargs)]
        given += [arg.arg for arg in (groups.vararg, groups.kwarg) if arg]
        names = wanted.removesuffix("…").split()
        if given[: len(names)] != names or (given != names and not wanted.endswith("…")):
            yield f"{module}.{name} takes ({', '.join(given)}), not ({wanted.replace(' ', ', ')})"


def _missing_attributes() -> Iterator[str]:
    for (module, name), wanted in ATTRIBUTES.items():
        owner = _find(module, name)
        nodes = list(ast.walk(owner)) if owner else []
        known = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
        known |= {
            node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        yield from (f"{module}.{name} has no {attribute}" for attribute in wanted.split() if attribute not in known)


def _other_moves() -> Iterator[str]:
    """Flags, and the two places whose order of events we rely on."""
    entry = ast.dump(_tree(TRAIN_MODULE))
    yield from (f"train_ppo_ray has no --{flag}" for flag in FLAGS if f"'--{flag}'" not in entry)
    train = _find(TRAIN_MODULE, "train")
    imports = [node for node in ast.walk(train) if isinstance(node, ast.ImportFrom)] if train else []
    looked_up = {(node.module, alias.name) for node in imports for alias in node.names}
    for module, name in ((_TRAINER, "PPOTrainer"), (_ASYNC, "PPOTrainerAsync")):
        if (module, name) not in looked_up:
            yield f"{TRAIN_MODULE}.train does not import {name} of {module} when it is called"
    prepare = _find(_TRAINER, "prepare_datasets")
    calls = [n for n in ast.walk(prepare) if isinstance(n, ast.Call)] if prepare else []
    built = [ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "PromptDataset" and call.args]
    if built != ["train_data", "eval_data"]:
        yield f"{_TRAINER}.prepare_datasets builds PromptDataset from ({', '.join(built)}), not (train_data, eval_data)"


@functools.cache
def _tree(module: str) -> ast.Module:
    """The source of one of OpenRLHF's modules, parsed; empty when there is none."""
    package = importlib.util.find_spec("openrlhf")
    for folder in (package.submodule_search_locations if package else None) or ():
        path = Path(folder).joinpath(*module.split(".")[1:]).with_suffix(".py")
        if path.is_file():
            return ast.parse(path.read_text(encoding="utf-8"))
    return ast.Module([], [])


def _find(module: str, name: str) -> ast.AST | None:
    """The class or function (`Class.method`) of that name at the top of a module."""
    node: ast.AST | None = _tree(module)
    for part in name.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef)
        inside = getattr(node, "body", ())
        node = next((child for child in inside if isinstance(child, kinds) and child.name == part), None)
    return node


def plain_class(actor_class) -> Any:
    """The ordinary class behind a Ray actor class, which alone can be subclassed: Any, as known at run time only."""
    return actor_class.__ray_metadata__.modified_class


def extend_parsers(extend: Iterable[Callable], check: Iterable[Callable] = ()) -> None:
    """Let each `extend(parser)` add to, and each `check(parser, parsed)` refuse, what OpenRLHF's entry points parse.

    They build their parser inside `if __name__ == "__main__"` and pass the result to `hierarchize`, so the one place
    to reach it is `ArgumentParser.parse_args` itself; the replacement lasts for one call.
    """
    original = argparse.ArgumentParser.parse_args

    @functools.wraps(original)
    def parse_args(self, args=None, namespace=None):
        argparse.ArgumentParser.parse_args = original
        for step in extend:
            step(self)
        parsed = original(self, args, namespace)
        for step in check:
            step(self, parsed)
        return parsed

    argparse.ArgumentParser.parse_args = parse_args


def register(trainer: type, trainer_async: type, policy: type, reference: type) -> None:
    """Point OpenRLHF's entry point at these classes, in the driver process."""
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async
    import openrlhf.trainer.ray.launcher as launcher
    import openrlhf.trainer.ray.ppo_actor as ppo_actor
    import ray

    ppo_trainer.PPOTrainer = ray.remote(trainer)
    ppo_trainer_async.PPOTrainerAsync = ray.remote(trainer_async)
    ppo_actor.PolicyModelActor = ray.remote(num_gpus=1)(policy)
    launcher.ReferenceModelActor = ray.remote(num_gpus=1)(reference)
    # train_ppo_ray runs as __main__ and imported these names when it was loaded, before it parsed its flags.
    entry_point = sys.modules["__main__"]
    for module, name in ((ppo_actor, "PolicyModelActor"), (launcher, "ReferenceModelActor")):
        if hasattr(entry_point, name):
            setattr(entry_point, name, getattr(module, name))


def register_data(dataset: Callable, generator: type) -> None:
    """Make OpenRLHF build these, in the Ray actor that is about to build its datasets.

    `dataset` gets `evaluation=True` for the second set that `prepare_datasets` builds, and those after it.
    """
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import openrlhf.trainer.ppo_trainer_async as ppo_trainer_async

    built = itertools.count()
    ppo_trainer.PromptDataset = lambda *args, **kwargs: dataset(*args, **kwargs, evaluation=next(built) > 0)
    ppo_trainer.SamplesGenerator = ppo_trainer_async.SamplesGenerator = generator
