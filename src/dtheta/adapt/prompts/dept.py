"""DePT: a short prompt, and a low-rank table of offsets that displace the embeddings of the text.

    input = [P ; E(x) + kappa (A B)_i]      P (m, d), A (s, r), B (r, d), i the number of real tokens before a token

Shi and Lipani 2023, arXiv 2309.05173. kappa is 1, or alpha / sqrt(r) as in the released code, whose alpha is 8. B
starts at zero, so training starts as prompt tuning with a short prompt. As many parameters as l virtual tokens have:

    l d = m d + (s + d) r

and each text is l - m columns shorter: nearly (l - m) / (l + s) of the work of a text of s tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dtheta.adapt.method import working_dtype
from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.method import Init, PromptMethod, check_counts, check_rates, start, two_rates
from dtheta.adapt.prompts.names import INPUT, Beyond, Index, OffsetRule
from dtheta.adapt.prompts.sources import OffsetTable, Vectors
from dtheta.adapt.term import Term
from dtheta.core.seeds import generator, uniform
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.adapt.adapter import Adapter


@dataclass(frozen=True)
class DePT(PromptMethod):
    """Decomposed prompt tuning.

    Attributes:
        length: m, virtual tokens; 0 for offsets alone.
        rank: r of the table of offsets.
        positions: s, tokens of a text that get an offset.
        alpha: kappa = alpha / sqrt(r); None for kappa = 1.
        offset_lr: Highest learning rate of A and B, which want a much lower one than the prompt; None for the same.
        index: "token", the number of real tokens before a token, so that padding does not matter; or "column", as the
            released code does, whose batches are all padded to s.
        beyond: What tokens beyond s get: no offset ("none"), the last row ("last"), or an error.
        init: Where the virtual tokens start; see ``PromptTuning``.
        ids: Token ids of a text, for init="text".
    """

    length: int = 12
    rank: int = 8
    positions: int = 256
    alpha: float | None = None
    offset_lr: float | None = 5e-4
    index: Index = "token"
    beyond: Beyond = "none"
    init: Init = "vocabulary"
    ids: tuple[int, ...] | None = None

    summary: ClassVar[str] = "a short prompt, and low-rank offsets of the text's embeddings, at a rate of their own"
    paper: ClassVar[str] = "2309.05173"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, length=0, rank=1, positions=1)
        check_rates(self, "alpha", "offset_lr")

    @classmethod
    def of_budget(cls, tokens: int, length: int, positions: int, width: int, **fields: Any) -> DePT:
        """Return DePT with at most as many parameters as a prompt of ``tokens`` virtual tokens has.

        Args:
            tokens: l, the virtual tokens to do without.
            length: m, those to keep.
            positions: s.
            width: d, the model's features of an embedding.
            **fields: Other fields.

        Raises:
            ConfigError: If what is left is not enough for rank 1.
        """
        rank = (tokens - length) * width // (positions + width) if positions + width > 0 else 0
        if rank < 1:
            raise ConfigError(
                f"{tokens} - {length} tokens of {width} are {(tokens - length) * width} parameters, and rank 1 over "
                f"{positions} positions takes {positions + width}; use a shorter prompt or fewer positions"
            )
        return cls(length=length, rank=rank, positions=positions, **fields)

    def parameters(self, width: int) -> int:
        """Return the number of parameters beside embeddings of ``width`` features: m d + (s + d) r."""
        return self.length * width + (self.positions + width) * self.rank

    def vectors(self, found: Family, seed: int) -> dict[str, Term]:
        """Return the virtual tokens, and the table with A drawn and B zero."""
        dtype = working_dtype(found.embedding.weight)  # type: ignore[arg-type]
        # Kaiming's uniform draw with a = sqrt(5), whose bound is that of the fan-in: r
        bound = 1 / math.sqrt(self.rank)
        drawn = uniform((self.positions, self.rank), -bound, bound, generator(seed, "DePT/prompt.input.offset"))
        scale = 1.0 if self.alpha is None else self.alpha / math.sqrt(self.rank)
        table = OffsetTable(drawn.to(dtype), drawn.new_zeros((self.rank, found.width), dtype=dtype), scale)
        short = Vectors(start(found, self.length, self.init, self.ids, seed, "DePT"))
        made: dict[str, Term] = {INPUT: short} if self.length else {}
        return {**made, OffsetRule(self.index, self.beyond).name: table}

    def parameter_groups(self, adapter: Adapter, lr: float) -> list[dict[str, Any]]:
        """Return the virtual tokens at ``lr``, and A and B at theirs."""
        return two_rates(adapter, lr, self.offset_lr)
