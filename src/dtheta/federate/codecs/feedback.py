"""Error feedback of one sender: what a codec left out is added before the next round.

    total_t = delta_t + residual_{t-1},   sent_t = C(total_t),   residual_t = total_t - sent_t
    sum of sent_1 ... sent_t + residual_t = sum of delta_1 ... delta_t

compress/feedback.py does so for ``dt.compress``; here C is encoding and decoding by any codec whose outcome the sender
knows. Residuals are kept in float64, low-rank ones in factors.
"""

from __future__ import annotations

import sys

from dtheta.compress.feedback import left_over
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError
from dtheta.federate.codecs.codec import Codec
from dtheta.federate.frame import Frame
from dtheta.federate.payload import Payload


class Feedback:
    """The residual of one sender over the rounds."""

    def __init__(self, residual: Delta | None = None) -> None:
        self._residual = residual

    def encode(self, codec: Codec, delta: Delta, frame: Frame, *, seed: int, key: str) -> Payload:
        """Return this round's delta and what was left before as a payload, and keep what it leaves out.

        Where the payload is lost on its way, ``restore`` the state of before and add the delta to it.

        Raises:
            ConfigError: If the receiver draws what arrives, so that nothing is known to be left out.
            As ``Codec.encode``.
        """
        if codec.drawn:
            raise ConfigError(
                f"codec {codec.name!r}: what arrives is drawn by a measurement, which the sender does not see; it has "
                "no error feedback"
            )
        total = delta if self._residual is None else delta + self._residual
        payload = codec.encode(total, frame, seed=seed, key=key)
        if codec.exact:
            self._residual = None
        else:
            self._residual = left_over(total, codec.decode(payload, frame, cap=sys.maxsize, seed=seed, key=key))
        return payload

    def state(self) -> Delta | None:
        """Return what has not been sent yet; None before the first round, and where nothing is left."""
        return self._residual

    def restore(self, residual: Delta | None) -> None:
        """Take up a state that ``state`` returned."""
        self._residual = residual
