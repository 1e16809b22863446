"""Check the installation, the cache and one exact round trip.

Every line is one check: ok, a note (something optional is absent), or broken. The exit code is 1 if anything is broken.

  dtheta doctor
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dtheta._version import __version__
from dtheta.cli.console import Console, Table
from dtheta.cli.options import CommonOptions
from dtheta.cli.plan import Plan, free_space
from dtheta.cli.units import byte_size
from dtheta.errors import DthetaError

State = Literal["ok", "note", "broken"]
_ROOM = 1e9  # bytes that the packaged models and data take, unpacked, with some air


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta doctor``."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    check: str
    state: State
    detail: str


def run(options: Options, console: Console) -> int:
    """Run all checks."""
    if options.dry_run:
        Plan({"installed packages": None, "cache": None}, {"cache: a file, removed at once": 8}, seconds=10).show(
            console
        )
        return 0
    checks = (_python, _packages, _torch, _extras, _cache, _models_and_data, _round_trip)
    found = [finding for check in checks for finding in _guarded(check)]
    broken = [finding for finding in found if finding.state == "broken"]
    table = Table(("check", "state", "detail"), [(f.check, f.state, f.detail) for f in found])
    end = f"{len(broken)} broken" if broken else "all is well"
    console.result({"version": __version__, "ok": not broken, "checks": [asdict(f) for f in found]}, [table, "", end])
    return 1 if broken else 0


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return what a check finds; a check that falls over is a finding too."""
    try:
        return list(check())
    except Exception as error:  # whatever is wrong here is what the user came to hear
        name = check.__name__.removeprefix("_").replace("_", " ")
        return [Finding(name, "broken", f"{type(error).__name__}: {error}")]


def _python() -> Iterator[Finding]:
    fine = sys.version_info >= (3, 11)
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield Finding("python", "ok" if fine else "broken", detail if fine else f"{detail}; 3.11 or newer is needed")


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what this version requires."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("dtheta") or []]
    except PackageNotFoundError:
        yield Finding(
            "packages", "note", "dtheta runs from its sources and is not installed; versions are not compared"
        )
        return
    wanted = [w for w in wanted if w.marker is None or w.marker.evaluate({"extra": ""})]
    for want in wanted:
        try:
            found = version(want.name)
        except PackageNotFoundError:
            yield Finding(want.name, "broken", f"not installed; run: pip install '{want}'")
            continue
        if not want.specifier.contains(found, prereleases=True):
            yield Finding(want.name, "broken", f"{found} is installed, {want.specifier} is needed")
    yield Finding("packages", "ok", f"dtheta {__version__} and {len(wanted)} requirements looked at")


def _torch() -> Iterator[Finding]:
    import torch

    gpu = f", {torch.cuda.device_count()} GPU" if torch.cuda.is_available() else ", no GPU"
    yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads{gpu}")


def _extras() -> Iterator[Finding]:
    from importlib.util import find_spec

    uses = {
        "text": (("transformers", "tokenizers", "gguf"), "models and texts"),
        "image": (("PIL",), "pictures"),
        "weather": (("xarray", "zarr"), "ensembles in zarr folders"),
        "secure": (("cryptography",), "secure sums of a federation"),
        "privacy": (("dp_accounting",), "differential privacy of a federation"),
        "federated": (("flwr",), "federations on other machines, in an environment of its own"),
        "quantum": (("pennylane",), "circuits of PennyLane"),
        "plot": (("matplotlib",), "figures for papers"),
        "parity": (("peft", "sklearn", "scipy"), "comparisons with other libraries"),
    }
    for extra, (modules, purpose) in uses.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            how = f"{', '.join(missing)} not installed (for {purpose}); run: pip install 'dtheta[{extra}]'"
            yield Finding(f"extra {extra}", "note", how)
        else:
            yield Finding(f"extra {extra}", "ok", f"{', '.join(modules)}: for {purpose}")


def _cache() -> Iterator[Finding]:
    from dtheta.core.cache import cache_dir

    folder = cache_dir()
    size = sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"dtheta\n")
            file.flush()
    except OSError as error:
        yield Finding(
            "cache", "broken", f"{folder} cannot be written: {error.strerror}; set DTHETA_CACHE to another folder"
        )
        return
    yield Finding("cache", "ok", f"{folder}, {byte_size(size)}, writable")
    free = free_space(folder)
    state: State = "ok" if free > _ROOM else "note"
    yield Finding("disk", state, f"{byte_size(free)} free" + ("" if state == "ok" else ", little for models and data"))


def _models_and_data() -> Iterator[Finding]:
    from dtheta.data.sources import SOURCES, is_fetched

    here = [name for name in SOURCES if is_fetched(name)]
    absent = [name for name in SOURCES if name not in here]
    state: State = "note" if absent else "ok"
    how = f"; not fetched yet: {', '.join(absent)} (python -m dtheta.data.fetch)" if absent else ""
    yield Finding("models, data", state, f"{len(here)} of {len(SOURCES)} packages in the cache{how}")


def _round_trip() -> Iterator[Finding]:
    """Adapt a small network, save, load and apply the delta, and compare every bit with what must come out."""
    import torch

    from dtheta.adapt.attach import attach
    from dtheta.adapt.pissa import PiSSA
    from dtheta.core.apply import applied
    from dtheta.core.files import load
    from dtheta.core.seeds import generator

    model = torch.nn.Linear(24, 16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(0, "doctor")))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapter = attach(model, PiSSA(rank=4))
    with torch.no_grad():
        for parameter in adapter.trainable().values():
            parameter.mul_(1.25)
    delta = adapter.delta()
    adapter.detach()
    with tempfile.TemporaryDirectory() as folder:
        again = load(delta.save(Path(folder) / "doctor.delta"))
    with applied(model, again):
        moved = not torch.equal(model.weight, before["weight"])
    same = all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    if not (moved and same and again.digest == delta.digest):
        raise DthetaError("a delta did not come back as it was saved, or the base not as it was before")
    yield Finding("round trip", "ok", "attach, save, load, apply and revert: every bit as it must be")
