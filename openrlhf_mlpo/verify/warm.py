r"""Imported once by the server that workers are forked from: loads math-verify and fills its parser's caches.

ANTLR and sympy build their tables on first use (up to a second for some notations); forked workers inherit them.
"""

from __future__ import annotations

import logging

from openrlhf_mlpo.verify import worker

_PAIRS = (
    (r"\frac{1}{2}", "0.51"), (r"\sqrt{5}+1", r"1+\sqrt{6}"), ("x^2+1", "x^2+2"), ("(1,2)", r"(-\infty, 3]"),
    (r"\text{even}", "odd"), (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}"),
    (r"s^2 \le 8r^2", r"x < 2"), ("y = 2x + 3", "y = 2x + 4"), ("1 - 12i", "1 + 12i"), (r"70\%", "71"),
    (r"(2,12) \cup (12,102)", r"[-1, 0) \cup (1, \infty)"), ("4, 0, -4", r"\{1, 2\}"), (r"2\pi", r"3\pi"),
)  # fmt: skip

logging.disable(logging.CRITICAL)
for _gold, _answer in _PAIRS:
    worker.verify(_gold, _answer)
