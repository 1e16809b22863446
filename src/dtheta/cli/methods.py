"""List the methods: what each trains, how many weights on a model, how large its file is, and the paper.

The table is made from the registry, so it includes methods that other installed packages bring.

  dtheta methods
  dtheta methods --for smollm2 --rank 8
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from dtheta.cli.bases import base_path
from dtheta.cli.console import Console, Table
from dtheta.cli.options import CommonOptions, Flag
from dtheta.cli.plan import Plan, size_of
from dtheta.cli.units import byte_size, count, part
from dtheta.errors import DthetaError

if TYPE_CHECKING:
    from torch import nn

    from dtheta.adapt.method import Method


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta methods``."""

    for_: Annotated[str, Flag("count the weights on this model: a name of 'dtheta models', or a folder", "MODEL")] = (
        "minilm"
    )
    rank: Annotated[int, Flag("rank of the methods that have one")] = 16


def run(options: Options, console: Console) -> int:
    """Print the table."""
    from dtheta.core.arguments import whole
    from dtheta.models.zoo import model_folder

    whole(options.rank, "rank", least=1)
    if options.dry_run:
        place = base_path(options.for_, fetch=False)
        if place is not None:
            model_folder(place)
        Plan({f"model {options.for_}": size_of(place)}, seconds=5, settings=options.resolved()).show(console)
        return 0
    from dtheta.adapt.registry import method_names
    from dtheta.models.load import load_model

    model = load_model(options.for_)
    total = sum(p.numel() for p in model.parameters())
    rows = [_row(name, options.rank, model, total) for name in method_names()]
    cells = [
        (
            r["name"],
            r["trains"],
            "" if r["parameters"] is None else count(r["parameters"]),
            "" if r["share"] is None else part(r["share"]),
            "" if r["bytes"] is None else byte_size(r["bytes"]),
            r["paper"],
        )
        for r in rows
    ]
    title = f"on {options.for_} ({count(total)} weights), rank {options.rank} where there is one"
    headings = ("method", "what trains", "weights>", "share>", "file>", "arXiv")
    end = "\n".join(["", *(f"{r['name']}: not counted, {r['note']}" for r in rows if r["note"])]).rstrip()
    four_bits = _quantizations()
    record = {"model": options.for_, "weights": total, "rank": options.rank, "methods": rows, "quantize": four_bits}
    more = Table(
        ("for dt.quantize", "what it makes", "arXiv"), [(r["name"], r["makes"], r["paper"]) for r in four_bits]
    )
    console.result(record, [Table(headings, cells, title), *([end] if end else []), "", more])
    return 0


def _quantizations() -> list[dict[str, str]]:
    """Return what goes with ``dt.quantize`` in Python: four bits an element, and a delta that makes up for it."""
    from dtheta.adapt.qpissa import NF4, BestQ, LoftQ, QPiSSA

    return [{"name": q.__name__, "makes": q.summary, "paper": q.paper} for q in (QPiSSA, LoftQ, BestQ, NF4)]


def _row(name: str, rank: int, model: nn.Module, whole: int) -> dict[str, Any]:
    from dtheta.adapt.registry import method_class

    uncounted: dict[str, Any] = {"parameters": None, "share": None, "bytes": None}
    try:
        kind = method_class(name)
    except DthetaError as error:  # a package of another party that is broken; the rest is as it was
        return {"name": name, "trains": "", "paper": "", "note": str(error), "options": "", **uncounted}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    row = {"name": kind.__name__, "trains": kind.summary, "paper": kind.paper, "note": ""}
    row["options"] = ", ".join(f"{n}={f.default}" for n, f in fields.items() if n != "rank")
    try:
        parameters, nbytes = _size(kind(**({"rank": rank} if "rank" in fields else {})), model)
    except (DthetaError, TypeError) as error:  # a method of another package may need options that nobody gave
        return {**row, **uncounted, "note": str(error)}
    return {**row, "parameters": parameters, "share": parameters / whole, "bytes": nbytes}


def _size(method: Method, model: nn.Module) -> tuple[int, int]:
    """Return the trained weights and the bytes of the delta, from one site of each shape and all new vectors."""
    from dtheta.core.selection import Site, select

    alike: dict[tuple[Any, ...], list[Site]] = {}
    chosen = [] if method.new_vectors else select(model, method.default_select, matrices=method.matrices)
    for site in chosen:
        alike.setdefault((site.kind, site.shape, tuple(site.tensor.shape)), []).append(site)
    parameters = nbytes = 0
    for term in method.grafts(model, 0).values():
        parameters += sum(p.numel() for p in term.parameters() if p.requires_grad)
        nbytes += term.change().nbytes
    for sites in alike.values():
        (term,) = method.terms(sites[:1], 0).values()
        parameters += len(sites) * sum(p.numel() for p in term.parameters() if p.requires_grad)
        nbytes += len(sites) * term.change().nbytes
    return parameters, nbytes
