"""P-tuning: prompt tuning whose virtual tokens are made by a small network while they train.

Liu et al. 2021, arXiv 2103.10385 (the variant with an MLP). The delta holds the network's output; training that goes on
from it trains that output itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.method import Init, PromptMethod, check_counts, start
from dtheta.adapt.prompts.names import INPUT
from dtheta.adapt.prompts.sources import Reparametrized
from dtheta.adapt.term import Term
from dtheta.core.seeds import generator


@dataclass(frozen=True)
class PTuning(PromptMethod):
    """P-tuning.

    Attributes:
        length: m, virtual tokens.
        hidden: Hidden units of the network; the width of the embeddings if None.
        init: Where the vectors that enter the network start; see ``PromptTuning``.
        ids: Token ids of a text, for init="text".
    """

    length: int = 20
    hidden: int | None = None
    init: Init = "vocabulary"
    ids: tuple[int, ...] | None = None

    summary: ClassVar[str] = "virtual tokens that a small network makes while they train"
    paper: ClassVar[str] = "2103.10385"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, length=1, hidden=1)

    def vectors(self, found: Family, seed: int) -> dict[str, Term]:
        """Return the virtual tokens behind their network."""
        vectors = start(found, self.length, self.init, self.ids, seed, "PTuning")
        return {INPUT: Reparametrized(vectors, self.hidden or found.width, generator(seed, "PTuning/network"))}
