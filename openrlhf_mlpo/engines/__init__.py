"""One small interface to whatever answers prompts: `make_engine(agent)`, then `stream` or `generate`, then `close`.

Engines: `vllm` (in this process), `openai` (an endpoint), `ray` (Ray actors around another engine) and
`callable` (a Python function). Each is imported only when asked for.
"""

from openrlhf_mlpo.engines.base import (
    ENGINES,
    Completion,
    Conversation,
    Engine,
    Sampling,
    check_engine,
    make_engine,
    request_seed,
)
from openrlhf_mlpo.engines.outcomes import Outcomes

__all__ = [
    "ENGINES",
    "Completion",
    "Conversation",
    "Engine",
    "Outcomes",
    "Sampling",
    "check_engine",
    "make_engine",
    "request_seed",
]
