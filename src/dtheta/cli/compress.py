"""Compress a delta to signs and scales (ComPEFT), or a model by replacing its MLPs (--method snnk).

Of a delta the largest entries keep their sign and share one magnitude; the file takes little more than their entropy.
Of an adapter the entries of its two factors are compressed, as in the paper. Where these mean nothing one by one, since
the change is a difference of products (PiSSA, SORSA), its balanced factors are, and it is said. A classifier's head
stays as it is unless --keep says otherwise.

With --search, density and alpha are chosen by accuracy on labeled texts that the training of the delta has not seen,
and the accuracy before and after is told on test texts that did not choose. --density and --alpha, given several times,
are then the grid.

With --method snnk a model is given in place of a delta. Its MLPs are replaced by narrower ones, fitted in closed form
to what they do on the texts of --data, and the replacement is written as a delta to be attached; error, numbers held,
and time at several batch sizes are told, and where it does not pay. --judge tells the accuracy of a classifier's delta
before and after; of a language model the perplexity is told.

  dtheta compress news.delta --out small.delta --density 0.05
  dtheta compress bbc.delta --out small.delta --search
  dtheta compress mine.delta --out small.delta --search --data reviews.csv --label stars --model base/
  dtheta compress minilm --method snnk --data bbc --width 192 --out narrow.delta
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

from dtheta.cli.console import Console
from dtheta.cli.idle import refuse_idle
from dtheta.cli.options import CommonOptions, Flag, Place


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta compress``."""

    delta: Annotated[Path, Place("a .delta file; with --method snnk a model: NAME or folder")]
    method: Annotated[
        Literal["compeft", "snnk"], Flag("compeft: signs and scales of a delta; snnk: replace a model's MLPs")
    ] = "compeft"
    out: Annotated[Path, Flag("the file to write", "FILE")] = Path("compressed.delta")
    density: Annotated[tuple[float, ...], Flag("share of the entries to keep (0.1; a grid with --search)")] = ()
    scale: Annotated[
        Literal["mean-abs", "alpha-sigma", "least-squares"] | None,
        Flag("the magnitude that goes with the signs (mean-abs; alpha-sigma with --search)"),
    ] = None
    alpha: Annotated[tuple[float, ...], Flag("multiplies the scale (1; a grid with --search)")] = ()
    per: Annotated[Literal["delta", "tensor", "row"], Flag("what has a density and a scale of its own")] = "delta"
    of: Annotated[
        Literal["auto", "factors", "balanced", "product"],
        Flag("what of low-rank changes: auto takes the factors where they can be, else balanced ones"),
    ] = "auto"
    keep: Annotated[
        str, Flag("leave these exactly as they are; auto is a classifier's head, none is nothing", "GLOB")
    ] = "auto"
    new: Annotated[bool, Flag("compress vectors that the base does not have (prompts), too")] = False
    search: Annotated[bool, Flag("choose density and alpha by accuracy on labeled texts")] = False
    data: Annotated[
        str | None,
        Flag(
            "labeled texts to search by (default: the packaged task the delta names); snnk: texts to fit to",
            "FILE|TASK",
        ),
    ] = None
    text: Annotated[str, Flag("column of the texts", "COLUMN")] = "text"
    label: Annotated[str | None, Flag("column of the classes ('label' without it)", "COLUMN")] = None
    encoding: Annotated[str, Flag("encoding of the file: utf-8, latin-1, utf-16, ...", "NAME")] = "utf-8"
    validate: Annotated[int, Flag("texts to search by; training has seen none of them")] = 200
    model: Annotated[
        str | None, Flag("the base, where a search or singular values need it (default: the one it names)", "NAME|DIR")
    ] = None
    width: Annotated[int | None, Flag("snnk: neurons, random features, or rank, that an MLP is replaced by")] = None
    variant: Annotated[
        Literal["own-neurons", "own-random", "random", "low-rank"],
        Flag("snnk: the MLP's own neurons, chosen for its output or drawn; random features; matrices of low rank"),
    ] = "own-neurons"
    skip: Annotated[bool, Flag("snnk: a linear path beside the neurons; --no-skip does without")] = True
    sequential: Annotated[
        bool, Flag("snnk: fit later MLPs with earlier ones replaced; --no-sequential fits each by itself")
    ] = True
    select: Annotated[str | None, Flag("snnk: which MLPs, such as '@mlp#2-5' (default: all)", "PATTERN")] = None
    texts: Annotated[int, Flag("snnk: texts to fit to; errors are measured on a quarter as many others")] = 128
    max_length: Annotated[int, Flag("snnk: tokens of a text")] = 128
    judge: Annotated[
        Path | None, Flag("snnk: a classifier's delta on this model, whose accuracy is told before and after", "DELTA")
    ] = None


# which options each method has beside those of both
OF_SNNK = ("width", "variant", "skip", "sequential", "select", "texts", "max_length", "judge")
OF_BOTH = ("delta", "out", "method", "data", "text", "label", "encoding")


def run(options: Options, console: Console) -> int:
    """Compress, measure and save.

    Raises:
        ConfigError: For an option of the other method.
    """
    common = {f.name for f in dataclasses.fields(CommonOptions)}
    own = [f.name for f in dataclasses.fields(Options) if f.name not in (*common, *OF_BOTH)]
    foreign = [name for name in own if (name in OF_SNNK) != (options.method == "snnk")]
    refuse_idle(options, foreign, f"does nothing with --method {options.method}; leave it out")
    return import_module("dtheta.cli.compress_mlps" if options.method == "snnk" else "dtheta.cli.compress_delta").run(
        options, console
    )
