"""Compress: a delta as signs and scales (ComPEFT), chosen on validation data, with or without error feedback.

    compeft.py    compress
    signs.py      which entries are kept
    vectors.py    selecting them slab by slab
    plan.py       what of each kind of change is compressed
    parts.py      how it is put together again
    scales.py     the magnitude that goes with the signs
    search.py     density and alpha by the score of a task
    feedback.py   rounds that carry what was left out
    report.py     sizes and errors

``dtheta.compress`` is the public function (``compeft.compress``); so is this package, when it is called.
"""

from dtheta._callable import make_callable

make_callable(__name__, "compeft")
