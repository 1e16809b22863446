"""ComPEFT: a delta as signs and a scale.

    tau = the delta's entries, one vector         t = sign(tau) on its k largest magnitudes, 0 elsewhere
    compressed = s t                              s = alpha sigma, mean |kept|, or the least-squares scale

Yadav, Choshen, Raffel and Bansal 2023, arXiv 2311.13171. A fine-tuned model's task is in the signs of its largest
moves; with 5 % of them, a parameter takes about a third of a bit. The paper chooses density and alpha on validation
data (search.py), and its best alpha is often above what reconstructs the vector best.

Deviations: exactly k entries are kept (the released code keeps one more, and all ties), the default scale is the one
that reconstructs best, and the released "STC" baseline, a mean of signed values, is not here (scales.py). The code
computes sizes from a formula and stores dense tensors; here the result is a delta of ternary changes, two bits an entry
in memory and their entropy in a file, that adds, scales, merges and applies as any other (core/ternary.py).
"""

from __future__ import annotations

import math
from typing import Any

from dtheta.compress.plan import Of
from dtheta.compress.scales import RULES, Scale, base_scales, finished
from dtheta.compress.signs import Signs, refuse_vanished, signs
from dtheta.compress.vectors import Per
from dtheta.core.arguments import is_number
from dtheta.core.delta import Delta, derived
from dtheta.errors import ConfigError


def compress(
    delta: Delta,
    density: float = 0.1,
    scale: Scale = "mean-abs",
    *,
    per: Per = "delta",
    alpha: float = 1.0,
    of: Of = "factors",
    keep: str = "",
    new: bool = False,
) -> Delta:
    """Return a delta's ternary form: the signs of its largest entries, and a scale.

    Args:
        delta: Any delta; spectral changes must be bound.
        density: Share of entries to keep, in (0, 1]; floor(density * entries + 0.5) of them, at least one. Entries
            that are zero are never kept.
        scale: "mean-abs", the mean magnitude of the kept entries; "alpha-sigma", the standard deviation of all entries
            (as in the paper); or "least-squares", nearest to what the delta is, also where factors are compressed.
        per: What has a density and a scale of its own: "delta" (all of it one), "tensor" (each compressed tensor) or
            "row".
        alpha: Multiplies the scale.
        of: What is compressed of low-rank changes: "factors" as they are (the paper's way; refused where the factors
            are those of a sum or difference, as PiSSA's and SORSA's), "balanced" factors of the change's singular value
            decomposition, or the entries of the "product".
        keep: Glob of the parameters that are left exactly as they are, such as "head.*"; alternatives joined by ``|``.
        new: Whether new vectors (prompts), which are no displacements, are compressed too; they stay stored as numbers.

    Returns:
        The compressed delta. Its provenance names the parent and the settings; ``compression_report`` says what was
        gained and lost.

    Raises:
        ConfigError: If an argument cannot be meant, what was given is no delta, or nothing is left to compress.
        UnknownParameter: If ``keep`` names nothing.
        UnsupportedLayer: If a change cannot be compressed in this way, or every product of factors would be zero; the
            message names the change and says what to do.
        NonFinite: If a change holds NaN or infinity; the message names it.
    """
    alpha = check_scale(scale, alpha)
    found = signs(delta, density, per=per, of=of, keep=keep, new=new)
    refuse_vanished(found)
    return compressed(found, scale, alpha, of=of, keep=keep)


def compressed(found: Signs, scale: Scale, alpha: float, **settings: Any) -> Delta:
    """Return the delta that signs and a rule for the scale make; ``settings`` go into its provenance."""
    numbers = finished(found, base_scales(found, scale), alpha)
    changes = {**found.delta.changes, **found.scaled(numbers)}
    kept = sum(vector.planes.count for vector in found.vectors)
    chosen = {"density": found.density, "per": found.per, "scale": scale, "alpha": alpha, "kept": kept}
    return Delta(changes, found.delta.base, derived("compress", [found.delta], **chosen, **settings))


def check_scale(scale: str, alpha: Any) -> float:
    """Check the rule for the scale and its multiple, and return the multiple.

    Raises:
        ConfigError: If one cannot be meant.
    """
    if scale not in RULES:
        raise ConfigError(f"scale={scale!r} is not known; expected one of {', '.join(RULES)}")
    if not (is_number(alpha) and math.isfinite(alpha) and alpha > 0):
        raise ConfigError(f"alpha={alpha!r} must be a positive number: it multiplies the scale")
    return float(alpha)
