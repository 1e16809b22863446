"""Wiring of prompts: one bundle a model, put on with its first prompt and taken off with its last."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from dtheta.adapt.prompts.bundle import Bundle, Prompt
from dtheta.adapt.prompts.context import ContextForward
from dtheta.adapt.prompts.decoder import DecoderForward, decoder_forwards
from dtheta.adapt.prompts.encoder import encoder_forwards
from dtheta.adapt.prompts.entry import require_reached, require_read_alike
from dtheta.adapt.prompts.family import Family, family, name_of, require_room
from dtheta.adapt.prompts.forward import PromptForward
from dtheta.adapt.prompts.generate import PromptGenerate
from dtheta.adapt.prompts.image_names import is_image_prompt
from dtheta.adapt.prompts.names import INPUT, NETWORK, prefix_place
from dtheta.adapt.prompts.prefix import require_prefix
from dtheta.adapt.prompts.sources import length_of, width_of
from dtheta.adapt.prompts.token_wise import require_token_wise
from dtheta.adapt.prompts.tower_wiring import TowerLink
from dtheta.adapt.prompts.tower_wiring import connect as connect_towers
from dtheta.adapt.term import Term
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer


class PromptLink:
    """One adapter's prompt on one model, until it is taken away."""

    def __init__(self, found: Family, bundle: Bundle, prompt: Prompt, beside: tuple[str, ...]) -> None:
        self.family = found
        self.beside = beside  # the names of the tables of input embeddings, among which the prompt stands
        self.bundle = bundle
        self.prompt = prompt
        bundle.prompts.append(prompt)
        bundle.families.append(found)

    def remove(self) -> None:
        """Take the prompt away; the last one leaves the model as it was before the first."""
        self.bundle.prompts.remove(self.prompt)
        if not self.bundle.prompts:
            for found in self.bundle.families:  # prompts may have come to a whole model and to the one inside it
                take_off(found)


def connect(model: nn.Module, terms: Mapping[str, Term], weight: Callable[[], float]) -> PromptLink | TowerLink:
    """Put the vectors of a prompt on a text model, or on an image-text model.

    Raises:
        UnsupportedLayer: If the model is no text model that a prompt can enter.
        ShapeMismatch: If the vectors do not fit it.
    """
    if any(is_image_prompt(name) for name in terms):
        return connect_towers(model, terms, weight)
    found = family(model)
    require_fit(found, terms)
    for term in terms.values():
        term.to(found.embedding.weight.device)  # type: ignore[arg-type]
    return PromptLink(found, _bundle(found), Prompt(terms, weight), (name_of(model, found.embedding),))


def require_fit(found: Family, terms: Mapping[str, Term]) -> None:
    """Raise unless vectors fit a model.

    Raises:
        ShapeMismatch: If their widths are others, they take all positions, or parts of a prefix are missing.
        UnsupportedLayer: If the model can have no prefix.
    """
    for name, term in terms.items():
        _require_matrix(name, term)
    prefix = {place: (length_of(t), width_of(t)) for name, t in terms.items() if (place := prefix_place(name))}
    if prefix:
        require_prefix(found, prefix)
    for name, term in terms.items():
        if prefix_place(name) is None and name not in NETWORK and width_of(term) != found.width:
            raise ShapeMismatch(
                f"{name}: has {width_of(term)} features, and the embeddings of {type(found.outer).__name__} have "
                f"{found.width}; it was made for another model"
            )
    require_token_wise(found, terms)
    length = length_of(terms[INPUT]) if INPUT in terms else 0
    require_room(found, length + next((n for n, _ in prefix.values()), 0))


def _require_matrix(name: str, term: Term) -> None:
    """Raise unless a source is made of matrices.

    Raises:
        ShapeMismatch: If it is not, as of a delta made by hand.
    """
    for parameter in term.parameters(recurse=False):
        if parameter.ndim != 2:
            raise ShapeMismatch(f"{name}: must be a matrix, a row for each vector; found {tuple(parameter.shape)}")


def _bundle(found: Family) -> Bundle:
    """Return the bundle on a model, put there now if there is none."""
    held = found.core.__dict__.get("forward")
    if isinstance(held, ContextForward):
        raise UnsupportedLayer(
            f"a prompt of an image-text model is on this {type(found.core).__name__}, its text tower; detach it first"
        )
    if isinstance(held, PromptForward):
        if held.bundle.shut:
            raise ConfigError("rows of this model have prompts of a bank just now: leave that block first")
        _put_generate(found, held)  # the first prompt may be on the model inside this one
        return held.bundle
    require_read_alike(found)
    bundle = Bundle()
    forward = put_on(found, bundle)
    try:
        require_reached(found, forward)
    except Exception:
        take_off(found)
        raise
    return bundle


def require_entry(found: Family) -> None:
    """Raise unless a prompt that is put on a model would be seen; nothing is on it afterwards that was not before.

    Raises:
        UnsupportedLayer: If the model embeds its text elsewhere, or reads embeddings otherwise than ids.
    """
    if not isinstance(found.core.__dict__.get("forward"), PromptForward):  # else it was seen to be
        require_read_alike(found)
        try:
            require_reached(found, put_on(found, Bundle()))
        finally:
            take_off(found)


def put_on(found: Family, bundle: Bundle) -> PromptForward:
    """Put forwards of ours on a model that has none; return the one by which a prompt enters."""
    made = decoder_forwards(found, bundle) if found.kind == "decoder" else encoder_forwards(found, bundle)
    for forward in made:
        forward.module.__dict__["forward"] = forward
    _put_generate(found, made[0])
    return made[0]


def _put_generate(found: Family, forward: PromptForward) -> None:
    """Put a ``generate`` of ours on a decoder that has one, unless it is there."""
    own = getattr(found.outer, "generate", None)
    if isinstance(forward, DecoderForward) and callable(own) and not isinstance(own, PromptGenerate):
        inner = found.outer.__dict__.get("generate")
        found.outer.__dict__["generate"] = PromptGenerate(found.outer, forward, inner)


def take_off(found: Family) -> None:
    """Give a model its own forwards back."""
    for module, name in _places(found):
        held = module.__dict__.get(name)
        if isinstance(held, (PromptForward, PromptGenerate)):
            del module.__dict__[name]
            if held.inner is not None:
                module.__dict__[name] = held.inner


def _places(found: Family) -> list[tuple[nn.Module, str]]:
    places = [(found.core, "forward"), (found.outer, "generate")]
    return places if found.decoder is None else [*places, (found.decoder, "forward")]
