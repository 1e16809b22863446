"""Compose: deltas of one base made into one, by coefficients that are given or learned, or entry by entry.

    compose.py        compose: sums of multiples, one coefficient a delta, or one a delta and block
    atlas.py          learn_coefficients (aTLAS, arXiv 2407.02880); negation.py and adaptation.py learn them otherwise
    ties.py           ties: trim, elect signs, average what agrees
    dare.py           dare: drop entries at random, rescale the rest
    breadcrumbs.py    breadcrumbs: drop the largest entries as well as the smallest
    slerp.py          slerp: along the arc between two deltas, or two models
    bank.py           Bank: many experts beside one base; search.py finds their coefficients without gradients
    soups.py          uniform_soup, greedy_soup: the mean of all, or of those that make it better

``dtheta.compose`` is the public function (``compose.compose``); so is this package, when it is called.
"""

from dtheta._callable import make_callable

make_callable(__name__, "compose")
