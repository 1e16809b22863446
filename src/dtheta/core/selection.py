"""Selection: which parameters of a model a method moves, and how each of them is used.

    select       = alternative { "|" alternative }
    alternative  = [ "!" ] pattern [ "#" first [ "-" last ] ] [ ":" slices ]
    pattern      = glob over parameter names, or over module names (their weight is meant), or a role:
                   @blocks (the default: linear weights of attention and MLP blocks, without gates of one output),
                   @attention, @mlp, @linear, @conv, @embedding, @bias, @all
    # first-last = only layers with these numbers
    : slices     = any of q, k, v of a fused attention projection, such as "*.in_proj_weight:qv"

An alternative with ``!`` takes away. A glob takes those parameters of the right dimension that it names; one that
takes none is an error, never an empty adapter.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from dtheta.core.change import matrix_shape
from dtheta.core.overlap import refuse_overlap
from dtheta.core.stacked import is_stack
from dtheta.core.tensors import Owner, shared
from dtheta.errors import ConfigError, UnknownParameter, UnsupportedLayer, did_you_mean

LayerKind = Literal["linear", "transposed", "conv", "embedding", "attention", "bare"]
ROLES = ("blocks", "attention", "mlp", "linear", "conv", "embedding", "bias", "all")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Window:
    """Rows (axis 0) or columns (axis 1) ``start:stop`` of a fused projection; ``label`` is q, k or v."""

    axis: Literal[0, 1]
    start: int
    stop: int
    label: str


@dataclass(frozen=True, eq=False)
class Site:
    """A place where a method may move a parameter.

    Attributes:
        name: The parameter's name.
        tensor: The base tensor, in the layout in which its module stores it.
        kind: How the owning module uses it.
        owners: The modules that hold it; more than one for tied weights.
        window: The slice of a fused projection, or None for the whole.
        bypassed: Whether the owning module's forward is not what uses the tensor: output projections of attention,
            and the two linear layers of ``nn.TransformerEncoderLayer``, whose fast path reads their weights.
    """

    name: str
    tensor: Tensor
    kind: LayerKind
    owners: tuple[Owner, ...]
    window: Window | None = None
    bypassed: bool = False

    @property
    def key(self) -> str:
        """Unique name of the site: the parameter's, with the slice in brackets."""
        return f"{self.name}[{self.window.label}]" if self.window else self.name

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix at this site."""
        rows, columns = matrix_shape(self.tensor.shape)
        if self.window is None:
            return rows, columns
        width = self.window.stop - self.window.start
        return (width, columns) if self.window.axis == 0 else (rows, width)

    @property
    def stacked(self) -> bool:
        """Whether it is a parameter (E, m, n) that is multiplied slice by slice, such as the experts of a layer."""
        return self.kind == "bare" and is_stack(self.name, self.tensor.shape)

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Rows and columns of what is multiplied at once: of each slice, or of the matrix at this site."""
        return (self.tensor.shape[1], self.tensor.shape[2]) if self.stacked else self.shape

    @property
    def input_first(self) -> bool:
        """Whether inputs meet the first side of a matrix at this site: where a layer computes x W."""
        return self.kind == "transposed" or (self.stacked and getattr(self.owners[0].module, "is_transposed", False))

    @property
    def is_matrix(self) -> bool:
        """Whether the parameter is a matrix or more, as a method of factors needs."""
        return self.tensor.ndim >= 2

    @property
    def tied(self) -> bool:
        """Whether several modules hold this tensor."""
        return len({id(owner.module) for owner in self.owners}) > 1

    @property
    def hookable(self) -> bool:
        """Whether the one owner's forward is the only use of the tensor, so that a term can add to its output."""
        window_is_output = self.window is None or self.window.axis == (0 if self.kind == "linear" else 1)
        plain = self.kind in ("linear", "transposed") and window_is_output
        plain = plain or (self.kind == "embedding" and self.window is None)
        return plain and not (self.tied or self.bypassed) and adds_up(self.owners[0].module)

    def slices(self) -> dict[str, Tensor]:
        """Return what is multiplied at once as detached matrices, by name: every slice, or the one of this site."""
        if not self.stacked:
            return {self.key: self.matrix()}
        return {f"{self.key}[{e}]": part for e, part in enumerate(self.tensor.detach())}

    def matrix(self) -> Tensor:
        """Return the base weight at this site as a detached (m, n) matrix; a view where the layout allows."""
        whole = self.tensor.detach().reshape(matrix_shape(self.tensor.shape))
        if self.window is None:
            return whole
        return whole.narrow(self.window.axis, self.window.start, self.window.stop - self.window.start)


def sites(model: nn.Module, matrices: bool = False) -> dict[str, Site]:
    """Return the sites of all parameters of a model, or of its matrices alone, by name; tied tensors once."""
    return _sites(model, shared(model), matrices)


def _sites(model: nn.Module, table: Mapping[str, Sequence[tuple[Owner, Tensor]]], matrices: bool) -> dict[str, Site]:
    bypassed = {id(inner) for module in model.modules() for inner in _bypassed(module)}
    found = {}
    for name, held in table.items():
        owners, tensor = tuple(owner for owner, _ in held), held[0][1]
        if isinstance(tensor, nn.Parameter) and (tensor.ndim >= 2 or not matrices):
            hidden = any(id(owner.module) in bypassed for owner in owners)
            found[name] = Site(name, tensor, layer_kind(owners[0], tensor), owners, bypassed=hidden)
    return found


def _bypassed(module: nn.Module) -> list[nn.Module]:
    """Return the inner modules whose weights a module hands to a function, past their forward."""
    if isinstance(module, nn.MultiheadAttention):
        return [module.out_proj]
    return [module.linear1, module.linear2] if isinstance(module, nn.TransformerEncoderLayer) else []


def has_plain_forward(module: nn.Module) -> bool:
    """Tell whether a module computes exactly what ``nn.Linear``, transformers' ``Conv1D`` or ``nn.Embedding`` does."""
    forward = type(module).forward
    conv1d = type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"
    return conv1d or forward in (nn.Linear.forward, nn.Embedding.forward)


def adds_up(module: nn.Module) -> bool:
    """Tell whether output plus term is the output with the displaced weight; a subclass may scale or clip its output.

    A layer that stores its weight in another form (see ``core.tensors.owners``) keeps to what the plain layer does.
    """
    return has_plain_forward(module) or hasattr(module, "virtual_tensors")


def layer_kind(owner: Owner, tensor: Tensor) -> LayerKind:
    """Return how one module uses a tensor that it holds."""
    module, attribute = owner.module, owner.attribute
    if isinstance(module, nn.MultiheadAttention) and tensor.ndim == 2:
        return "attention"
    if attribute != "weight":
        return "bare"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, _CONVOLUTIONS):
        return "conv"
    # transformers' Conv1D computes x @ W: a linear layer with the weight stored as (in, out)
    return "transposed" if type(module).__name__.endswith("Conv1D") and tensor.ndim == 2 else "bare"


def layer_index(name: str) -> int | None:
    """Return the first number in a dotted name: the number of the layer."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def has_role(site: Site, role: str) -> bool:
    """Tell whether a site plays a role; see the module's docstring for the roles."""
    match role:
        case "all":
            return True
        case "bias":
            return site.name.endswith("bias")
        case "conv" | "embedding":
            return site.kind == role
    if site.kind not in ("linear", "transposed", "attention"):
        return False
    if role == "linear":
        return True
    if site.shape[0] == 1 and _GATE.search(site.owners[0].path):  # of a shared expert: one number for each token
        return False
    attention = site.kind == "attention" or _in_attention(site.name)
    numbered = role == "attention" or layer_index(site.name) is not None
    return numbered and not site.tied and (role == "blocks" or attention == (role == "attention"))


_GATE = re.compile(r"(^|[._])gate$")  # gate, shared_expert_gate; no "aggregate"
_ATTENTION = re.compile(r"att(?:n|en[dt]|[^a-z]|$)")  # attn, attention, attends, att; no "pattern", "attribute"


def _in_attention(name: str) -> bool:
    """Tell whether a parameter is of attention by its name; an MLP inside of what is called attention is not."""
    return _ATTENTION.search(name.lower().rpartition("mlp")[2]) is not None


def select(model: nn.Module, pattern: str | None = None, *, matrices: bool = True) -> list[Site]:
    """Return the sites that a pattern names, in the order of the model.

    Args:
        model: Any module.
        pattern: See the module's docstring; None takes ``@blocks``, or ``@linear`` where no layer is numbered.
        matrices: Only parameters of two or more dimensions, as methods of factors need; False takes vectors too.

    Raises:
        ConfigError: For an unknown role, a malformed pattern, or a pattern that takes nothing.
        UnknownParameter: For a name that the model does not have.
        UnsupportedLayer: For a parameter that shares memory with another one without being the same tensor.
    """
    if pattern is not None and not isinstance(pattern, str):
        example = "|".join(f"*.{name}" for name in pattern) if _is_names(pattern) else "*.q_proj|*.v_proj"
        raise ConfigError(f"a selection is one text, with its alternatives joined by |: {example!r}; found {pattern!r}")
    held = shared(model)
    table = _sites(model, held, matrices)
    if pattern is None:
        pattern = "@blocks" if any(has_role(s, "blocks") for s in table.values()) else "@linear"
    chosen: dict[str, Site] = {}
    for alternative in pattern.split("|"):
        _take(chosen, alternative.strip(), table, pattern)
    if not chosen:
        raise ConfigError(f"the selection {pattern!r} takes no parameter; {_examples(table)}")
    refuse_overlap(held, (site.name for site in chosen.values()))
    order = {name: i for i, name in enumerate(table)}
    return sorted(chosen.values(), key=lambda s: (order[s.name], s.window.start if s.window else 0))


def _is_names(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(name, str) for name in value)


_ALTERNATIVE = re.compile(r"(?P<drop>!?)(?P<glob>[^#:!]+)(#(?P<first>\d+)(-(?P<last>\d+))?)?(:(?P<slices>[qkv]+))?")


def _take(chosen: dict[str, Site], text: str, table: dict[str, Site], pattern: str) -> None:
    """Add the sites of one alternative to ``chosen``, or take them away."""
    found = _ALTERNATIVE.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"cannot read {text!r} in the selection {pattern!r}; expected a glob such as '*.query', a role such as "
            "'@mlp', with '#2-5' for layers and ':qv' for slices of a fused projection"
        )
    named = _in_layers(_named(found["glob"], table), found["first"], found["last"])
    if not named:
        raise _nothing(found["glob"], text, pattern, table)
    for site in named:
        for part in windows(site, found["slices"]):
            if found["drop"]:
                chosen.pop(part.key, None)
            else:
                chosen[part.key] = part


def _named(glob: str, table: dict[str, Site]) -> list[Site]:
    if glob.startswith("@"):
        if glob[1:] not in ROLES:
            known = ", ".join("@" + role for role in ROLES)
            raise ConfigError(f"unknown role {glob!r}; expected one of {known}{did_you_mean(glob[1:], ROLES)}")
        return [site for site in table.values() if has_role(site, glob[1:])]
    return [site for site in table.values() if any(fnmatch.fnmatchcase(name, glob) for name in _names(site))]


def _names(site: Site) -> Iterable[str]:
    """Yield all names by which a pattern may call a site: the parameter's, and those of modules whose weight it is."""
    for owner in site.owners:
        yield owner.name
        if owner.attribute in ("weight", "in_proj_weight"):
            yield owner.path


def _in_layers(found: list[Site], first: str | None, last: str | None) -> list[Site]:
    if first is None:
        return found
    low, high = int(first), int(last or first)
    return [site for site in found if (index := layer_index(site.name)) is not None and low <= index <= high]


def _nothing(glob: str, text: str, pattern: str, table: dict[str, Site]) -> ConfigError | UnknownParameter:
    if not glob.startswith("@") and not set("*?[") & set(glob):
        near = did_you_mean(glob, dict.fromkeys(n for site in table.values() for n in _names(site)))
        inside = any(name.endswith(f".{glob}") for site in table.values() for name in _names(site))
        near = f"; globs are over whole names: did you mean '*.{glob}'?" if inside else near
        return UnknownParameter(f"the model has no matrix parameter or module {glob!r}{near}")
    return ConfigError(f"{text!r} in the selection {pattern!r} takes no parameter; {_examples(table)}")


def _examples(table: dict[str, Site]) -> str:
    names = list(table)
    if not names:
        return "the model has no parameter of two or more dimensions"
    few = dict.fromkeys((names[0], names[len(names) // 2], names[-1]))  # of one or two parameters none is said twice
    return f"parameters of this model are called {', '.join(map(repr, few))}"


def windows(site: Site, slices: str | None) -> Sequence[Site]:
    """Return a site cut into the q, k, v slices asked for; ``nn.MultiheadAttention`` is always cut.

    Raises:
        UnsupportedLayer: If the parameter is not a fused projection of three equal parts in the order q, k, v.
    """
    fused = site.kind == "attention" and site.name.endswith("in_proj_weight")
    if slices is None and not fused:
        return [site]
    axis: Literal[0, 1] = 1 if site.kind == "transposed" else 0
    length, other = site.shape[axis], site.shape[1 - axis]
    leaf = site.name.removesuffix(".weight").rsplit(".", 1)[-1]
    if not fused and (leaf not in ("qkv", "c_attn", "Wqkv", "in_proj") or length != 3 * other):
        raise UnsupportedLayer(
            f"{site.name}: cannot cut into q, k, v; expected nn.MultiheadAttention, or a layer called qkv, c_attn or "
            f"Wqkv with three equal parts, found shape {tuple(site.tensor.shape)}"
        )
    width = length // 3
    cuts = {label: Window(axis, i * width, (i + 1) * width, label) for i, label in enumerate("qkv")}
    return [replace(site, window=cuts[label]) for label in "qkv" if label in (slices or "qkv")]
