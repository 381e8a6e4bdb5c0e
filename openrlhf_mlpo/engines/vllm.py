"""vLLM inside this process: one continuous batch over all prompts, each result handed out as it is done."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openrlhf_mlpo.engines.base import (
    TOO_LONG,
    Completion,
    Conversation,
    Engine,
    Sampling,
    Seeds,
    check_number,
    seed_of,
)
from openrlhf_mlpo.errors import UserError, one_line

_QUIET: dict[str, Any] = {"disable_log_stats": True, "use_tqdm_on_load": False}
_WHOLE = "max_model_len max_num_seqs max_num_batched_tokens tensor_parallel_size pipeline_parallel_size".split()


class VllmEngine(Engine):
    """`engine_args` are those of `vllm.LLM`, and `chat_template_kwargs` for the model's chat template."""

    def __init__(self, model: str, engine_args: dict):
        from openrlhf_mlpo.cpu import prepare_vllm, use_cpu, vllm_engine_args

        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its warnings are about its own choices, not the user's
        prepare_vllm()
        if use_cpu():
            # A second process for the engine core costs 40 s of imports per engine and the cores it runs on; in this
            # process an engine starts in 1 to 2 s once vLLM is imported. On a GPU the second process pays: it hides
            # tokenization and detokenization, and its end gives all GPU memory back.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            # torch read OMP_NUM_THREADS when it was imported, perhaps before prepare_vllm set it. Threads that wait for
            # each other on busy cores made a tiny model 9 times slower.
            import torch

            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        settings = dict(engine_args)
        self._template_args = settings.pop("chat_template_kwargs", {})
        self._llm = None
        try:
            from vllm import LLM

            self._llm = LLM(model=model, **{**_QUIET, **vllm_engine_args(), **settings})
        except ImportError as error:
            raise UserError(f"the vllm engine needs vLLM, which does not import here: {one_line(error)}") from error
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"model {model!r}: vLLM could not start it: {one_line(error)}") from error
        self.model = model
        self.tokenizer: Any = self._llm.get_tokenizer()  # None once closed
        config = self._llm.llm_engine.vllm_config
        self.max_model_len = config.model_config.max_model_len
        # More requests than can run at once, so that the scheduler never waits for us, yet few enough that a pool of
        # millions is not tokenized up front.
        self._window = 2 * config.scheduler_config.max_num_seqs

    def stream(
        self, conversations: Sequence[Conversation], *, n: int = 1, seed: Seeds = 0, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine.stream`. A prompt that leaves no room for a token gets empty `TOO_LONG` completions."""
        if self._llm is None:
            raise RuntimeError("this engine is closed")
        sampling = sampling or Sampling()
        engine = self._llm.llm_engine
        window = max(1, self._window // n)
        running: dict[str, tuple[int, str]] = {}  # the id that results carry -> conversation, vLLM's internal id
        position, total = 0, len(conversations)
        try:
            while running or position < total:
                while position < total and len(running) < window:
                    conversation = conversations[position]
                    tokens = self._encode(conversation)
                    if len(tokens) >= self.max_model_len:
                        yield position, [Completion("", len(tokens), 0, TOO_LONG)] * n
                    else:
                        params = self._params(sampling, n, seed_of(seed, position, conversation), len(tokens))
                        (internal,) = self._llm.enqueue([{"prompt_token_ids": tokens}], params, use_tqdm=False)
                        running[internal.rsplit("-", 1)[0]] = (position, internal)
                    position += 1
                if not running:
                    continue
                for output in engine.step():
                    if output.finished:
                        index, _ = running.pop(output.request_id)
                        yield index, _completions(output)
        finally:
            if running:  # the caller stopped early
                engine.abort_request([internal for _, internal in running.values()], internal=True)

    def close(self) -> None:
        """End the engine and free its memory, so that the next agent's engine can start in this process."""
        llm, self._llm, self.tokenizer = self._llm, None, None
        if llm is None:
            return
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()

    def _encode(self, conversation: Conversation) -> list[int]:
        """Token ids as OpenRLHF makes them: the chat template brings its own special tokens, none are added."""
        if not isinstance(conversation, str):
            try:
                conversation = self.tokenizer.apply_chat_template(
                    conversation, tokenize=False, add_generation_prompt=True, **self._template_args
                )
            except Exception as error:  # Jinja's, a missing template's: whatever the model's template raises
                raise UserError(f"model {self.model!r}: its chat template failed: {one_line(error)}") from error
        return list(self.tokenizer(conversation, add_special_tokens=False)["input_ids"])

    def _params(self, sampling: Sampling, n: int, seed: int | None, prompt_tokens: int):
        from vllm import SamplingParams

        room = self.max_model_len - prompt_tokens
        asked: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        return SamplingParams(
            **{name: value for name, value in asked.items() if value is not None},
            n=n,
            seed=seed,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=min(sampling.max_tokens or room, room),
            stop=list(sampling.stop),
        )


def _completions(output) -> list[Completion]:
    prompt_tokens = len(output.prompt_token_ids)
    return [Completion(s.text, prompt_tokens, len(s.token_ids), s.finish_reason or "stop") for s in output.outputs]


def check(model: str, engine_args: Mapping) -> None:
    """Refuse a model that is a path and not there, and the usual settings out of range; vLLM judges the others.

    A model's name is left to the Hugging Face libraries.
    """
    path = Path(model).expanduser()
    if model.startswith((".", "/", "~")) and not path.exists():
        raise UserError(f"model {model!r}: no such directory")
    if path.is_dir() and not (path / "config.json").exists():
        raise UserError(f"model {model!r}: the directory has no config.json, so it is no saved model")
    if "model" in engine_args:
        raise UserError(f"model {model!r}: name the model once, not in engine_args too")
    for name in _WHOLE:
        if engine_args.get(name) is not None:
            check_number("engine_args", name, engine_args[name], 1, whole=True)
    share = engine_args.get("gpu_memory_utilization", 0.9)
    check_number("engine_args", "gpu_memory_utilization", share, 0, 1, above=True)
    if not isinstance(engine_args.get("chat_template_kwargs", {}), Mapping):
        raise UserError("engine_args: chat_template_kwargs must be a mapping")
