"""Prompt tuning: virtual tokens in front of a text, and nothing else, train.

    input = [P ; E(x)]        P (m, d)

Lester et al. 2021, arXiv 2104.08691. After [CLS] in encoders; see layout.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.method import Init, PromptMethod, check_counts, start
from dtheta.adapt.prompts.names import INPUT
from dtheta.adapt.prompts.sources import Vectors
from dtheta.adapt.term import Term


@dataclass(frozen=True)
class PromptTuning(PromptMethod):
    """Prompt tuning.

    Attributes:
        length: m, virtual tokens.
        init: Where they start: "vocabulary", embeddings of tokens drawn by the seed; "text", those of ``ids`` over and
            over; "normal", drawn as large as embeddings are.
        ids: Token ids of a text, for init="text".
    """

    length: int = 20
    init: Init = "vocabulary"
    ids: tuple[int, ...] | None = None

    summary: ClassVar[str] = "virtual tokens before the text; every weight of the model stays"
    paper: ClassVar[str] = "2104.08691"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, length=1)

    def vectors(self, found: Family, seed: int) -> dict[str, Term]:
        """Return the virtual tokens."""
        return {INPUT: Vectors(start(found, self.length, self.init, self.ids, seed, "PromptTuning"))}
