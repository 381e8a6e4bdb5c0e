"""OpenRLHF's vLLM worker extension with weight updates through host memory.

Only vLLM imports this, by the name that `cpu` gives it, before it loads the model.
"""

from __future__ import annotations

from typing import Any

import torch
import vllm._custom_ops

from openrlhf_mlpo.cpu import activate

activate()
# vLLM's oneDNN kernels repack linear weights after loading, and packed weights cannot be loaded into again.
vllm._custom_ops._supports_onednn = False

from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap  # noqa: E402


class CPUWorkerWrap(WorkerWrap):
    """`WorkerWrap` without CUDA."""

    def update_weight(self, name, dtype, shape, empty_cache=False):
        """Receive one weight from the trainer and load it into vLLM's model."""
        worker: Any = self  # vLLM gives its worker class this one as a base
        weight = torch.empty(shape, dtype=dtype)
        worker._model_update_group.broadcast(weight, src=0)
        worker.model_runner.model.load_weights(weights=[(name, weight.to(worker.model_config.dtype))])
