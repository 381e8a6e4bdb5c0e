"""A LoRA leader: vLLM gets the merged weights under the model's own names, also on the real stack."""

import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from openrlhf_mlpo import cpu
from openrlhf_mlpo.train.lora import merged_actor
from tests.stack import MLPO, finish, make_places, start

cpu.activate() if cpu.use_cpu() else None


def tiny(seed: int = 0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            attention_bias=True,
            tie_word_embeddings=False,
        )
    )


def with_adapters(model):
    """As OpenRLHF makes them, and with numbers in B, which begins as zeros."""
    from peft import LoraConfig, TaskType, get_peft_model

    peft = get_peft_model(
        model, LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, target_modules="all-linear", bias="none")
    )
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return peft


def test_merged_weights_are_those_of_peft():
    peft = with_adapters(tiny())
    before = {name: parameter.clone() for name, parameter in peft.named_parameters()}
    actor = merged_actor(SimpleNamespace(model=SimpleNamespace(module=peft)))
    shown = {name: (weight.data, weight.shape) for name, weight in actor.model.module.named_parameters()}
    assert all(torch.equal(parameter, before[name]) for name, parameter in peft.named_parameters()), "model was changed"
    merged = peft.merge_and_unload()
    expected = dict(merged.named_parameters())
    assert list(shown) == list(expected)
    for name, (weight, shape) in shown.items():
        assert shape == expected[name].shape
        assert torch.allclose(weight, expected[name], atol=1e-5), name
    assert not torch.allclose(
        shown["model.layers.0.self_attn.q_proj.weight"][0],
        dict(tiny().named_parameters())["model.layers.0.self_attn.q_proj.weight"],
    )


def test_openrlhf_reads_of_the_actor_what_we_give_it():
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

    text = inspect.getsource(ActorPPOTrainer.broadcast_to_vllm)
    assert "self.actor.model.module" in text and "model.named_parameters()" in text
    assert text.count("self.actor") == 2, "broadcast_to_vllm uses the actor in another way"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ds.lora.rank", "8", "--ds.zero_stage", "3"], "--ds.lora.rank needs --ds.zero_stage 2"),
        (["--ds.load_in_4bit"], "--ds.load_in_4bit"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_merged_is_refused(flags, message, tmp_path):
    from openrlhf_mlpo.cli.dry_run import check_command
    from openrlhf_mlpo.errors import UserError
    from tests.conftest import ROOT

    command = (
        f"python3 -m openrlhf_mlpo.cli.train_mlpo_ray --mlpo.pool {tmp_path} --actor.model_name_or_path x "
        f"--reward.remote_url {ROOT}/reward_fns/auto_reward.py --rollout.max_new_tokens 16 "
        "--rollout.n_samples_per_prompt 2 --vllm.num_engines 1 --algo.kl.init_coef 0 " + " ".join(flags)
    )
    with pytest.raises(UserError, match=message):
        check_command(command)


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.skipif(not cpu.use_cpu(), reason="written for the CPU runtime")
def test_vllm_follows_a_lora_leader(tmp_path):
    """Four steps: what vLLM sampled has the probabilities that the trained model gives it, so it has its weights."""
    places = make_places(tmp_path)
    flags = ["--mlpo.pool", str(places / "pool"), "--mlpo.template", "compact", "--mlpo.drop_correct", "2"]
    flags += ["--train.num_episodes", "2", "--ds.lora.rank", "8", "--ds.lora.alpha", "32", "--ds.zero_stage", "2"]
    flags += [
        "--actor.adam.lr",
        "3e-2",
        "--actor.lr_warmup_ratio",
        "0",
        "--algo.advantage.is_correction_level",
        "token",
    ]
    steps = finish(start(MLPO, places, "lora", *flags), places, "lora")
    assert len(steps) >= 4
    # 0.002 from the first step on, when nothing has been trained yet: rounding. With the old weights it would be 0.06.
    assert max(abs(step["vllm_kl"]) for step in steps) < 0.01
    adapter, merged = places / "lora" / "model", places / "lora" / "merged"
    command = (
        f"{sys.executable} -m openrlhf_mlpo.cli.run_openrlhf openrlhf.cli.lora_combiner --model_path "
        f"{places / 'model'} --lora_path {adapter} --output_path {merged}"
    )
    done = subprocess.run(command.split(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    from safetensors.torch import load_file

    before, after = load_file(places / "model" / "model.safetensors"), load_file(merged / "model.safetensors")
    assert set(after) == set(before)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (after[name].float() - before[name].float()).abs().max() > 1e-2, "training changed too little to tell"
