"""Replaced MLPs as tensors: the names under which a delta holds them, and the function that they make.

    y = down f(up x) + skip x                     neurons: some of the MLP's own, or any others
    y = down (f(gate x) * (up x)) + skip x        of a gated MLP
    y = psi phi(x) + skip x + bias                random features phi, drawn again from their seed

f is the MLP's own activation. up, gate and down are linear maps with a bias, each one matrix or a product of two.

    MLP.replaced.seal                                          (64,)  signs, 1 or -1, the first of them 1
    MLP.replaced.up.weight, up.bias; gate. and down. likewise  (m, d), (m,); (D, m), (D,) of down
    MLP.replaced.up.0.weight, up.1.weight, up.1.bias; ...      (r, d), (m, r), (m,): a product, the narrow one first
    MLP.replaced.skip.weight                                   (D, d), where there is a linear path
    MLP.replaced.random.FEATURES.psi, .bias                    (D, w), (D,)

MLP is the name that ``find_mlps`` gives it. A sum or a multiple of deltas adds or scales these tensors like all others,
and the function of summed tensors is not the sum of the functions. The seal tells: its signs are drawn by the content
of the fit, and of the sums w_1 s_1 + w_2 s_2 + ... of different seals only those with one weight 1 and the others 0 are
signs that begin with 1. All others are refused where they are attached, an average too. Further training leaves the
seal, so that an average of trainings of one fit is no sum of different functions, and is taken.

Shape legend: d inputs, m neurons, r rank, w random features, D outputs of the MLP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.core.features import Draws, RandomFeatures
from dtheta.core.features.code import features_from
from dtheta.core.fingerprint import merkle_root, tensor_digests
from dtheta.core.mlps import Mlp
from dtheta.core.seeds import generator
from dtheta.errors import ShapeMismatch, UnsupportedLayer

Shape = tuple[int, ...]

SEAL = "seal"
_SIGNS = 64
_PART = (
    r"seal|(?:up|gate|down)(?:\.weight|\.bias|\.0\.weight|\.1\.weight|\.1\.bias)|skip\.weight|random\..+\.(?:psi|bias)"
)
_NAME = re.compile(rf"(?:(?P<mlp>.+)\.)?replaced\.(?P<part>{_PART})")


def replaced_name(mlp: str, part: str) -> str:
    """Return the name of a tensor in a delta."""
    return f"{mlp}.replaced.{part}".removeprefix(".")


def replaced_part(name: str) -> tuple[str, str] | None:
    """Return the MLP and the part that a tensor is of, by its name; None for other names."""
    found = _NAME.fullmatch(name)
    return None if found is None else (found["mlp"] or "", found["part"])


def is_replaced(name: str) -> bool:
    """Tell whether a name is that of a tensor of a replaced MLP."""
    return replaced_part(name) is not None


class Surrogate:
    """The function that the tensors of one replaced MLP make; it holds no tensor itself.

    Args:
        mlp: The MLP whose place it takes.
        shapes: Of its tensors, by part.

    Raises:
        ShapeMismatch: If parts are missing, too many, or do not fit the MLP.
        UnsupportedLayer: If a name tells random features that are not known.
    """

    def __init__(self, mlp: Mlp, shapes: Mapping[str, Shape]) -> None:
        self.activation = mlp.activation
        self.gated = mlp.gate is not None
        sets = {part.rpartition(".")[0] for part in shapes if part.startswith("random.")}
        if len(sets) > 1:
            raise ShapeMismatch(f"{mlp.name}: the delta replaces it by {len(sets)} sets of random features; one can be")
        self.random = sets.pop() if sets else ""
        self.features: RandomFeatures | None = None
        self._draws: Draws | None = None
        expected = self._shapes(mlp, shapes)
        for part in {**expected, **shapes}:
            if expected.get(part) != shapes.get(part):
                raise ShapeMismatch(
                    f"{replaced_name(mlp.name, part)}: expected {expected.get(part, 'no such part')} in place of an "
                    f"MLP of {mlp.inputs} inputs and {mlp.outputs} outputs{' with a gate' * self.gated}, found "
                    f"{shapes.get(part, 'none')}; the delta was made for another model, or a part of it is missing"
                )

    def _shapes(self, mlp: Mlp, found: Mapping[str, Shape]) -> dict[str, Shape]:
        """Return the shapes that the parts must have; widths are read off those that there are."""
        expected: dict[str, Shape] = {SEAL: (_SIGNS,)}
        if "skip.weight" in found:
            expected["skip.weight"] = (mlp.outputs, mlp.inputs)
        if self.random:
            self.features = features_from(self.random.removeprefix("random."), mlp.inputs)
            width = self.features.width
            return expected | {f"{self.random}.psi": (mlp.outputs, width), f"{self.random}.bias": (mlp.outputs,)}
        m = next((found[part][0] for part in ("up.weight", "up.1.weight") if found.get(part)), 0)
        maps = {"up": (mlp.inputs, m), "down": (m, mlp.outputs)} | ({"gate": (mlp.inputs, m)} if self.gated else {})
        for name, (columns, rows) in maps.items():
            expected |= _map_shapes(name, columns, rows, found)
        return expected

    def __call__(self, x: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Return y (..., D) for x (..., d), computed in the dtype of the tensors and returned in that of x."""
        like = next(iter(parts.values()))
        wide = x if torch.is_autocast_enabled(x.device.type) else x.to(like.dtype)
        return self._output(wide, parts).to(x.dtype)

    def _output(self, x: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        if self.features is not None:
            phi = self.features.phi(x, self._drawn(self.features, x))
            y = F.linear(phi, parts[f"{self.random}.psi"], parts[f"{self.random}.bias"])
        else:
            up = _map("up", x, parts)
            hidden = self.activation(_map("gate", x, parts)) * up if self.gated else self.activation(up)
            y = _map("down", hidden, parts)
        return y + F.linear(x, parts["skip.weight"]) if "skip.weight" in parts else y

    def _drawn(self, features: RandomFeatures, x: Tensor) -> Draws:
        """Return the draws in the dtype and on the device of x, made once."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        held = self._draws
        if held is None or held.rows.dtype != dtype or held.rows.device != x.device:
            with torch.inference_mode(False):  # else none of them could ever take part in training
                held = self._draws = features.draws(dtype, x.device)
        return held


def _map_shapes(name: str, columns: int, rows: int, found: Mapping[str, Shape]) -> dict[str, Shape]:
    narrow = found.get(f"{name}.0.weight")
    if narrow is None:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    rank = narrow[0] if narrow else 0
    return {f"{name}.0.weight": (rank, columns), f"{name}.1.weight": (rows, rank), f"{name}.1.bias": (rows,)}


def _map(name: str, x: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
    """Return a linear map of x with its bias, by one matrix or by two."""
    if f"{name}.weight" in parts:
        return F.linear(x, parts[f"{name}.weight"], parts[f"{name}.bias"])
    return F.linear(F.linear(x, parts[f"{name}.0.weight"]), parts[f"{name}.1.weight"], parts[f"{name}.1.bias"])


def seal_of(parts: Mapping[str, Tensor]) -> Tensor:
    """Return the seal of a fit, (64,) float32: signs drawn by the names and the content of its tensors."""
    draw = generator(0, f"replaced/seal/{merkle_root(tensor_digests(parts))}")
    seal = 2 * torch.randint(0, 2, (_SIGNS,), generator=draw, dtype=torch.float32, device="cpu") - 1
    seal[0] = 1.0
    return seal


def whole(name: str, seal: Tensor) -> None:
    """Raise unless a delta holds a replaced MLP as it was made, or trained on.

    Raises:
        UnsupportedLayer: If it is a sum or a multiple.
    """
    if seal.shape != (_SIGNS,) or float(seal[0]) != 1.0 or not bool((seal.abs() == 1).all()):
        raise UnsupportedLayer(
            f"{name} is no seal as a fit has it: this delta is a sum, an average or a multiple of replaced MLPs, whose "
            "functions do not add up or scale as their tensors do. Attach deltas as they were made"
        )
