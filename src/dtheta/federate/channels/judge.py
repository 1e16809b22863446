"""The test for eavesdropping: are there more errors than the channel makes?

    p = P(Bin(m, e) >= k) = I_e(k, m - k + 1)        k errors among m compared bits, e the channel's known error rate

Given up where p is at most the significance, or where the error rate is clearly above the bound beyond which no secret
key exists (11 % for BB84). Clearly: by the same test. So a channel with an error rate up to the bound and without an
eavesdropper is given up with a probability of at most the significance.
"""

from __future__ import annotations

from dtheta.federate.channels.channel import Verdict
from dtheta.score import wilson
from dtheta.score.student import incomplete_beta


def binomial_tail(errors: int, checked: int, rate: float) -> float:
    """Return P(Bin(checked, rate) >= errors)."""
    if errors <= 0:
        return 1.0
    if errors > checked or rate <= 0:
        return 0.0
    return 1.0 if rate >= 1 else incomplete_beta(errors, checked - errors + 1, rate, 1 - rate)


def judge(errors: int, checked: int, expected: float, threshold: float, significance: float) -> Verdict:
    """Return the verdict on compared bits; where there are none, nothing is known, and the transmission is given up."""
    if not checked:
        return Verdict(0, 0, None, expected, 1.0, "no decoy arrived that could be compared")
    qber, p = wilson(errors, checked, 1 - significance), binomial_tail(errors, checked, expected)
    reason = None
    if p <= significance:
        reason = f"QBER {qber.estimate:.2%} of {checked} bits, expected {expected:.2%}: p = {p:.2g}"
    elif binomial_tail(errors, checked, threshold) <= significance:
        reason = f"QBER {qber.estimate:.2%} of {checked} bits is above {threshold:.2%}"
    return Verdict(checked, errors, qber, expected, p, reason)
