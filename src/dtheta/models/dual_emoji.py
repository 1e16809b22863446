"""``dual-emoji``: the dual encoder with the delta in it that was learned on pairs of emoji and their words.

The delta, ``dual_emoji.delta`` beside this file, is made by ``scripts/refine_dual.py`` and can be used by itself, at
any weight: ``dt.merge(dt.load_model("dual"), 0.5 * dt.load(DUAL_EMOJI))``. Its card is ``dual_emoji.md``.

Base and delta hold multiples of 2^-24 only, so that their sum in float64 is exact, and the fingerprint of the result
the same on every machine.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from dtheta.models.dual import DualEncoder, read_dual, write_dual
from dtheta.models.dual_join import PIXELS_FILE, TOKENIZER_FILES

DUAL_EMOJI = Path(__file__).with_name("dual_emoji.delta")


def build_dual_emoji(dual: Path, folder: Path) -> None:
    """Write the model with its delta into ``folder``: weights, ``config.json``, pixels and tokenizer.

    Args:
        dual: the folder of ``dual``.
        folder: an empty folder.

    Raises:
        BaseMismatch: ``dual`` is not the one that the delta was made on.
        FormatError: files of either are damaged.
    """
    from dtheta.core.apply import merge
    from dtheta.core.files import load

    merged = merge(read_dual(dual, torch.float32), load(DUAL_EMOJI))
    assert isinstance(merged, DualEncoder), "a copy is of the model's own class"
    write_dual(merged, folder)
    for name in (PIXELS_FILE, *TOKENIZER_FILES):
        shutil.copyfile(dual / name, folder / name)
