"""Opening a model's tokenizer and configuration, with the one error that says why it cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openrlhf_mlpo.errors import UserError, one_line

# Tokens of context when a model's configuration names none.
FALLBACK_CONTEXT = 32768


def open_tokenizer(model: str, flag: str):
    """The model's tokenizer. Raises UserError, beginning with `flag`, when it cannot be read."""
    from transformers import AutoTokenizer

    return _open(AutoTokenizer, model, flag, "no tokenizer can be read there")


def open_config(model: str, flag: str):
    """The model's configuration. Raises UserError, beginning with `flag`, when it cannot be read."""
    from transformers import AutoConfig

    return _open(AutoConfig, model, flag, "no model configuration can be read there")


def context_length(model: str, engine_args: Mapping[str, Any], flag: str) -> int:
    """Tokens that prompt and response may have together: `max_model_len` if given, else what the model's configuration
    says. Raises UserError when there is no such model."""
    config = open_config(model, flag)
    config = getattr(config, "text_config", config)
    given = engine_args.get("max_model_len")
    return int(given or getattr(config, "max_position_embeddings", 0) or FALLBACK_CONTEXT)


def _open(kind, model: str, flag: str, problem: str):
    try:
        return kind.from_pretrained(model, trust_remote_code=True)
    except Exception as error:  # of many kinds: what a damaged file, the hub or a model's own code raises
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{flag} {model}: {problem}: {one_line(first_line)}") from None
