"""Entry: what is seen by running a model on a token or two before a prompt goes on it.

    reached       the whole model calls the forward by which a prompt enters; else it would silently do nothing
    read alike    f(ids) = f(E(ids)), as a prompt gives the text as embeddings, its own vectors among them

The second does not hold where a model scales the embeddings of ids by itself (Pegasus, Marian), or masks and rescales
them (ESM-2): texts would come out as others than it was trained on, and no error would say so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dtheta.adapt.prompts.family import Family
from dtheta.adapt.prompts.forward import PromptForward
from dtheta.core.modes import kept_modes
from dtheta.errors import UnsupportedLayer

_ROUNDING, _ROUNDING_HALF = 1e-3, 2e-2  # of the states, as a share of their size
_IDS = 64  # among so many first ids two plain ones are looked for


def require_reached(found: Family, forward: PromptForward) -> None:
    """Raise unless the whole model calls the forward by which a prompt enters, seen by running it on one token.

    Raises:
        UnsupportedLayer: If it embeds its text elsewhere, so that a prompt would silently do nothing.
    """
    if found.outer is found.core or not _may_run(found):
        return
    token = torch.zeros(1, 1, dtype=torch.long, device=_weight(found).device)
    try:
        with kept_modes(found.outer), torch.no_grad():  # in eval mode no random number is drawn
            found.outer(input_ids=token, **({} if found.decoder is None else {"decoder_input_ids": token}))
    except Exception:
        if not forward.reached:  # else its head wants another text, such as one that ends, and a prompt is seen
            raise
    if not forward.reached:
        raise UnsupportedLayer(
            f"{type(found.outer).__name__} embeds its text past its {type(found.core).__name__}, so a prompt there "
            "would do nothing; this model has no place for one yet"
        )


def require_read_alike(found: Family) -> None:
    """Raise unless a model makes the same of two ids and of their embeddings; it must have no prompt yet.

    Raises:
        UnsupportedLayer: If it does not.
    """
    if not _may_run(found) or hasattr(_weight(found), "device_mesh"):  # a sharded model runs as a whole only
        return
    ids = _plain_ids(found)
    given = {"attention_mask": torch.ones_like(ids)}
    with kept_modes(found.core), torch.no_grad():
        try:
            wanted = _states(found.core(input_ids=ids, **given))
            made = _states(found.core(inputs_embeds=found.embedding(ids), **given))
        except Exception:
            return  # it wants longer texts or other inputs, and says so where it is run
    if _differ(wanted, made, _weight(found).dtype):
        raise UnsupportedLayer(
            f"{type(found.core).__name__} reads the embeddings of a text otherwise than its ids, as a model does that "
            "scales or masks them by itself, so the text beside a prompt would be another; adapt "
            f"{type(found.outer).__name__} by LoRA, PiSSA, ... instead"
        )


def _may_run(found: Family) -> bool:
    """Tell whether a model can be run on a short text, and is as it was afterwards: BigBird changes its layers."""
    return not _weight(found).is_meta and getattr(found.core, "attention_type", None) != "block_sparse"


def _weight(found: Family) -> Tensor:
    return found.embedding.weight  # type: ignore[return-value]


def _plain_ids(found: Family) -> Tensor:
    """Return two ids (1, 2) that are no padding, and no other tokens with a part of their own in a text."""
    named = ((name, value) for name, value in found.config.to_dict().items() if name.endswith("_token_id"))
    special = {one for _, value in named for one in (value if isinstance(value, list) else [value])}
    plain = [one for one in range(min(len(_weight(found)), _IDS)) if one not in special] or [0]
    return torch.tensor([[plain[0], plain[-1]]], device=_weight(found).device)


def _states(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output.last_hidden_state


def _differ(wanted: Tensor, made: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether states differ by more than rounding does; NaN tells nothing."""
    least = _ROUNDING_HALF if dtype.itemsize < torch.float32.itemsize else _ROUNDING
    return bool((wanted.double() - made.double()).norm() > least * wanted.double().norm())
