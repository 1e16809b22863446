"""Train one delta over parties that keep their data, over classical or quantum channels.

The data of one table are cut into parties, or every --party is a file. A table of numbers gets a small classifier,
quantum by default; texts get a pretrained encoder and any method of 'dtheta methods'. Each round the server sends the
global delta, each party trains on top of it, and what it learned goes back through a codec and a channel. Whoever
fails is left out of the round with a reason.

Parts are written NAME(field=value, ...), in YAML also as tables with a name. Their fields are those of the Python
classes, see docs/federate.md:

  --model          quantum(layers=8) program(layers=3) mlp(width=16) linear; or, for texts, a name of 'dtheta models'
  --partition      iid dirichlet(alpha=0.5) shards(each=2)
  --codec          exact dense(dtype=float16) ternary(density=0.05) top-k(density=0.01) sign low-rank(rank=4)
                   amplitude(shots=1000)
  --channel        classical(loss=0.1) quantum(kilometers=20, eavesdropper=intercept-resend(share=0.2))
  --server         FedAvg(lr=1) FedAvgM(momentum=0.9) FedAdam(lr=0.01) FedAdagrad FedYogi
  --aggregate      Mean TrimmedMean(share=0.2) Median Krum(bad=1) NormClip(limit=1, inner=Median)
  --privacy        clip=1, noise=0.5      or clip=1, epsilon=8
  --asynchronous   buffer=2, exponent=0.5
  --attack         sign-flip(clients=2) scaling(clients=1, factor=10) noise(clients=1)

An interrupted run leaves a folder beside the output, from which --resume goes on, bit for bit; --folder keeps it.

  dtheta federate --data iris --clients 3 --rounds 20 --report iris.html --baselines
  dtheta federate --data digits --partition "dirichlet(alpha=0.5)" --codec "ternary(density=0.3)"
  dtheta federate --party hospital_a.csv --party hospital_b.csv --label outcome --model "mlp(width=8)"
  dtheta federate --data bbc --method "LoRA(rank=8)" --clients 4 --rounds 10 --steps 5
  dtheta federate --config run.yaml --resume
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from dtheta.cli.console import Console
from dtheta.cli.idle import refuse_idle
from dtheta.cli.labeled import refuse_of_files
from dtheta.cli.options import CommonOptions, Flag, fields_of, parse
from dtheta.cli.places import require_distinct, require_outputs
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError, DthetaError, OutputError


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of ``dtheta federate``."""

    data: Annotated[str | None, Flag("a .csv, .tsv or .jsonl file, or the name of a packaged task", "FILE|TASK")] = None
    party: Annotated[
        tuple[Path, ...], Flag("a file with the data of one party, in place of --data; given once for each", "FILE")
    ] = ()
    test: Annotated[Path | None, Flag("a file to test on; else a fifth of the data is held out", "FILE")] = None
    text: Annotated[
        str | None, Flag("column of the texts ('text' if there is one); without it all columns hold numbers", "COLUMN")
    ] = None
    label: Annotated[str, Flag("column of the classes", "COLUMN")] = "label"
    encoding: Annotated[str, Flag("encoding of the files: utf-8, latin-1, utf-16, ...", "NAME")] = "utf-8"
    n_train: Annotated[int | None, Flag("how many texts to train on, over all parties; all without it")] = None
    n_test: Annotated[int | None, Flag("how many examples to test on")] = None
    standardize: Annotated[
        bool, Flag("give columns of numbers mean 0 and deviation 1 over all parties; never done to digits")
    ] = True
    clients: Annotated[int | None, Flag("parties that --data is cut into (default: 8)")] = None
    partition: Annotated[str, Flag("who gets which examples", "PART")] = "iid"
    model: Annotated[str | None, Flag("what is trained (default: quantum; minilm for texts)", "PART|NAME|DIR")] = None
    method: Annotated[
        str | None, Flag("what of it trains, as in 'LoRA(rank=8)' (default: Full; LoRA(rank=8) for texts)", "METHOD")
    ] = None
    max_length: Annotated[int, Flag("tokens kept of a text")] = 64
    pooling: Annotated[
        Literal["mean", "last"] | None, Flag("how a text's vector is pooled (default: by architecture)")
    ] = None
    rounds: Annotated[int, Flag("rounds; of an asynchronous federation, updates")] = 20
    steps: Annotated[int, Flag("optimizer steps of a client in a round")] = 5
    batch_size: Annotated[int, Flag("examples a step")] = 32
    lr: Annotated[float | None, Flag("clients' learning rate (default: by model, or by method)")] = None
    head_lr: Annotated[float, Flag("that of the head of a text classifier")] = 1e-3
    optimizer: Annotated[Literal["adamw", "sgd"], Flag("of the clients; its state does not outlive a round")] = "adamw"
    momentum: Annotated[float, Flag("of --optimizer sgd")] = 0.0
    proximal: Annotated[float, Flag("mu of FedProx: pulls clients to the global delta")] = 0.0
    codec: Annotated[str, Flag("how answers travel", "PART")] = "exact"
    downlink: Annotated[str | None, Flag("how updates travel to clients (default: exact)", "PART")] = None
    channel: Annotated[str, Flag("what everything travels through", "PART")] = "classical"
    server: Annotated[str, Flag("how the joined answers become a step", "PART")] = "FedAvg"
    aggregate: Annotated[str, Flag("how answers are joined", "PART")] = "Mean"
    sample: Annotated[float, Flag("share of the clients that is asked in a round")] = 1.0
    dropout: Annotated[float, Flag("probability that a client that was asked stays silent")] = 0.0
    privacy: Annotated[str | None, Flag("clip answers and add noise", "PART")] = None
    secure: Annotated[
        str | None, Flag("sum ternary answers under masks that hide each, as in scale=0.01, density=0.05", "PART")
    ] = None
    asynchronous: Annotated[str | None, Flag("go on as answers arrive, without rounds", "PART")] = None
    timeout: Annotated[float | None, Flag("seconds that a client has; each then runs in a process of its own")] = None
    min_clients: Annotated[int, Flag("fewest answers with which a round counts")] = 1
    patience: Annotated[int, Flag("skipped rounds in a row after which the federation is given up")] = 3
    attack: Annotated[str | None, Flag("let some clients lie, to see what the aggregate is worth", "PART")] = None
    evaluate_every: Annotated[int, Flag("rounds from one evaluation to the next")] = 1
    baselines: Annotated[
        bool, Flag("also train one party with all the data, and each party alone, for as many steps")
    ] = False
    out: Annotated[Path, Flag("the file to write", "FILE")] = Path("federated.delta")
    folder: Annotated[Path | None, Flag("keep the state of the run here (default: beside --out until done)", "DIR")] = (
        None
    )
    resume: Annotated[bool, Flag("go on with the interrupted run in the folder; --rounds may be more")] = False
    report: Annotated[
        Path | None, Flag("write a page with scores, traffic, exclusions, channel and privacy", "FILE")
    ] = None


def run(options: Options, console: Console) -> int:
    """Federate, save, and report."""
    from dtheta.cli import federated_plan, federated_run
    from dtheta.cli.federated import kind_of
    from dtheta.cli.federated_parts import Parts
    from dtheta.federate.state import NAME

    kind = kind_of(options)
    parts = Parts.of(options, kind)
    _require_meant(options, kind)
    _require_places(options, kind)
    folder = folder_of(options)
    _require_folder(folder, options.resume, removed=options.folder is None)
    if options.resume and not (folder / NAME).exists():
        console.note(f"{folder} holds no run to go on with, so this one begins with the first round")
    if options.dry_run:
        federated_plan.plan(options, kind, parts).show(console)
        return 0
    there = folder.exists()
    try:
        federated_run.run(options, kind, parts, folder, console)
    except BaseException as error:
        if not there and not (folder / NAME).exists():  # not even the first round was done
            _remove(folder)
        if not isinstance(error, KeyboardInterrupt):
            raise
        if (folder / NAME).exists():
            said = f"; {folder} holds the rounds so far, go on with:  {again(options)}"
            raise KeyboardInterrupt(said) from None
        raise
    return 0


def folder_of(options: Options) -> Path:
    """Return where the state of the run lies."""
    return options.out.with_name(f"{options.out.name}.run") if options.folder is None else options.folder


def _remove(folder: Path) -> None:
    """Remove a folder in which no round was done, unless another process that began at the same time holds it."""
    from dtheta.federate.lock import held

    if folder.is_dir():
        with contextlib.suppress(DthetaError):
            with held(folder):
                pass
            shutil.rmtree(folder, ignore_errors=True)


def _require_folder(folder: Path, resume: bool, removed: bool) -> None:
    """Raise unless a run may begin, or go on, in a folder, which is ``removed`` in the end or not.

    Raises:
        OutputError: If another run waits there, or it is no folder; or if something else lies in the folder beside
            --out, which is removed in the end.
    """
    from dtheta.federate.state import NAME, others

    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is in the way: it is no folder of a federation; choose another --folder or --out")
    if removed and folder.exists() and (more := others(folder)):
        raise OutputError(
            f"{folder} is in the way: it holds something else than a federation, {more[0].name}, and would be removed "
            "in the end; choose another --out, or give a --folder"
        )
    if (folder / NAME).exists() and not resume:
        raise OutputError(f"{folder} holds a federation: go on with --resume, or remove it to start anew")


def _require_meant(options: Options, kind: str) -> None:
    """Raise for an option that would do nothing.

    Raises:
        ConfigError: Naming it.
    """
    from dtheta.cli.federated import packaged

    if kind == "rows":
        of_texts = ("n_train", "max_length", "pooling", "head_lr")
        refuse_idle(options, of_texts, "is for texts, and the data hold numbers; leave it out")
    else:
        refuse_idle(options, ("standardize",), "is for numbers, and the data hold texts; leave it out")
    _require_model(options, kind)
    if options.secure is not None:
        refuse_idle(options, ("codec",), "does nothing with --secure, which sums ternary answers; leave it out")
    if packaged(options):
        refuse_of_files(options, str(options.data))
    if options.party:
        cut = ("clients", "partition", "n_train")
        refuse_idle(options, cut, "cuts up --data; every --party is one client with its file")
        if len(options.party) < 2:
            raise ConfigError("one --party is no federation; give --party again for every further one")


def _require_model(options: Options, kind: str) -> None:
    """Raise for a model of the other kind of data.

    Raises:
        ConfigError: Naming both.
    """
    from dtheta.cli.bases import packages
    from dtheta.cli.federated_models import is_of_rows

    if options.model is None:
        return
    if kind == "rows" and options.model in packages():
        raise ConfigError(
            f"--model {options.model} is for texts, and the data hold numbers; --text COLUMN says where texts are"
        )
    if kind == "texts" and is_of_rows(options.model) and not expanded(options.model).is_dir():
        raise ConfigError(f"--model {options.model} is for numbers, and the data hold texts; try --model minilm")


def _require_places(options: Options, kind: str) -> None:
    from dtheta.cli.bases import local_place
    from dtheta.cli.federated import packaged

    reads: dict[str, Any] = {"--test": options.test, "--config": options.config}
    reads |= {f"--party {path}": path for path in options.party}
    if options.data is not None and not packaged(options):
        reads["--data"] = expanded(options.data)
    if kind == "texts":
        reads["--model"] = local_place(options.model)
    require_outputs({"--out": options.out, "--report": options.report}, reads)
    if options.folder is not None:
        for name, path in {"--out": options.out, "--report": options.report}.items():
            if path is not None:
                require_distinct(name, path, "--folder", options.folder)


def again(options: Options) -> str:
    """Return the command that goes on with an interrupted run."""
    start = ["dtheta", "federate"]
    before = Options()
    if options.config is not None:
        start += ["--config", str(options.config)]
        before = parse(Options, start[2:], "federate", "") or before
    for name, field in fields_of(Options).items():
        value = getattr(options, name)
        if name in ("config", "resume", "dry_run") or value == getattr(before, name):
            continue
        if isinstance(value, bool):
            start.append(field.flag(value))
        else:
            start += [part for one in (value if field.many else [value]) for part in (field.called, str(one))]
    return shlex.join([*start, "--resume"])
