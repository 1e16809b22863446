"""Preflight: everything that can be wrong with a merge, found in headers before a tensor is read, and said at once.

names, shapes, dtypes      every input has the tensors of the base, in its shapes; or says which not, and what is near
methods and parameters     every one is resolved for every tensor
disk and memory            what will be read, written and held
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dtheta.compose.merge_forms import require_divisible, require_same_form
from dtheta.compose.merge_layout import Place, depths, numbered, sharded, stacked
from dtheta.compose.merge_parts import Model, Part
from dtheta.compose.merge_plan import MergeInput, MergePlan, filters_in, resolved
from dtheta.core.checkpoints import Checkpoint, open_checkpoint
from dtheta.core.header import Opened, open_delta
from dtheta.core.tensorfile import Entry
from dtheta.errors import ConfigError, DthetaError, did_you_mean

HELD = 24 << 20  # bytes for interpreter objects, tables of thresholds and what the allocator keeps
_SHOWN = 12  # problems that are spelled out


@dataclass
class Preflight:
    """A merge that is ready to be done, or why it is not.

    Attributes:
        plan: The plan.
        models: Every checkpoint and delta, opened, by its path.
        reference: The checkpoint that gives layout, configuration and tokenizer.
        shards: Parts by file, in the order in which they are written.
        problems: What is wrong.
        notes: What is right but worth knowing.
        layers: For stacked layers, the layer of the reference that each is called after.
        by_tensor: What is wrong with single tensors, and with which.
    """

    plan: MergePlan
    models: dict[Path, Model] = field(default_factory=dict)
    reference: Checkpoint | None = None
    shards: dict[str, list[Part]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    by_tensor: dict[str, list[str]] = field(default_factory=dict)

    def parts(self) -> Iterator[Part]:
        """Yield all parts."""
        for found in self.shards.values():
            yield from found

    @property
    def least(self) -> int:
        """Bytes of memory that the merge takes at least, beside what the process holds already."""
        return HELD + max((part.least() for part in self.parts()), default=0)

    @property
    def most(self) -> int:
        """Bytes of memory that it takes where there is room for whole inputs."""
        return HELD + max((part.least() + part.resident() for part in self.parts()), default=0)

    @property
    def writes(self) -> int:
        """Bytes of the tensors that are written."""
        return sum(part.nbytes for part in self.parts())

    @property
    def reads(self) -> int:
        """Bytes of the tensors that are read, each once."""
        sizes = {(id(m), name): m.info(name).nbytes for part in self.parts() for m, name in part.stored()}
        deltas = sum(model.header.nbytes for model in self.models.values() if isinstance(model, Opened))
        return sum(sizes.values()) + deltas

    def require(self, max_memory: int | None = None) -> None:
        """Raise if the merge cannot be done.

        Raises:
            ConfigError: Naming every problem, or the memory that is needed.
        """
        problems = [*self.problems, *(_of_tensors(*item) for item in self.by_tensor.items())]
        if problems:
            shown = problems[:_SHOWN]
            more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
            raise ConfigError("\n  ".join(["this merge cannot be done; nothing was read or written:", *shown, *more]))
        if max_memory is not None and max_memory < self.least:
            raise ConfigError(
                f"the merge takes {self.least:,} bytes of memory at least and may have {max_memory:,}; allow it more"
            )


def _of_tensors(problem: str, names: Sequence[str]) -> str:
    more = f" (and {len(names) - 1} more tensors like it)" if len(names) > 1 else ""
    return f"{names[0]}: {problem}{more}"


def preflight(plan: MergePlan) -> Preflight:
    """Return what a merge is made of, and everything that is wrong with it; only headers are read.

    Raises:
        ConfigError: If this is no plan.
    """
    if not isinstance(plan, MergePlan):
        raise ConfigError(f"the plan is a {type(plan).__name__}; make one by dt.read_plan(path) or dt.merge_plan(...)")
    found = Preflight(plan)
    _open(found)
    _check_inputs(found)
    if found.problems:
        return found
    _assign(found)
    _note(found)
    return found


def _note(found: Preflight) -> None:
    """Say which parameters were given and change nothing."""
    rule = found.plan.rule
    if any(part.shared.get("int8_mask") for part in found.parts()):
        found.notes.append("int8_mask is not needed here and changes nothing: masks are never held whole")
    if rule.trim is None and any(density < 1 for part in found.parts() for density in part.each.get("density", ())):
        found.notes.append(
            f"density changes nothing: {rule.name} keeps every entry; ties, dare_linear or breadcrumbs trim"
        )
    if rule.trim is None and any(part.shared.get("rescale") for part in found.parts()):
        found.notes.append(f"rescale changes nothing: {rule.name} keeps every entry, so that no magnitude is lost")
    found.notes += _idle_filters(found)


def _idle_filters(found: Preflight) -> list[str]:
    """Say which filters fit no tensor, so that what they set holds nowhere."""
    named = {name for part in found.parts() for name in (part.name, *(n for _, n in part.inputs if n is not None))}
    settings = [setting for scope in _scopes(found.plan) for setting in scope.values()]
    idle = dict.fromkeys(text for setting in settings for text in filters_in(setting) if not _fits(text, named))
    words = {word for name in named for word in name.split(".") if not word.isdigit()}
    why = "changes nothing: no tensor has it in its name"
    return [f"filter {text!r} {why}{did_you_mean(text, words)}" for text in idle]


def _fits(text: str, names: Iterable[str]) -> bool:
    return any(text in name for name in names)


def _open(found: Preflight) -> None:
    for path in found.plan.models():
        try:
            found.models[path] = open_delta(path) if path.suffix == ".delta" else open_checkpoint(path)
        except DthetaError as error:
            found.problems.append(str(error))


def _check_inputs(found: Preflight) -> None:
    """Look at what can be seen without tensors: the method, numbers of inputs, the base."""
    plan, problems = found.plan, found.problems
    try:
        rule = plan.rule
    except ConfigError as error:
        problems.append(str(error))
        return
    if not plan.slices:
        problems.append("there is nothing to merge: the plan has no inputs")
    if rule.base and plan.base is None:
        problems.append(f"{rule.name} works on steps from a base; name it as base_model")
    if isinstance(found.models.get(plan.base or Path()), Opened):
        problems.append(f"{plan.base} is a .delta file; the base must be a checkpoint")
    low, high = rule.inputs
    for i, part in enumerate(plan.slices):
        names = [item.model for item in part.inputs]
        count = len([name for name in names if not (rule.base and name == plan.base)])
        where = f"slice {i}: " if len(plan.slices) > 1 else ""
        if count < low or (high is not None and count > high):
            beside = " beside the base" if rule.base else ""
            wanted = f"{low}" if low == high else f"at least {low}"
            problems.append(f"{where}{rule.name} takes {wanted} inputs{beside}, found {count}")
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            problems.append(f"{where}{twice[0]} is listed twice; give it once, with the sum of its weights")
        if plan.base is None and any(isinstance(found.models.get(name), Opened) for name in names):
            problems.append(f"{where}a .delta file says what changed of a base; name it as base_model")
        if len({item.layers and item.layers[1] - item.layers[0] for item in part.inputs}) > 1:
            problems.append(f"{where}its inputs have different numbers of layers; make the layer_ranges equally long")
    for key in sorted({name for scope in _scopes(plan) for name in scope} - set(rule.parameters)):
        problems.append(f"{rule.name} has no parameter {key!r}{did_you_mean(key, rule.parameters)}")
    first = plan.base or (plan.slices[0].inputs[0].model if plan.slices and plan.slices[0].inputs else None)
    reference = found.models.get(first) if first is not None else None
    found.reference = reference if isinstance(reference, Checkpoint) else None


def _scopes(plan: MergePlan) -> Iterator[Mapping[str, Any]]:
    yield plan.parameters
    for part in plan.slices:
        yield part.parameters
        for item in part.inputs:
            yield item.parameters


def _assign(found: Preflight) -> None:
    plan, reference = found.plan, found.reference
    if reference is None:
        return
    if not plan.stacked:
        _require_same_names(found, reference)
        depth = depths(reference)
        for shard, file in reference.shards.items():
            places = [Place(name, plan.slices[0], None, depth[name]) for name in file.entries]
            found.shards[shard] = list(filter(None, (_part(found, place) for place in places)))
        return
    places, found.layers = stacked(reference, plan.slices, found.problems)
    parts = list(filter(None, (_part(found, place) for place in places)))
    found.shards = sharded(parts)


def _require_same_names(found: Preflight, reference: Checkpoint) -> None:
    """Say which inputs lack tensors of the reference, or have others; a delta may leave tensors alone."""
    for path, model in found.models.items():
        if model is reference:
            continue
        names = model.forms if isinstance(model, Opened) else model
        missing = [name for name in reference if name not in names]
        extra = [name for name in names if name not in reference]
        if missing and isinstance(model, Checkpoint):
            hint = did_you_mean(missing[0], extra)
            if "head" in missing[0] and not hint:
                hint = "; if it is tied to the embedding there, save that model with tie_word_embeddings off"
            first = f"{len(missing)} tensors of {reference.path}, first {missing[0]!r}{hint}"
            found.problems.append(f"{path}: lacks {first}")
        if extra:
            first = f"{len(extra)} tensors that {reference.path} lacks, first {extra[0]!r}"
            found.problems.append(f"{path}: has {first}{did_you_mean(extra[0], missing)}")


def _part(found: Preflight, place: Place) -> Part | None:
    """Return what a tensor is made of; None, with the reason among the problems, if it cannot be."""
    plan = found.plan
    rule, part = plan.rule, place.slice
    sources = [(i, item) for i, item in enumerate(part.inputs) if not (rule.base and item.model == plan.base)]
    named: list[tuple[Model, str | None]] = []
    for _, item in sources:
        named.append((found.models[item.model], _name_in(found, item, place)))
    base = _base(found, place, sources[0][1] if sources else None)
    if any(name is None and isinstance(model, Checkpoint) for model, name in named):
        return None
    try:
        require_same_form(place.name, base, named)
        scopes = (part.parameters, plan.parameters)
        shared = {
            key: resolved(key, parameter, scopes, place.name, place.t)
            for key, parameter in rule.parameters.items()
            if not parameter.each
        }
        each = {
            key: tuple(
                resolved(key, parameter, (item.parameters, *scopes), name or place.name, place.t)
                for (_, item), (_, name) in zip(sources, named, strict=True)
            )
            for key, parameter in rule.parameters.items()
            if parameter.each
        }
        require_divisible(rule.name, shared, each)
    except ConfigError as error:
        found.by_tensor.setdefault(str(error), []).append(place.name)
        return None
    info = _entry(base) or next(_entry(item) for item in named if isinstance(item[0], Checkpoint))
    assert info is not None  # every input is a checkpoint where there is no base
    dtype = plan.dtype if plan.dtype is not None and info.dtype.is_floating_point else info.dtype
    return Part(place.name, dtype, info.shape, base, tuple(named), tuple(i for i, _ in sources), each, shared)


def _entry(item: tuple[Model, str | None] | None) -> Entry | None:
    if item is None or item[1] is None or not isinstance(item[0], Checkpoint):
        return None
    return item[0].info(item[1])


def _name_in(found: Preflight, item: MergeInput, place: Place) -> str | None:
    """Return the name of a tensor in one of its inputs; None where a delta leaves it alone, or it is missing."""
    name = place.name
    if place.offset is not None and item.layers is not None:
        name = numbered(name, item.layers[0] + place.offset)
    model = found.models[item.model]
    if isinstance(model, Opened):
        return name if name in model.forms else None
    if name not in model:
        if found.plan.stacked:
            found.problems.append(f"{item.model}: lacks {name!r}{did_you_mean(name, model)}")
        return None
    return name


def _base(found: Preflight, place: Place, like: MergeInput | None) -> tuple[Checkpoint, str] | None:
    """Return the base's tensor: of the base's own range if it is an input, else of the first input's."""
    plan = found.plan
    if plan.base is None:
        return None
    model = found.models[plan.base]
    own = next((item for item in place.slice.inputs if item.model == plan.base), like)
    name = place.name
    if place.offset is not None and own is not None and own.layers is not None:
        name = numbered(name, own.layers[0] + place.offset)
    if not isinstance(model, Checkpoint) or name not in model:
        found.problems.append(f"{plan.base}: lacks {name!r}")
        return None
    return model, name
