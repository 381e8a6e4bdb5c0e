"""A LoRA leader's weights as vLLM wants them: adapters merged in, under the names of the model without LoRA.

OpenRLHF 0.11.2 sends vLLM every parameter under PEFT's name (`base_model.model.….base_layer.weight`, `….lora_A…`),
which vLLM refuses at the first weight sync (OpenRLHF issue 1349).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace


class MergedWeight:
    """What a weight sync reads of a parameter; `data` is merged when asked for, so that one at a time is in memory."""

    requires_grad = True

    def __init__(self, parameter, layer=None):
        self._parameter, self._layer = parameter, layer
        self.dtype, self.shape = parameter.dtype, parameter.shape

    @property
    def data(self):
        weight = self._parameter.data
        if self._layer is None:
            return weight
        for adapter in self._layer.active_adapters:
            weight = weight + self._layer.get_delta_weight(adapter).to(weight.dtype)
        return weight


def merged_parameters(peft_model) -> Iterator[tuple[str, MergedWeight]]:
    """`named_parameters()` of a PEFT model as if its adapters had been merged; the model itself is not changed."""
    model = peft_model.get_base_model()
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            owner, _, kind = name.rpartition(".base_layer.")
            layer = model.get_submodule(owner) if owner and kind == "weight" else None
            yield name.replace(".base_layer.", "."), MergedWeight(parameter, layer)


def merged_actor(actor) -> SimpleNamespace:
    """As much of OpenRLHF's `Actor` as `ActorPPOTrainer.broadcast_to_vllm` uses, with merged weights."""
    module = SimpleNamespace(named_parameters=partial(merged_parameters, actor.model.module))
    return SimpleNamespace(model=SimpleNamespace(module=module))
