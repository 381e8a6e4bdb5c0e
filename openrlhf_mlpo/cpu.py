"""Runs OpenRLHF 0.11.2, Ray, vLLM and DeepSpeed without a GPU; nothing here is on the path of GPU users.

OpenRLHF assumes CUDA in a dozen places. `activate` replaces exactly those, each when its module is first imported, in
the driver and (through Ray's worker set-up hook) in every Ray worker; vLLM's own worker process imports
`cpu_worker` by name. The mathematics and the control flow stay OpenRLHF's own. For models of a few million weights.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import sys
import types
from typing import Any

from openrlhf_mlpo.errors import UserError

ENV_SWITCH = "OPENRLHF_MLPO_CPU"
TRAIN_THREADS = "OPENRLHF_MLPO_TRAIN_THREADS"
# Ray hands these out as logical resources only; enough for any layout of engines and actors a laptop can hold.
LOGICAL_GPUS = 64
LOGICAL_CPUS = 64
_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",  # the processes share few cores: one thread each is fastest
    # Threads that spin while they wait make a step 20 times slower as soon as anything else wants a core.
    "OMP_WAIT_POLICY": "PASSIVE",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # vLLM would pin its process to cores, and everything started from it later would inherit that.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
# What OpenRLHF's parsers should default to here, so that a command for a GPU needs no other flags on a CPU.
PARSER_DEFAULTS = {
    "ds.attn_implementation": "sdpa",
    "ds.param_dtype": "fp32",  # bf16 is emulated on CPUs without AVX-512: 5 to 9 times slower
    "vllm.sync_backend": "gloo",
    "vllm.enforce_eager": True,
    "actor.num_gpus_per_node": 1,
    "ref.num_gpus_per_node": 1,
}
_NEEDS_GPU = (
    "train.colocate_all",
    "vllm.enable_sleep",
    "ds.enable_sleep",
    "ds.packing_samples",
    "ds.load_in_4bit",
)


def use_cpu() -> bool:
    """Whether to run on the CPU: as OPENRLHF_MLPO_CPU says (1 yes, 0 no), else when torch sees no GPU."""
    asked = os.environ.get(ENV_SWITCH, "")
    if asked not in ("", "0", "1"):
        raise UserError(f"{ENV_SWITCH} must be 1 (run on the CPU), 0 (never) or unset, not {asked!r}")
    if asked:
        return asked == "1"
    import torch

    return not torch.cuda.is_available()


def prepare_vllm() -> None:
    """Set what vLLM reads from the environment, before it is imported in this process. No effect with a GPU."""
    if use_cpu():
        _set_environment()


def vllm_engine_args() -> dict:
    """Keyword arguments for `vllm.LLM` that a CPU needs; empty with a GPU.

    Chunked prefill is off because vLLM 0.29 rewinds the random generator of a seeded request whose prompt was cut into
    chunks, which torch's CPU generators cannot do ("CPU Generator does not use offset").
    """
    return {"dtype": "float32", "enforce_eager": True, "enable_chunked_prefill": False} if use_cpu() else {}


def extend_parser(parser) -> None:
    """Give one of OpenRLHF's parsers defaults that work here, and `--ds.param_dtype fp32`."""
    known = {action.dest: action for action in parser._actions}
    if "ds.param_dtype" in known:
        known["ds.param_dtype"].choices = ["fp32", *known["ds.param_dtype"].choices]
    parser.set_defaults(**{name: value for name, value in PARSER_DEFAULTS.items() if name in known})


def check_arguments(args: dict) -> None:
    """Refuse parsed OpenRLHF arguments (flat, dotted names) that cannot work without a GPU. Raises UserError."""
    for flag in _NEEDS_GPU:
        if args.get(flag):
            raise UserError(f"--{flag} needs a GPU; leave it out on a CPU")
    if args.get("train.dynamic_batch_enable") and (not args.get("mlpo.pool") or args["mlpo.share_prompt"] == "off"):
        raise UserError("--train.dynamic_batch_enable: on a CPU it needs --mlpo.share_prompt on; leave it out")
    if (attention := args.get("ds.attn_implementation") or "").startswith(("flash", "flex")):
        raise UserError(f"--ds.attn_implementation {attention} needs a GPU; use sdpa or eager on a CPU")
    if args.get("vllm.sync_backend") == "nccl":
        raise UserError("--vllm.sync_backend nccl needs a GPU; use gloo on a CPU")


@functools.cache
def activate() -> None:
    """Put the CPU runtime in place in this process, once. Imports neither torch nor OpenRLHF."""
    os.environ[ENV_SWITCH] = "1"
    _set_environment()
    stub_flash_attn()
    import wrapt

    for module, patch in _PATCHES.items():
        wrapt.register_post_import_hook(patch, module)


def init_ray() -> None:
    """Start a local Ray with logical GPUs whose workers run `activate` first."""
    import ray

    if ray.is_initialized():
        return
    ray.init(
        num_cpus=LOGICAL_CPUS,
        num_gpus=LOGICAL_GPUS,
        include_dashboard=False,
        # One idle Python per logical CPU would be started otherwise.
        _system_config={"prestart_worker_first_driver": False, "enable_worker_prestart": False},
        runtime_env={
            "worker_process_setup_hook": "openrlhf_mlpo.cpu.activate",
            "env_vars": {name: os.environ[name] for name in (*_ENVIRONMENT, ENV_SWITCH, TRAIN_THREADS)},
        },
    )


def _set_environment() -> None:
    # Training has the machine to itself while rollouts wait, so it gets all cores unless the user says otherwise.
    os.environ.setdefault(TRAIN_THREADS, os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0))))
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # DeepSpeed compiles its CPU ops once; beside the interpreter they are found again by every later run. So is ninja,
    # in an activated environment or not: another version of it would compile them again.
    scripts, path = os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)
    if scripts not in path.split(os.pathsep):
        os.environ["PATH"] = scripts + os.pathsep + path
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(sys.prefix, "torch_extensions"))


def stub_flash_attn() -> None:
    """OpenRLHF imports four functions of flash-attn at module load and uses them only with packed samples."""
    if importlib.util.find_spec("flash_attn") is not None:
        return

    def needs_gpu(*_args, **_kwargs):
        raise UserError("this path needs flash-attn, which needs a GPU; leave out --ds.packing_samples")

    contents = {
        "flash_attn": (),
        "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
        "flash_attn.utils": (),
        "flash_attn.utils.distributed": ("all_gather",),
    }
    for name, functions in contents.items():
        module = types.ModuleType(name, "Stand-in of openrlhf_mlpo.cpu for a machine without flash-attn.")
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(__path__=[], __version__="0", **dict.fromkeys(functions, needs_gpu))
        sys.modules[name] = module


def _patch_torch_cuda(torch) -> None:
    cpu = torch.device("cpu")
    torch.cuda.current_device = lambda: cpu
    for name in ("set_device", "synchronize", "empty_cache", "current_stream"):
        setattr(torch.cuda, name, lambda *_args, **_kwargs: None)


def _patch_file_baton(module) -> None:
    """Let torch's lock around loading DeepSpeed's operators end with its process.

    Its own is a file that a killed process leaves behind, and every later run would wait for it without a word.
    """
    from filelock import FileLock, Timeout

    class FileBaton:
        def __init__(self, lock_file_path: str, *_args, **_kwargs):
            self._lock = FileLock(lock_file_path + ".held")

        def try_acquire(self) -> bool:
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                return False
            return True

        def wait(self) -> None:
            with self._lock:
                pass

        def release(self) -> None:
            self._lock.release()

    module.FileBaton = FileBaton


def _patch_replay_buffer(module) -> None:
    import wrapt

    class TorchOnCpu(wrapt.ObjectProxy):
        @staticmethod
        def device(*_args):  # the module formats "cuda:{current_device()}"
            return sys.modules["torch"].device("cpu")

    module.torch = TorchOnCpu(module.torch)


def _patch_deepspeed_strategy(module) -> None:
    import torch

    set_up = module.DeepspeedStrategy.setup_distributed

    def setup_distributed(self, *args, **kwargs):
        set_up(self, *args, **kwargs)
        torch.set_num_threads(max(1, int(os.environ[TRAIN_THREADS]) // self.world_size))

    module.DeepspeedStrategy.setup_distributed = setup_distributed
    mesh, average = module.init_device_mesh, module.DeepspeedStrategy.moving_average
    module.init_device_mesh = lambda _device, *args, **kwargs: mesh("cpu", *args, **kwargs)
    module.DeepspeedStrategy.moving_average = lambda self, model, ema, beta=0.992, _device="cpu": average(
        self, model, ema, beta, "cpu"
    )


def _patch_dtype(module) -> None:
    import torch

    convert = module.convert_to_torch_dtype
    module.convert_to_torch_dtype = lambda name: torch.float32 if name == "fp32" else convert(name)


def _patch_distributed_util(module) -> None:
    module.stateless_init_process_group = GlooGroup


def _patch_vllm_engine(module) -> None:
    original = module.vllm.AsyncEngineArgs

    def engine_args(*args, **kwargs):
        kwargs["worker_extension_cls"] = "openrlhf_mlpo.cpu_worker.CPUWorkerWrap"
        if kwargs.get("distributed_executor_backend") == "uni":
            # On a CPU vLLM turns the name "uni" into a worker process of its own, to set its OpenMP threads; those are
            # set here already, and the process costs its imports once more. Named by its class it is left alone.
            kwargs["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
        return original(*args, **{**kwargs, **vllm_engine_args()})

    module.vllm.AsyncEngineArgs = engine_args


_PATCHES = {
    "torch": _patch_torch_cuda,
    "torch.utils.file_baton": _patch_file_baton,
    "openrlhf.trainer.ppo_utils.replay_buffer": _patch_replay_buffer,
    "openrlhf.utils.deepspeed.deepspeed": _patch_deepspeed_strategy,
    "openrlhf.utils.utils": _patch_dtype,
    "openrlhf.utils.distributed_util": _patch_distributed_util,
    "openrlhf.trainer.ray.vllm_engine": _patch_vllm_engine,
}


class GlooGroup:
    """In place of OpenRLHF's PyNccl communicator between DeepSpeed rank 0 and the vLLM workers."""

    def __init__(self, master_address: str, master_port: int, rank: int, world_size: int, _device):
        from vllm.distributed.utils import stateless_init_torch_distributed_process_group

        # Any: its annotation adds the pair that it returns with `return_store` only.
        self._group: Any = stateless_init_torch_distributed_process_group(
            master_address, master_port, rank, world_size, backend="gloo"
        )

    def broadcast(self, tensor, src: int, stream=None) -> None:
        from torch.distributed import BroadcastOptions

        options = BroadcastOptions()
        options.rootRank, options.rootTensor = src, 0
        self._group.broadcast([tensor.contiguous()], options).wait()


def build_operators() -> None:
    """Compile the operators DeepSpeed needs on a CPU now, instead of during the first training run."""
    activate()
    from deepspeed.ops.op_builder.cpu import FusedAdamBuilder, ShareMemCommBuilder

    for builder in (FusedAdamBuilder, ShareMemCommBuilder):
        builder().load()


if __name__ == "__main__":
    build_operators()
