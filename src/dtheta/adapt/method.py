"""Method: a frozen dataclass that says how a delta is made. Its fields are the configuration.

The fields are at once the arguments in Python, the flags of ``dtheta adapt`` and the JSON in the file. A method
in its own file defines its fields and ``term``; the rest has defaults. An outside package adds one through the
entry-point group ``dtheta.methods``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from dtheta.adapt.fields import settle_fields
from dtheta.adapt.stacked import StackedTerm
from dtheta.adapt.term import DenseTerm, FactoredTerm, SpectralTerm, Term
from dtheta.core.change import Change, Dense
from dtheta.core.lowrank import LowRank
from dtheta.core.selection import Site
from dtheta.core.spectral import Spectral
from dtheta.core.stacked import Stacked, stack_of
from dtheta.core.tensors import all_finite
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer, did_you_mean

if TYPE_CHECKING:
    from dtheta.adapt.adapter import Adapter


@dataclass(frozen=True)
class Method:
    """How a delta is made. Subclasses are frozen dataclasses, whose fields are checked against their types."""

    #: Selection used when none is given; None stands for the linear weights of attention and MLP blocks.
    default_select: ClassVar[str | None] = None
    #: Whether only parameters of two or more dimensions can be moved.
    matrices: ClassVar[bool] = True
    #: Whether what trains are vectors that the base does not have; no parameter is selected then.
    new_vectors: ClassVar[bool] = False
    #: One line for ``dtheta methods``, and the paper.
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        settle_fields(self)

    @property
    def name(self) -> str:
        """The method's name: that of its class."""
        return type(self).__name__

    def to_dict(self) -> dict[str, Any]:
        """Return name and fields, as stored in a file."""
        return {"name": self.name, **dataclasses.asdict(self)}

    def term(self, site: Site, seed: int) -> Term:
        """Return the trainable term of one site, with a displacement of zero."""
        raise NotImplementedError

    def terms(self, sites: Sequence[Site], seed: int) -> dict[str, Term]:
        """Return the terms of all sites, by key."""
        return {site.key: self.term(site, seed) for site in sites}

    def require_selectable(self, select: str | None) -> None:
        """Raise if parameters are selected of which none is moved.

        Raises:
            ConfigError: Naming the method.
        """
        if self.new_vectors and select is not None:
            raise ConfigError(
                f"{self.name} moves no parameter, so there is nothing to select; leave select out, or train parameters "
                "beside it with also=..."
            )

    def require(self, model: nn.Module, select: str | None = None) -> None:
        """Raise what ``grafts`` would raise of a model, as far as shapes tell; weights are not looked at."""

    def grafts(self, model: nn.Module, seed: int, select: str | None = None) -> dict[str, Term]:
        """Return the vectors that the base does not have, by the names that say where they stand; none by default."""
        return {}

    def restore(self, site: Site, change: Change) -> Term:
        """Return the term that continues training from a stored change."""
        return restored(change)

    def parameter_groups(self, adapter: Adapter, lr: float) -> list[dict[str, Any]]:
        """Return the optimizer groups; one group at ``lr`` unless the method wants several.

        Parameters that train in full beside the method (``attach(..., also=...)``) are told apart by the caller.
        """
        return [{"params": list(adapter.trainable().values()), "lr": lr}]

    def add_gradient(self, adapter: Adapter, lr: float) -> None:
        """Add the method's own gradient to ``.grad``: once per optimizer step, after clipping.

        Args:
            adapter: The adapter being trained.
            lr: The highest learning rate of the schedule.
        """


def restored(change: Change) -> Term:
    """Return a trainable term that starts at a stored change, whatever made it."""
    if (stack := stack_of(change)) is not None:
        return StackedTerm(stack.left, stack.right)  # copies already
    if isinstance(change, Spectral):
        left, right = change.left, change.right
        assert left is not None and right is not None, "bound by attach"
        return SpectralTerm(left, right, change.shift.clone())
    factors = change.factors()
    if factors is not None:
        return FactoredTerm(factors[0].clone(), factors[1].clone())
    values = change.values if isinstance(change, Dense) else change.matrix()
    return DenseTerm(values.clone())


def split_start(change: Change, rank: int) -> tuple[LowRank, LowRank] | tuple[Stacked, Stacked] | None:
    """Return the trained and the initial half of ``[L L0] diag(s, -s0) [R; R0]``, or None if it is not of that form.

    A stack has such factors in every slice, and so have its halves.
    """
    if not isinstance(change, LowRank | Stacked) or rank < 1 or change.core is None:
        return None
    if change.core.shape[-1] != 2 * rank:
        return None
    left, right, core = change.left, change.right, change.core
    now = left[..., :rank].clone(), right[..., :rank, :].clone(), core[..., :rank].clone()
    start = left[..., rank:].clone(), right[..., rank:, :].clone(), -core[..., rank:].clone()
    return (Stacked(*now), Stacked(*start)) if isinstance(change, Stacked) else (LowRank(*now), LowRank(*start))


def check_rank(site: Site, rank: int) -> None:
    """Raise unless ``rank`` fits the matrix at a site.

    Raises:
        ConfigError: If the rank is below one or larger than the matrix.
    """
    rows, columns = site.slice_shape
    most = min(rows, columns)
    if not 1 <= rank <= most:
        what = f"{len(site.tensor)} matrices" if site.stacked else "a matrix"
        raise ConfigError(
            f"{site.key}: rank {rank} does not fit {what} of {rows} x {columns}; expected 1 to {most}. "
            f"Choose a smaller rank, or leave this parameter out with select='...|!{site.name}'"
        )


def check_weight(site: Site, finite: bool = True) -> None:
    """Raise unless a site's weight is of a floating dtype, has data, and (when asked) holds no NaN or infinity.

    Raises:
        UnsupportedLayer: For integer, meta-device or sharded weights.
        NonFinite: For NaN or infinity.
    """
    tensor = site.tensor
    if not tensor.is_floating_point():
        raise UnsupportedLayer(f"{site.key}: cannot move a weight of {tensor.dtype}; expected a floating dtype")
    if tensor.is_meta:
        raise UnsupportedLayer(f"{site.key}: the weight is on the meta device and has no data; load it first")
    if finite and not all_finite(tensor):
        raise NonFinite(f"{site.key}: the weight holds NaN or infinity; the base is damaged")


def working_dtype(weight: torch.Tensor) -> torch.dtype:
    """Return the dtype in which a displacement of a weight trains: float32, and float64 only beside float64."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def method_from_dict(record: Mapping[str, Any]) -> Method:
    """Return the method that ``to_dict`` described.

    Raises:
        ConfigError: For an unknown method or field, naming the nearest one, or a value of another type.
    """
    from dtheta.adapt.registry import method_class

    fields = dict(record)
    cls = method_class(str(fields.pop("name", "")))
    known = [f.name for f in dataclasses.fields(cls)]
    for name in fields:
        if name not in known:
            raise ConfigError(f"{cls.__name__} has no field {name!r}{did_you_mean(name, known)}")
    return cls(**fields)
