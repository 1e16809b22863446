"""ADePT: a short prompt, and a small network that displaces the embedding of every token.

    input = [P ; x + relu(x A + a) B + b]      P (m, d), A (d, r), a (r), B (r, d), b (d), x = E(token)

Tang et al. 2025, arXiv 2501.03291 (ICLR). Where DePT's offset is one of a position, shared by all texts, this one is
of a token, shared by all positions. B and the biases start at zero, so training starts as prompt tuning with a short
prompt. As many parameters as l virtual tokens have:

    l d = m d + 2 d r + r + d

One branch of the authors' code drops hidden units (0.1); none are dropped here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dtheta.adapt.method import working_dtype
from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.method import Init, PromptMethod, check_counts, check_rates, start, two_rates
from dtheta.adapt.prompts.names import INPUT, NETWORK
from dtheta.adapt.prompts.sources import Vectors
from dtheta.adapt.term import Term
from dtheta.core.seeds import generator, uniform
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.adapt.adapter import Adapter


@dataclass(frozen=True)
class ADePT(PromptMethod):
    """Decomposed prompt tuning with token-wise offsets.

    Attributes:
        length: m, virtual tokens; 0 for offsets alone.
        rank: r, hidden units of the network.
        offset_lr: Highest learning rate of the network; None for that of the prompt.
        init: Where the virtual tokens start; see ``PromptTuning``.
        ids: Token ids of a text, for init="text".
    """

    length: int = 12
    rank: int = 8
    offset_lr: float | None = 5e-4
    init: Init = "vocabulary"
    ids: tuple[int, ...] | None = None

    summary: ClassVar[str] = "a short prompt, and a small network that displaces every token's embedding"
    paper: ClassVar[str] = "2501.03291"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, length=0, rank=1)
        check_rates(self, "offset_lr")

    @classmethod
    def of_budget(cls, tokens: int, length: int, width: int, **fields: Any) -> ADePT:
        """Return ADePT with at most as many parameters as a prompt of ``tokens`` virtual tokens has.

        Args:
            tokens: l, the virtual tokens to do without.
            length: m, those to keep.
            width: d, the model's features of an embedding.
            **fields: Other fields.

        Raises:
            ConfigError: If what is left is not enough for rank 1.
        """
        left = (tokens - length) * width
        rank = (left - width) // (2 * width + 1)
        if rank < 1:
            raise ConfigError(
                f"{tokens} - {length} tokens of {width} are {left} parameters, and rank 1 takes {3 * width + 1}; use a "
                "shorter prompt"
            )
        return cls(length=length, rank=rank, **fields)

    def parameters(self, width: int) -> int:
        """Return the number of parameters beside embeddings of ``width`` features: m d + 2 d r + r + d."""
        return self.length * width + 2 * width * self.rank + self.rank + width

    def vectors(self, found: Family, seed: int) -> dict[str, Term]:
        """Return the virtual tokens, and the network with A drawn and all else zero."""
        dtype = working_dtype(found.embedding.weight)  # type: ignore[arg-type]
        bound = 1 / math.sqrt(found.width)  # Kaiming's with a = sqrt(5), as of a linear layer with d inputs
        drawn = uniform((found.width, self.rank), -bound, bound, generator(seed, "ADePT/prompt.input.network"))
        rest = [drawn.new_zeros(shape) for shape in ((1, self.rank), (self.rank, found.width), (1, found.width))]
        parts = zip(NETWORK, (drawn, *rest), strict=True)
        made: dict[str, Term] = {}
        if self.length:
            made[INPUT] = Vectors(start(found, self.length, self.init, self.ids, seed, "ADePT"))
        return made | {name: Vectors(values.to(dtype)) for name, values in parts}

    def parameter_groups(self, adapter: Adapter, lr: float) -> list[dict[str, Any]]:
        """Return the virtual tokens at ``lr``, and the network at its own rate."""
        return two_rates(adapter, lr, self.offset_lr)
