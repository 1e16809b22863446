"""Compose: deltas of one base made into one, with coefficients that are given or learned (aTLAS, arXiv 2407.02880).

``dtheta.compose`` is the public function (``compose.compose``); so is this package, when it is called.
"""

from dtheta._callable import make_callable

make_callable(__name__, "compose")
