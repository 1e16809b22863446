"""The one training loop, on Accelerate: it trains any adapter, on one process, under DDP or under FSDP2.

``dtheta.fit`` is the public function (``loop.fit``), and importing any file of this package makes the same name mean
the package. So the package can be called, and is the function under either meaning.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from dtheta.fit.loop import fit

        return fit(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        from dtheta.fit.loop import fit

        return inspect.signature(fit)


sys.modules[__name__].__class__ = _CallablePackage
