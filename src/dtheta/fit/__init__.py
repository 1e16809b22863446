"""The one training loop, on Accelerate: it trains any adapter, on one process, under DDP or under FSDP2.

``dtheta.fit`` is the public function (``loop.fit``); so is this package, when it is called.
"""

from dtheta._callable import make_callable

make_callable(__name__, "loop")
