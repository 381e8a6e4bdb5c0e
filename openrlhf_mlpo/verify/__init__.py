"""Verifiable rewards: extract an answer from a response and decide whether it is right.

Pure Python; math-verify runs only inside worker processes that can be killed (see `workers`). Entry points:
`reward` for reward files, `verify_response` for pools and evaluation, `gold_problem` for checks before training.
"""

from __future__ import annotations

from openrlhf_mlpo.verify.extract import extract_answer, is_formatted, response_of
from openrlhf_mlpo.verify.labels import Label, parse_label
from openrlhf_mlpo.verify.rewards import reward
from openrlhf_mlpo.verify.verdicts import TASKS, Verdict, canonical, gold_problem, is_correct, verify_response
from openrlhf_mlpo.verify.workers import start as start_workers

__all__ = [
    "TASKS",
    "Label",
    "Verdict",
    "canonical",
    "extract_answer",
    "gold_problem",
    "is_correct",
    "is_formatted",
    "parse_label",
    "response_of",
    "reward",
    "start_workers",
    "verify_response",
]
