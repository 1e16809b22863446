"""``load_model`` and ``load_tokenizer``: a pretrained network from a name or a local folder, never from the network.

What comes back is the plain ``nn.Module`` in evaluation mode, its weights exactly those of the file (rounded once where
``dtype`` is narrower). Weights that the architecture needs and the file lacks are an error, not a random draw.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, DthetaWarning, FormatError, UnsupportedLayer
from dtheta.models.dual import is_dual, read_dual
from dtheta.models.zoo import EMULATORS, model_folder, require_text


def load_model(name_or_folder: str | Path, dtype: torch.dtype = torch.float32, layers: int | None = None) -> nn.Module:
    """Return a pretrained model in evaluation mode on the CPU.

    Args:
        name_or_folder: ``"minilm"``, ``"smollm2"``, ``"dual"``, ``"qg-sfno-0"`` ... (see ``zoo``), or a local
            Hugging Face folder with ``config.json`` and safetensors; the architecture is the one that its
            ``config.json`` names. Pickled weights are not read.
        dtype: floating dtype of the weights.
        layers: keep only the first so many layers; None keeps all.

    Raises:
        ConfigError: an unknown name, a folder without ``config.json`` or with an adapter that would be loaded too, or
            a wrong ``layers``.
        UnsupportedLayer: an architecture that the installed transformers does not have.
        FormatError: weights are missing, damaged or of another shape than the architecture's.
        MissingExtra: transformers is not installed, or the package that carries the model cannot be had.
    """
    if not dtype.is_floating_point:
        raise ConfigError(f"dtype of a model must be floating, got {dtype}")
    if str(name_or_folder) in EMULATORS:
        from dtheta.models.emulator_file import read_emulator

        if layers is not None:
            raise ConfigError(f"layers={layers}: an emulator is one step of a flow and cannot be cut; leave layers out")
        if dtype not in (torch.float32, torch.float64):
            raise ConfigError(f"an emulator computes in float32 or float64, not in {dtype}")
        return read_emulator(EMULATORS[str(name_or_folder)]).to(dtype)
    require_text("transformers")
    folder = model_folder(name_or_folder)
    if is_dual(folder):
        if layers is not None:
            raise ConfigError(f"layers={layers}: a dual encoder has two towers and cannot be cut; leave layers out")
        return read_dual(folder, dtype).eval()
    _require_no_adapter(folder)
    config = _config(folder, layers)
    architecture = _architecture(config, folder)
    model, report = _from_pretrained(architecture, folder, config, dtype)
    _check_complete(report, folder)
    if layers is None:  # else the weights of the layers above are left over on purpose
        _say_unused(report, folder)
    return model.eval()


def load_tokenizer(name_or_folder: str | Path) -> Any:
    """Return the tokenizer of a model: a name of the zoo or a local Hugging Face folder.

    Raises:
        ConfigError: an unknown name or folder.
        FormatError: the folder holds no readable tokenizer.
        MissingExtra: transformers is not installed, or the package that carries the model cannot be had.
    """
    require_text("transformers", "tokenizers")
    folder = model_folder(name_or_folder)
    from transformers import AutoTokenizer

    try:
        with _quiet():  # transformers does not know a dual encoder's config.json, and need not
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        said = _first_line(error).rstrip(": ")  # what follows a colon are other lines
        raise FormatError(
            f"{folder} holds no tokenizer that can be read: {said}; put the model's own tokenizer.json there"
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes an empty one where files are missing
        raise FormatError(f"{folder} holds no tokenizer: there is no vocabulary, such as tokenizer.json")
    return tokenizer


def _require_no_adapter(folder: Path) -> None:
    """Raise for a folder of a model and an adapter, which transformers puts on the model where peft is installed.

    Raises:
        ConfigError: If it is one, and peft is installed.
    """
    if (folder / "adapter_config.json").is_file() and find_spec("peft") is not None:
        raise ConfigError(
            f"{folder} holds a peft adapter beside the model, and transformers would load both, so that the model is "
            "not that of its file; move adapter_config.json and the adapter's weights to a folder of their own, which "
            "dt.from_peft(folder, model) reads"
        )


def _config(folder: Path, layers: int | None) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise FormatError(f"{folder / 'config.json'} cannot be read: {_first_line(error)}") from error
    if layers is not None:
        _cut(config, layers)
    return config


def _cut(config: Any, layers: int) -> None:
    depth = getattr(config, "num_hidden_layers", None)
    if depth is None:
        raise ConfigError(f"layers={layers}: a {config.model_type} model does not say how many layers it has")
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"layers={layers}: a {config.model_type} model has layers of an encoder and of a decoder and cannot be "
            "cut; leave layers out"
        )
    if not 1 <= whole(layers, "layers") <= depth:
        raise ConfigError(f"layers={layers} must lie between 1 and {depth}, the number that the model has")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def _architecture(config: Any, folder: Path) -> Any:
    import transformers

    names = config.architectures or []
    if not names:
        return transformers.AutoModel
    if not hasattr(transformers, names[0]):
        raise UnsupportedLayer(
            f"{folder / 'config.json'} names the architecture {names[0]!r}, which transformers "
            f"{transformers.__version__} does not have"
        )
    return getattr(transformers, names[0])


def _from_pretrained(
    architecture: Any, folder: Path, config: Any, dtype: torch.dtype
) -> tuple[nn.Module, dict[str, Any]]:
    try:
        with _quiet():
            return architecture.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors raise many kinds; all mean that the folder is not right
        raise FormatError(f"the weights in {folder} cannot be read: {_first_line(error)}") from error


def _check_complete(report: dict[str, Any], folder: Path) -> None:
    wrong = sorted(map(str, report.get("missing_keys", ()))) + sorted(map(str, report.get("mismatched_keys", ())))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise FormatError(
            f"{folder} lacks weights of its own architecture (or has them in another shape): "
            f"{', '.join(wrong[:3])}{more}. They would be random numbers; complete the folder first."
        )


def _say_unused(report: dict[str, Any], folder: Path) -> None:
    if unused := sorted(map(str, report.get("unexpected_keys", ()))):
        warnings.warn(
            f"{folder} holds {len(unused)} weights that its architecture does not use, such as {unused[0]}; "
            f"is it the architecture that 'architectures' in config.json should name?",
            DthetaWarning,
            stacklevel=3,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' report of weights and its progress bar: what matters in it we say ourselves."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
