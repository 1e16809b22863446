"""The attacks by name, and those of a report where none are named."""

from __future__ import annotations

from collections.abc import Mapping

from dtheta.probe.erasure.attack import Attack
from dtheta.probe.erasure.in_context import InContext
from dtheta.probe.erasure.paraphrase import Paraphrase
from dtheta.probe.erasure.persona import Persona
from dtheta.probe.erasure.quantization import Quantization
from dtheta.probe.erasure.relearning import Relearning

#: The attacks by name, with their default settings.
ATTACKS: Mapping[str, type[Attack]] = {
    kind.__name__: kind for kind in (Paraphrase, Persona, InContext, Relearning, Quantization)
}
#: All of them, quantization in both widths.
USUAL: tuple[Attack, ...] = (
    Paraphrase(),
    Persona(),
    InContext(),
    Relearning(),
    Quantization(bits=8),
    Quantization(bits=4),
)
