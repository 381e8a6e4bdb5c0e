"""What an endpoint's errors mean: about one row or about all, which setting to change, and no key in any text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import openai

from openrlhf_mlpo.engines.base import CONTENT_FILTER, REFUSED, TOO_LONG, Completion
from openrlhf_mlpo.engines.openai_reply import BadReply, completion_of
from openrlhf_mlpo.errors import UserError

_LEAST_KEY = 8  # characters of a key that is one

_FAULT = "openrlhf_mlpo_fault"  # a response's extension: its status was 200, but it holds no answer

# Words only name the reason of a refused row; whether it is the row's is decided by asking something else.
_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|size|window|limit)|max_model_len|too many (?:input )?tokens|token count|token limit|"
    r"(?:prompt|input|request|message)s?\b.{0,60}(?:too (?:long|large|big)|exceed|longer|larger|maximum|must have)|"
    r"inputs?`? tokens|length of (?:the )?(?:prompt|input|message)|too large for model|entity too large"
)
_FILTER = re.compile(
    r"content.{0,3}(?:filter|policy|management|moderation|exists risk|violat)|moderation|flagged|safety|inappropriate|"
    r"prohibited|guardrail|data.?inspection|usage (?:guidelines|polic)|sensitive|unsafe|harmful|responsible.?ai|censor|"
    r"blocked|invalid_prompt|recitation|敏感|违规|不安全"
)
_NO_CREDIT = re.compile(
    r"insufficient[_ ](?:quota|balance|credit|fund)|credit balance|out of credits?|billing.{0,3}(?:hard.)?limit|arrear"
)
_QUOTA = re.compile(r"exceeded your current quota")  # Gemini says so too when only a minute's share is used up
_LATER = re.compile(r"retry|per.?minute|per.?day|resource_exhausted")
_TOO_LARGE = "request too large"  # a rate limit (429) that this one request exceeds by itself
# Statuses that can be about one request; 403, 406: a filter or a firewall that dislikes what it holds.
_ROW_STATUS = (400, 403, 406, 413, 414, 422, 451)


# What a refusal names -> the setting to change.
_ADVICE = {
    r"\bmax_(?:completion_)?tokens\b": "lower sampling.max_tokens, or leave it out with null",
    r"\b(?:temperature|top_p)\b": "leave it out with sampling.{0}: null in the team file",
    r"\bseed\b": "leave it out with engine_args.send_seed: false",
    r"\bstop\b": "change sampling.stop",
    r"\b(?:top_k|min_p|repetition_penalty)\b": "remove sampling.{0}",
}


@dataclass(frozen=True)
class Endpoint:
    """One endpoint as its errors speak of it. The key is held to keep it out of every text, and never shown."""

    url: str
    model: str
    key: str = field(repr=False)
    key_env: str
    timeout: float
    served: tuple[str, ...] = ()
    context: int = 0  # tokens; 0: the endpoint does not say

    @property
    def where(self) -> str:
        return (self.url or "https://api.openai.com/v1").rstrip("/")

    def words(self, error: BaseException) -> str:
        """What an error says, in one line of at most 300 characters without the key."""
        text = _message(error.body) or error.response.text if isinstance(error, openai.APIStatusError) else str(error)
        return self.scrub(" ".join(text.split()) or type(error).__name__)[:300]

    def scrub(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text

    def without_key(self, completion: Completion) -> Completion:
        """A reply as it may be stored: some gateways quote the request's headers in a refusal. Words that stand for a
        key where none is needed, such as "EMPTY", may be part of an answer."""
        if len(self.key) < _LEAST_KEY:
            return completion
        text, reason = self.scrub(completion.text), self.scrub(completion.finish_reason)
        return replace(completion, text=text, finish_reason=reason)

    def explain(self, error: BaseException) -> BaseException:
        """The UserError for an endpoint's error; other errors come back as they are."""
        if isinstance(error, openai.APIStatusError):
            return UserError(self._status(error, error.status_code))
        if isinstance(error, openai.APITimeoutError):
            return UserError(
                f"{self.where} did not answer within {self.timeout:g} s, all retries included; raise "
                "engine_args.timeout or lower engine_args.concurrency"
            )
        if isinstance(error, openai.APIConnectionError):
            words = self.words(error.__cause__ or error)
            return UserError(f"no connection to {self.where} ({words}); is the server up?")
        return error

    def _status(self, error: openai.APIStatusError, status: int) -> str:
        words = self.words(error)
        if status == 402 or (status in (400, 403, 429) and no_credit(error.response.text)):
            return (
                f"{self.where} has no credit left for the key in {self.key_env} ({status}: {words}); see the account's "
                "plan and billing"
            )
        if status in (401, 403):
            words = "" if status == 401 else f": {words}"
            return f"{self.where} refuses the API key ({status}); check the environment variable {self.key_env}{words}"
        if status in (404, 405):
            return self._not_found(error)
        if status == 429:
            return f"{self.where} still limits the rate (429) after all retries; lower engine_args.concurrency: {words}"
        if _FAULT in error.response.extensions:
            return f"{self.where}: the endpoint's reply is not in OpenAI's form: {words}"
        return f"{self.where} answered {status}: {words}{self._advice(error)}"

    def _not_found(self, error: openai.APIStatusError) -> str:
        """Whether it is the model or the address that is wrong."""
        text = error.response.text.lower()
        names_model = self.model.lower() in text or re.search(r"\b(?:model|deployment)\b", text)
        if error.status_code == 404 and (names_model or self._other_models):
            return f"{self.where} has no model {self.model!r} (404){self._other_models or ': ' + self.words(error)}"
        return (
            f"nothing answers at {error.request.url.path} of {self.where} ({error.status_code}: {self.words(error)}); "
            "engine_args.base_url must be the part before /chat/completions, for most servers http://HOST:PORT/v1"
        )

    @property
    def _other_models(self) -> str:
        """`; it serves …` when the endpoint has a list of models and this one is not on it."""
        return f"; it serves {', '.join(self.served[:20])}" if self.served and self.model not in self.served else ""

    def _advice(self, error: openai.APIStatusError) -> str:
        """Which setting to change, for a refusal that names a parameter."""
        words = said(error)
        for pattern, advice in _ADVICE.items():
            if match := re.search(pattern, words):
                return "; " + advice.format(match[0])
        return self._other_models if "model" in words else ""


def row_reason(error: openai.APIStatusError | openai.APIConnectionError, endpoint: Endpoint) -> str:
    """The finish_reason of a row whose request ended so, after all retries; "" when it can only concern all rows."""
    if isinstance(error, openai.APITimeoutError):
        return f"{REFUSED}: no answer within {endpoint.timeout:g} s"
    if isinstance(error, openai.APIConnectionError):
        return "" if never_connected(error) else f"{REFUSED}: the connection broke"
    words = said(error)
    too_large = error.status_code == 429 and _TOO_LARGE in words
    if error.status_code not in _ROW_STATUS and error.status_code < 500 and not too_large:
        return ""
    if too_large or error.status_code == 413 or _TOO_LONG.search(words):
        return TOO_LONG
    if error.status_code < 500 and _FILTER.search(words):
        return CONTENT_FILTER
    return f"{REFUSED}: {error.status_code} {endpoint.words(error)}"


def said(error: openai.APIStatusError) -> str:
    """An error's words and codes in lower case, without what it may repeat of the request."""
    body: Any = error.body[0] if isinstance(error.body, list) and error.body else error.body
    body = body.get("error", body) if isinstance(body, dict) else body
    names = ("code", "type", "param", "status") if isinstance(body, dict) else ()
    codes = [str(body[name]) for name in names if name in body]
    return " ".join([_message(body) or error.response.text, *codes]).lower()


def no_credit(text: str) -> bool:
    """Whether an error says that nothing is left to pay with, as against too many requests a minute."""
    text = text.lower()
    return bool(_NO_CREDIT.search(text) or (_QUOTA.search(text) and not _LATER.search(text)))


async def mark_bad_replies(response: Any) -> None:
    """Give a reply with status 200 that holds no answer an error's status, so that the library retries it like one;
    and say which 429 is not worth a retry. An event hook of the HTTP client."""
    if response.request.method != "POST" or response.status_code not in (200, 429):
        return
    await response.aread()
    if response.status_code == 429:
        if no_credit(response.text) or _TOO_LARGE in response.text.lower():
            response.headers["x-should-retry"] = "false"
        return
    try:
        completion_of(json.loads(response.content))
    except BadReply as problem:
        response.status_code, response.extensions[_FAULT] = problem.status, True
    except ValueError:  # cut, or no JSON at all
        response.status_code, response.extensions[_FAULT] = 502, True


def never_connected(error: BaseException | None) -> bool:
    """Whether a connection could not be made at all, as against one that broke; by name, for any HTTP library."""
    while error is not None:
        if type(error).__name__ in ("ConnectError", "UnsupportedProtocol", "LocalProtocolError", "InvalidURL"):
            return True
        error = error.__cause__
    return False


def _message(body: Any) -> str:
    """The words inside an error's body, whatever its form; "" for none."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return body if isinstance(body, str) else ""
    if "msg" in body and isinstance(body.get("loc"), list):  # FastAPI's: where and what
        return f"{'.'.join(map(str, body['loc']))}: {body['msg']}"
    raw = body["metadata"].get("raw") if isinstance(body.get("metadata"), dict) else None  # what a gateway heard
    words = next((_message(body[name]) for name in ("error", "message", "detail", "msg") if body.get(name)), "")
    return f"{words}: {raw}" if isinstance(raw, str) else words
