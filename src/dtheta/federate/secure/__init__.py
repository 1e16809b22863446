"""Secure aggregation: the server learns the sum of the clients' vectors, and none of them."""

from __future__ import annotations

from dtheta.federate.secure.run import SecureSum, secure_sum
from dtheta.federate.secure.session import BelowThreshold
from dtheta.federate.secure.ternary import Secure, typical_scale

__all__ = ["BelowThreshold", "Secure", "SecureSum", "secure_sum", "typical_scale"]
