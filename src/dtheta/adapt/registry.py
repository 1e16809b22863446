"""The methods by name: ours listed here, others by the entry-point group ``dtheta.methods``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from dtheta.adapt.method import Method
from dtheta.errors import ConfigError, did_you_mean

BUILT_IN = {
    "LoRA": "dtheta.adapt.lora",
    "PiSSA": "dtheta.adapt.pissa",
    "SORSA": "dtheta.adapt.sorsa",
    "CLIPSVD": "dtheta.adapt.clip_svd",
    "Full": "dtheta.adapt.full",
    "BitFit": "dtheta.adapt.bitfit",
    "SNNK": "dtheta.adapt.snnk",
    "Houlsby": "dtheta.adapt.houlsby",
    "PromptTuning": "dtheta.adapt.prompts.tuning",
    "DePT": "dtheta.adapt.prompts.dept",
    "ADePT": "dtheta.adapt.prompts.adept",
    "PTuning": "dtheta.adapt.prompts.p_tuning",
    "PrefixTuning": "dtheta.adapt.prompts.prefix_tuning",
    "CoOp": "dtheta.adapt.prompts.coop",
    "CoCoOp": "dtheta.adapt.prompts.cocoop",
    "VPT": "dtheta.adapt.prompts.vpt",
    "UPT": "dtheta.adapt.prompts.upt",
}


def method_names() -> list[str]:
    """Return the names of all methods, built-in first."""
    return [*BUILT_IN, *sorted(point.name for point in entry_points(group="dtheta.methods"))]


def method_class(name: str) -> type[Method]:
    """Return the class of a method; case does not matter.

    Raises:
        ConfigError: For an unknown name, or an outside method that does not load.
    """
    same = {known.lower(): known for known in BUILT_IN}
    if name.lower() in same:
        known = same[name.lower()]
        return getattr(import_module(BUILT_IN[known]), known)
    for point in entry_points(group="dtheta.methods"):
        if point.name.lower() == name.lower():
            return _outside(point)
    near = did_you_mean(name.lower(), (known.lower() for known in method_names()))
    for known in method_names():
        near = near.replace(repr(known.lower()), repr(known))
    raise ConfigError(f"unknown method {name!r}{near}; 'dtheta methods' lists them")


def _outside(point: object) -> type[Method]:
    try:
        cls = point.load()  # type: ignore[attr-defined]
    except Exception as error:
        raise ConfigError(f"the outside method {point.name!r} does not load: {error}") from error  # type: ignore[attr-defined]
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise ConfigError(f"the outside method {point.name!r} is not a dtheta Method")  # type: ignore[attr-defined]
    return cls
