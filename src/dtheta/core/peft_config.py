"""peft's adapter_config.json, as far as it describes plain LoRA: W + c B A with the base left as it is.

    c = alpha / r,   or alpha / sqrt(r) with use_rslora;   rank_pattern and alpha_pattern give r and alpha by module

peft knows dozens of variants under the same type "LORA". Each field is either understood here, known not to matter, or
the folder is refused by the name of that field: an adapter read as something that it is not would be silently wrong.

A pattern in the file is a regular expression from outside. Those that could backtrack without end are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dtheta.core.tensorfile import parse_json
from dtheta.errors import FormatError, UnsupportedLayer

CONFIG = "adapter_config.json"
_LARGEST = 16 << 20  # bytes; peft's own are below 100 kB
_LARGEST_SCALE = 3.4e38  # about the largest float32: a scale is multiplied with factors of that precision
_LONGEST_NAME = 128
_MOST_STEPS = 2e7  # a few tenths of a second

# Fields that say nothing about the displacement.
_IMMATERIAL = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "fan_in_fan_out", "megatron_core", "qalora_group_size", "eva_config"),
    *("corda_config", "lora_ga_config", "loftq_config", "runtime_config", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "parent_library", "peft_library_version", "ensure_weight_tying"),
}
_READ = {
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "modules_to_save"),
    *("init_lora_weights", "bias", "lora_dropout", "target_parameters"),
}
_VARIANTS = {
    "use_dora": "DoRA rescales every row of the weight, which is no low-rank displacement; merge it in peft and use "
    "dt.extract(base, merged, rank=...)",
    "lora_bias": "a bias on the factor B moves the layer's bias too; merge it in peft and use dt.extract(base, merged)",
    "trainable_token_indices": "trained token rows come beside the factors; merge it in peft and use "
    "dt.extract(base, merged)",
    "layer_replication": "the adapter was made for a model with repeated layers, another model than its base",
    "alora_invocation_tokens": "activated LoRA switches on within the text, so it is no displacement of the weights",
    "kasa_config": "KaSA changes the base when it loads, so the factors are relative to another base",
    "megatron_config": "the factors are split over Megatron's ranks; export them with peft first",
}
_BIASES = (None, "none", "all", "lora_only")
_UNTOUCHED_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class PeftConfig:
    """What adapter_config.json says about the displacement.

    Attributes:
        rank: r where no pattern says otherwise.
        alpha: Likewise.
        rslora: Whether c = alpha / sqrt(r).
        rank_pattern: r by regular expression over module names.
        alpha_pattern: Likewise alpha.
        targets: Module names, or one regular expression; None where the architecture decides, or where matching the
            expression could take for ever (then the tensors in the file say alone which modules are meant).
        parameters: Names of bare parameters with factors, such as experts; see ``peft_stacks``.
        modules_to_save: Modules stored in full.
        bias: Which biases trained as well: "none", "all", or those of modules with factors, "lora_only".
        init: How the factors started.
        dropout: Probability of dropping inputs of the factors while training.
        raw: The whole file.
    """

    rank: int
    alpha: float
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    targets: tuple[str, ...] | str | None = None
    parameters: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    bias: str = "none"
    init: Any = True
    dropout: float = 0.0
    raw: Mapping[str, Any] = field(default_factory=dict)

    def rank_of(self, path: str) -> int:
        """Return r of a module."""
        return _matched(self.rank_pattern, path, self.rank)

    def scale_of(self, path: str) -> float:
        """Return c of a module."""
        rank, alpha = self.rank_of(path), _matched(self.alpha_pattern, path, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def names(self, path: str) -> bool | None:
        """Tell whether the target modules name a module; None where they leave that open."""
        if self.targets is None:
            return None
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, path) is not None
        return any(is_called(path, target) for target in self.targets)

    def narrows(self) -> bool:
        """Tell whether other fields take modules away from those that the targets name."""
        return any(self.raw.get(name) for name in ("exclude_modules", "modules_to_save")) or (
            self.raw.get("layers_to_transform") not in (None, [])
        )


def is_called(path: str, target: str) -> bool:
    """Tell whether a target that is no expression means this path: it is the path, or the end of it after a dot."""
    return path == target or path.endswith(f".{target}")


def _matched(patterns: Mapping[str, Any], path: str, default: Any) -> Any:
    """Return the entry of the first pattern that is the path, or the end of it after a dot."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def read_config(folder: Path) -> PeftConfig:
    """Read and check a folder's adapter_config.json.

    Raises:
        FormatError: If it is missing or damaged, or holds a value that cannot be meant.
        UnsupportedLayer: If it is not plain LoRA; the message names the field.
    """
    raw = _read_json(folder / CONFIG)
    _refuse_variants(raw)
    _refuse_unknown(raw)
    where = folder / CONFIG
    targets = raw.get("target_modules")
    return PeftConfig(
        rank=_rank(raw.get("r", 8), "r", where),
        alpha=_number(raw.get("lora_alpha", 8), "lora_alpha", where),
        rslora=_flag(raw, "use_rslora", where),
        rank_pattern=_patterns(raw, "rank_pattern", _rank, where),
        alpha_pattern=_patterns(raw, "alpha_pattern", _number, where),
        targets=_expression(targets, where) if isinstance(targets, str) else _strings(raw, "target_modules", where),
        parameters=_strings(raw, "target_parameters", where) or (),
        modules_to_save=_strings(raw, "modules_to_save", where) or (),
        bias=raw.get("bias") or "none",
        init=raw.get("init_lora_weights", True),
        dropout=_probability(raw.get("lora_dropout"), "lora_dropout", where),
        raw=raw,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise FormatError(f"{path} is larger than {_LARGEST >> 20} MiB: not a peft configuration")
        raw = parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise FormatError(
            f"{path} cannot be read ({error.strerror or error}); expected the configuration of a peft adapter"
        ) from None
    if not isinstance(raw, dict) or "peft_type" not in raw:
        raise FormatError(f"{path} is not a peft configuration: it has no field 'peft_type'")
    return raw


def _refuse_variants(raw: Mapping[str, Any]) -> None:
    if raw["peft_type"] != "LORA":
        raise UnsupportedLayer(
            f"this peft adapter is of type {raw['peft_type']!r}, and dtheta reads 'LORA' only; merge it in peft "
            "(merge_and_unload) and use dt.extract(base, merged)"
        )
    if raw.get("bias") not in _BIASES:
        raise UnsupportedLayer(
            f"this peft adapter trained biases in a way that dtheta does not know (bias={raw['bias']!r}); merge it in "
            "peft and use dt.extract(base, merged)"
        )
    for name, reason in _VARIANTS.items():
        if raw.get(name):
            raise UnsupportedLayer(f"this peft adapter sets {name}, which is not plain LoRA: {reason}")
    init = raw.get("init_lora_weights", True)
    if init not in _UNTOUCHED_BASE and not str(init).startswith("pissa"):
        raise UnsupportedLayer(
            f"this peft adapter started with init_lora_weights={init!r}, which changes the base: its factors belong to "
            "another base than yours. Convert it in peft: save_pretrained(folder, "
            "path_initial_model_for_weight_conversion=...)"
        )


def _refuse_unknown(raw: Mapping[str, Any]) -> None:
    for name, value in raw.items():
        if name not in _IMMATERIAL | _READ | set(_VARIANTS) and value not in (None, False, [], {}):
            raise UnsupportedLayer(
                f"this peft adapter sets {name!r}, a variant of LoRA that dtheta does not know; merge it in peft "
                "(merge_and_unload) and use dt.extract(base, merged)"
            )


def _rank(value: Any, name: str, where: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise FormatError(f"{where}: {name} must be a positive whole number, found {str(value)[:40]}")
    return value


def _number(value: Any, name: str, where: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_LARGEST_SCALE <= value <= _LARGEST_SCALE:
        raise FormatError(f"{where}: {name} must be a number that float32 holds, found {str(value)[:40]}")
    return value


def _probability(value: Any, name: str, where: Path) -> float:
    value = 0.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise FormatError(f"{where}: {name} must be a probability in [0, 1), found {str(value)[:40]}")
    return float(value)


def _flag(raw: Mapping[str, Any], name: str, where: Path) -> bool:
    value = raw.get(name)
    if value is not None and not isinstance(value, bool):
        raise FormatError(f"{where}: {name} must be true or false, found {str(value)[:40]}")
    return bool(value)


def _patterns(raw: Mapping[str, Any], name: str, check: Any, where: Path) -> dict[str, Any]:
    table = raw.get(name) or {}
    if not isinstance(table, dict):
        raise FormatError(f"{where}: {name} must be a table of patterns, found {table!r}")
    return {_checked(pattern, where): check(value, f"{name}[{pattern!r}]", where) for pattern, value in table.items()}


def _strings(raw: Mapping[str, Any], name: str, where: Path) -> tuple[str, ...] | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError(f"{where}: {name} must be a list of module names, found {value!r}")
    return tuple(value)


def _expression(targets: str, where: Path) -> str | None:
    """Return the regular expression of the target modules, or None for a shorthand or one too costly to match."""
    cheap = targets != "all-linear" and _steps(_compiles(targets, where)) <= _MOST_STEPS
    return targets if cheap else None


def _compiles(pattern: str, where: Path) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise FormatError(f"{where}: the pattern {pattern[:80]!r} is no regular expression: {error}") from None
    return pattern


def _checked(pattern: str, where: Path) -> str:
    """Return a regular expression that compiles and cannot backtrack for long.

    Raises:
        FormatError: For any other.
    """
    if _steps(_compiles(pattern, where)) > _MOST_STEPS:
        raise FormatError(
            f"{where}: the pattern {pattern[:80]!r} could take for ever to match: it repeats a group, or has too many "
            "open repetitions and choices; write it simpler"
        )
    return pattern


def _steps(pattern: str) -> float:
    """Return a bound on the steps that matching one module name can take; infinite where it may grow exponentially."""
    plain = re.sub(r"\\[^0-9]|\[[^]]*\]", "x", pattern)
    if re.search(r"\)\s*[*+{]|\\", plain):  # a repeated group, or a back reference
        return math.inf
    loops = len(re.findall(r"[*+]|\{\d*,\d*\}", plain))
    optional = len(re.findall(r"(?<![*+?}(])\?", plain))
    choices, open_groups = [1], [0]
    for sign in plain:
        if sign == "(":
            open_groups.append(len(choices))
            choices.append(1)
        elif sign == ")" and len(open_groups) > 1:
            open_groups.pop()
        elif sign == "|":
            choices[open_groups[-1]] += 1
    return math.comb(_LONGEST_NAME + loops, loops) * 2.0 ** min(optional, 99) * math.prod(choices)
