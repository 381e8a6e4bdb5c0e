"""Opening a model's tokenizer and configuration, with the one error that says why it cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openrlhf_mlpo.errors import UserError, one_line

# Tokens of context when a model's configuration names none.
FALLBACK_CONTEXT = 32768


def open_tokenizer(model: str, flag: str = "model"):
    """The model's tokenizer. Raises UserError, beginning with `flag`, when it cannot be read."""
    from transformers import AutoTokenizer

    return _open(AutoTokenizer.from_pretrained, model, flag, "no tokenizer can be read there", trust_remote_code=True)


def context_length(model: str, engine_args: Mapping[str, Any] | None = None, flag: str = "model") -> int:
    """Tokens that prompt and response may have together: `max_model_len` if given, else what the model's configuration
    says. Raises UserError when there is no such model."""
    from transformers import AutoConfig

    config = _open(AutoConfig.from_pretrained, model, flag, "no model configuration can be read there")
    config = getattr(config, "text_config", config)
    given = (engine_args or {}).get("max_model_len")
    return int(given or getattr(config, "max_position_embeddings", 0) or FALLBACK_CONTEXT)


def _open(load, model: str, flag: str, problem: str, **kwargs):
    try:
        return load(model, **kwargs)
    except Exception as error:  # of many kinds: what a damaged file, the hub or a model's own code raises
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{flag} {model}: {problem}: {one_line(first_line)}") from None
