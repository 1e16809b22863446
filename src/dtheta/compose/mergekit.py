"""mergekit's YAML, read into a plan of our own.

    merge_method: ties                     one of merge_rules.RULES
    base_model: PATH                       a local folder or file; nothing is downloaded
    models: [{model: PATH, parameters: {...}}]            or
    slices: [{sources: [{model: PATH, layer_range: [a, b], parameters: {...}}], parameters: {...}}]
    parameters: {...}                      settings as merge_plan.py reads them
    dtype, out_dtype: float32 | float64 | bfloat16 | float16
    tokenizer_source: base                 the tokenizer is copied from the base; nothing else is done to it

A model may also be a ``.delta`` file of the base, which mergekit does not know. What the configuration asks for and is
not done here (other methods, tokens to be merged, LoRA on the fly) is refused, all of it at once, rather than ignored.

Three differences are meant. mergekit casts what it reads to ``dtype`` and computes in it; here every tensor is read as
it is stored, computed in float64 and rounded once, to ``out_dtype`` or else ``dtype`` or else the base's own: with
``dtype: float32`` the two agree up to mergekit's rounding. Its Breadcrumbs (0.1.4) keep nothing of a tensor so small
that gamma drops no entry, below 100 entries by default; here they keep what density says. Its draws for DARE come from
a global generator and cannot be had again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dtheta.compose.merge_plan import DTYPES, MergeInput, MergePlan, MergeSlice
from dtheta.compose.merge_rules import MergeRule, merge_rule
from dtheta.core.paths import expanded
from dtheta.core.tensorfile import existing
from dtheta.core.yamlfile import read_yaml
from dtheta.errors import ConfigError, did_you_mean
from dtheta.models.zoo import ZOO, model_folder

_KEYS = ("merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source")
_NOT_DONE = {
    "tokenizer": "tokens are not merged here; the base's tokenizer is copied. Remove it, or merge tokens first",
    "modules": "give the inputs as 'models' or 'slices'",
    "chat_template": "the base's is copied; edit tokenizer_config.json of the result instead",
}


def read_plan(path: str | os.PathLike[str], seed: int = 0) -> MergePlan:
    """Return the plan that a YAML file in mergekit's form describes.

    Args:
        path: The file; relative paths in it are taken from the current folder, or else from the file's;
            models known by name, such as minilm, may be named.
        seed: Key of the draws of DARE.

    Raises:
        ConfigError: If there is no such file or it is no YAML; or naming every entry that cannot be meant.
    """
    path = expanded(path)
    return plan_of(_document(path), path.parent, seed, str(path))


def plan_of(document: Mapping[str, Any], folder: Path | None = None, seed: int = 0, shown: str = "plan") -> MergePlan:
    """Return the plan that a configuration, read from YAML, describes; see ``read_plan``."""
    reading = _Reading(folder or Path())
    plan = reading.plan(document, seed)
    if reading.problems or plan is None:
        raise ConfigError("\n  ".join([f"{shown}: this is no merge that can be done:", *reading.problems]))
    return plan


class _Reading:
    """A configuration being read; what is wrong is collected, so that all of it can be said at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def plan(self, document: Mapping[str, Any], seed: int) -> MergePlan | None:
        known = (*_KEYS, *_NOT_DONE)
        for key, value in document.items():
            if key not in known:
                self.problems.append(f"unknown entry {key!r}{did_you_mean(str(key), known)}")
            elif key in _NOT_DONE and value is not None:
                self.problems.append(f"{key}: {_NOT_DONE[key]}")
        method = document.get("merge_method")
        rule = self.rule(method)
        if document.get("tokenizer_source") not in (None, "base"):
            self.problems.append(f"tokenizer_source: {document['tokenizer_source']!r}: {_NOT_DONE['tokenizer']}")
        parameters = self.settings(document.get("parameters"), "parameters", rule)
        slices = self.slices(document, rule)
        base = document.get("base_model")
        base = None if base is None else self.model(base, "base_model")
        dtype = self.dtype(document)
        return None if self.problems else MergePlan(str(method), slices, base, parameters, dtype, seed)

    def rule(self, method: Any) -> MergeRule | None:
        try:
            return merge_rule(method)
        except ConfigError as error:
            self.problems.append(str(error))
            return None

    def slices(self, document: Mapping[str, Any], rule: MergeRule | None) -> tuple[MergeSlice, ...]:
        models, parts = document.get("models"), document.get("slices")
        if (models is None) == (parts is None):
            self.problems.append("give either 'models' or 'slices'")
            return ()
        if models is not None:
            return (MergeSlice(self.inputs(models, "models", rule, ranged=False)),)
        found = []
        for i, part in enumerate(self.items(parts, "slices")):
            where = f"slices[{i}]"
            if self.keys(part, ("sources", "parameters"), where):
                inputs = self.inputs(part.get("sources"), f"{where}.sources", rule, ranged=True)
                found.append(MergeSlice(inputs, self.settings(part.get("parameters"), f"{where}.parameters", rule)))
        return tuple(found)

    def inputs(self, given: Any, where: str, rule: MergeRule | None, ranged: bool) -> tuple[MergeInput, ...]:
        found = []
        for i, item in enumerate(self.items(given, where)):
            here = f"{where}[{i}]"
            if not self.keys(item, ("model", "parameters", *(["layer_range"] if ranged else [])), here):
                continue
            layers = self.layers(item.get("layer_range"), here) if ranged else None
            settings = self.settings(item.get("parameters"), f"{here}.parameters", rule)
            found.append(MergeInput(self.model(item.get("model"), here), settings, layers))
        return tuple(found)

    def layers(self, given: Any, where: str) -> tuple[int, int]:
        whole = isinstance(given, list) and len(given) == 2 and all(type(n) is int for n in given)
        if not whole or not 0 <= given[0] < given[1]:
            self.problems.append(f"{where}: layer_range must be [first, one after the last], found {given!r}")
            return 0, 1
        return given[0], given[1]

    def model(self, given: Any, where: str) -> Path:
        """Return the place of a model: a path, or a name of ``dtheta models``."""
        if isinstance(given, Mapping):  # mergekit's long form: {model: {path: ...}}
            inner = given.get("model", given)
            given = inner.get("path") if isinstance(inner, Mapping) and set(inner) == {"path"} else str(given)
        if not isinstance(given, str) or not given:
            self.problems.append(f"{where}: a model must be a path, found {given!r}")
            return Path()
        try:
            here = expanded(given)
        except ConfigError as error:
            self.problems.append(f"{where}: {error}")
            return Path()
        beside = self.folder / here
        there = os.path.exists(here)  # which is false of a name that no system takes; Path.exists raises
        if there or not os.path.exists(beside):
            if not there and given in ZOO:
                return model_folder(given)
            if not there:
                self.problems.append(f"{where}: {_absent(given)}")
            return here
        return beside

    def settings(self, given: Any, where: str, rule: MergeRule | None) -> dict[str, Any]:
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            self.problems.append(f"{where} must be a table, found {given!r:.80}")
            return {}
        if rule is not None:
            for name in given:
                if name not in rule.parameters:
                    near, known = did_you_mean(str(name), rule.parameters), ", ".join(rule.parameters)
                    self.problems.append(f"{where}: {rule.name} has no {name!r}{near}; it has {known}")
        return dict(given)

    def dtype(self, document: Mapping[str, Any]) -> torch.dtype | None:
        for key in ("dtype", "out_dtype"):
            name = document.get(key)
            if name is not None and str(name) not in DTYPES:
                self.problems.append(f"{key} must be one of {', '.join(DTYPES)}, found {name!r}")
        name = document.get("out_dtype") or document.get("dtype")
        return DTYPES.get(name) if isinstance(name, str) else None

    def items(self, given: Any, where: str) -> list[Any]:
        if not isinstance(given, list) or not given:
            self.problems.append(f"{where} must be a list of at least one, found {given!r:.80}")
            return []
        return given

    def keys(self, item: Any, known: tuple[str, ...], where: str) -> bool:
        if not isinstance(item, Mapping):
            self.problems.append(f"{where} must be a table, found {item!r:.80}")
            return False
        for key in item:
            if key not in known:
                self.problems.append(f"{where}: unknown entry {key!r}{did_you_mean(str(key), known)}")
        return True


def _absent(given: str) -> str:
    if "+" in given:
        return f"there is nothing at {given!r}; a LoRA is not merged on the fly: 'dtheta extract' makes a .delta of it"
    path = expanded(given)
    near = did_you_mean(path.name, os.listdir(path.parent)) if os.path.isdir(path.parent) else ""
    return f"there is nothing at {given!r}{near}; models are read from local folders, nothing is downloaded"


def _document(path: Path) -> Mapping[str, Any]:
    document = read_yaml(existing(path), "merge configuration")
    if not isinstance(document, Mapping):
        raise ConfigError(f"{path} must be a merge configuration, such as 'merge_method: ties'; found {document!r:.80}")
    return document
