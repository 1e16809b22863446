"""Scouting: which method would do best on a task, predicted from tangent kernels without training.

``dtheta.scout`` is the public function (``scout.scout``); so is this package, when it is called.
"""

from dtheta._callable import make_callable

make_callable(__name__, "scout")
