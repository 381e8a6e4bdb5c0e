"""The settings of the openai engine, and the mistakes in them that can be found without asking anything."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from openrlhf_mlpo.engines.base import check_number
from openrlhf_mlpo.errors import UserError

SETTINGS: dict[str, Any] = {
    "base_url": "",  # "": OPENAI_BASE_URL, else the client library's own default
    "api_key_env": "OPENAI_API_KEY",
    "concurrency": 64,  # requests in flight; the client library opens 1000 connections at most
    "timeout": 600.0,  # seconds per attempt
    "max_retries": 10,  # on 429, 5xx, bad replies, time-outs and broken connections, with backoff up to 8 s
    "send_seed": True,
    "extra_body": {},  # sent with every request, e.g. {chat_template_kwargs: {enable_thinking: false}}
}


def check(model: str, engine_args: Mapping) -> None:
    """Refuse unknown settings, wrong types and ranges, an address in another form, and a key that is not set."""
    if unknown := sorted(set(engine_args) - set(SETTINGS)):
        raise UserError(f"engine_args: the openai engine has no {unknown[0]!r}; it has {', '.join(SETTINGS)}")
    for name, default in SETTINGS.items():
        value = engine_args.get(name, default)
        if not isinstance(value, int | float if isinstance(default, float) else type(default)):
            kind = {str: "text", bool: "true or false", dict: "mapping"}.get(type(default), "number")
            raise UserError(f"engine_args: {name} must be a {kind}, not a {type(value).__name__}")
    settings = settings_of(engine_args)
    check_number("engine_args", "concurrency", settings["concurrency"], 1, 1000, whole=True)
    check_number("engine_args", "max_retries", settings["max_retries"], 0, whole=True)
    timeout = settings["timeout"]
    if isinstance(timeout, bool) or not 0 < timeout < math.inf:
        raise UserError(f"engine_args: timeout must be a number of seconds > 0, not {timeout!r}")
    if url := settings["base_url"]:
        _check_address(url, "engine_args: base_url" if engine_args.get("base_url") else "OPENAI_BASE_URL")
    name = settings["api_key_env"]
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name) and name not in os.environ:
        raise UserError("engine_args: api_key_env must be the name of an environment variable, not the key itself")
    key = key_of(engine_args)
    if not key and (not url or urlsplit(url).hostname == "api.openai.com"):
        raise UserError(
            f"no API key: set the environment variable {name}, or engine_args.base_url to a server of yours"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(
            f"the environment variable {name} holds a blank, a line break or another character that no key has"
        )


def _check_address(url: str, what: str) -> None:
    """Refuse an address that the client library would misread; user, password and query are never shown."""
    if "@" in url.partition("?")[0]:
        raise UserError(f"{what} must hold no user or password; name the key's variable in engine_args.api_key_env")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{what} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        shown = url.partition("?")[0]
        raise UserError(f"{what} must begin with http:// or https://, as in http://localhost:8000/v1, not {shown!r}")
    if parts.query or parts.fragment:
        raise UserError(f"{what} must end before ? or #: a query is not sent")
    for end in ("/chat/completions", "/completions", "/models", "/responses"):
        if parts.path.rstrip("/").endswith(end):
            raise UserError(f"{what} must end before {end}, which is added: {url.rstrip('/').removesuffix(end)}")


def settings_of(engine_args: Mapping) -> dict[str, Any]:
    """All settings, defaults filled in."""
    settings = {**SETTINGS, **engine_args}
    settings["base_url"] = (settings["base_url"] or os.environ.get("OPENAI_BASE_URL") or "").strip()
    return settings


def key_of(engine_args: Mapping) -> str:
    """The key from the environment, without the line end that files made on Windows or `$(cat key)` leave; "": none."""
    return os.environ.get(engine_args.get("api_key_env", SETTINGS["api_key_env"]), "").strip()
