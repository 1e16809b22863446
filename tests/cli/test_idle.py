"""Options that would do nothing in the way a command is called: one clear usage error, in a dry run as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from dtheta.cli.idle import refuse_idle
from dtheta.cli.options import CommonOptions, Flag, Place
from dtheta.errors import ConfigError
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]
X, L = ("x.delta", "--model", "bert"), ("l.delta", "--model", "llama")


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """One option of every kind."""

    source: Annotated[Path | None, Place("where from")] = None
    n_train: Annotated[int, Flag("how many")] = 3
    skip: Annotated[bool, Flag("a switch")] = True


@pytest.mark.parametrize(
    ("given", "said"),
    [({"source": Path("a")}, "SOURCE is"), ({"n_train": 4}, "--n-train is"), ({"skip": False}, "--no-skip is")],
)
def test_what_was_given_is_named_as_it_was_given(given: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said} idle$"):
        refuse_idle(Options(**given), ("source", "n_train", "skip"), "is idle")
    refuse_idle(Options(), ("source", "n_train", "skip"), "is idle")
    refuse_idle(Options(**given), (), "is idle")


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("apply", *X, "--text", "a", "--top", 5), "--top is how many classes of a picture are shown"),
        (("apply", *X, "--image", "a.png", "--top", 5, "--out", "p.csv"), "--top is of the table that is shown"),
        (("apply", *X, "--image", "a.png", "--tokens", 5), "--tokens goes on with a text, and --image gives pictures"),
        (("apply", *X, "--image", "a.png", "--encoding", "utf-16"), "--encoding is that of --data, which is not given"),
        (("apply", *X, "--text", "a", "--encoding", "utf-16"), "--encoding is that of --data, which is not given"),
        (("apply", *X, "--text", "a", "--column", "body"), "--column names a column of --data, which is not given"),
        (("apply", *X, "--text", "a", "--tokens", 5), "--tokens goes on with a text, and x.delta tells classes"),
        (("apply", *L, "--data", "reviews.csv", "--label", "label"), "--label compares classes, and this delta's task"),
        (("show", "bert", "--tree"), "--tree shows which deltas a delta was made of, and bert is none"),
        (("adapt", "--data", "bbc", "--text", "body"), "--text is for files of one's own, and bbc is packaged"),
        (("adapt", "--data", "bbc", "--test", "reviews.csv"), "--test is for files of one's own; the task bbc has a"),
        (("adapt", "--data", "fashion", "--label", "kind"), "--label is for files of one's own, and fashion is"),
        (("adapt", "--data", "plain.csv", "--model", "llama", "--head-lr", 0.1), "--head-lr is for classifiers"),
        (("adapt", "--data", "plain.csv", "--model", "llama", "--pooling", "last"), "--pooling is for classifiers"),
        (("scout", "--model", "bert", "--data", "bbc", "--text", "body"), "--text is for a file of one's own"),
        (("kernel", "--model", "bert", "--data", "bbc", "--label", "kind"), "--label is for a file of one's own"),
        (("compress", *X, "--validate", 9), "--validate goes with --search; add that, or leave it out"),
        (("compress", *X, "--search", "--data", "bbc", "--text", "a"), "--text is for a file of one's own"),
        (("compose", *X, "--learn", "--data", "bbc", "--label", "a"), "--label is for a file of one's own"),
    ],
)  # fmt: skip
def test_what_would_do_nothing_is_refused(dtheta: Run, stocked: Path, dry: tuple, given: tuple, said: str) -> None:
    (stocked / "plain.csv").write_text("text\n" + "the film was a story\n" * 40)
    before = sorted(path.name for path in stocked.iterdir())
    done = dtheta(*given, *dry)
    assert (done.code, done.out) == (2, "") and said in done.err, done.err
    assert sorted(path.name for path in stocked.iterdir()) == before


@pytest.mark.parametrize("verb", [("compress", "x.delta"), ("compose", "x.delta"), ("compare", "x.delta", "x.delta")])
def test_a_base_that_is_not_needed_is_still_looked_at(dtheta: Run, stocked: Path, verb: tuple[str, ...]) -> None:
    assert dtheta(*verb, "--model", "bert").code == 0
    done = dtheta(*verb, "--model", "llama")
    assert done.code == 3 and "x.delta: " in done.err


def test_a_head_alone_fits_every_base(dtheta: Run, stocked: Path) -> None:
    assert dtheta("compose", "x.delta", "--select", "head.*", "--out", "h.delta").code == 0
    for verb in (("compose",), ("apply", "--text", "a film", "--dry-run")):
        done = dtheta(verb[0], "h.delta", "--model", "bert", *verb[1:])
        assert done.code == 0, done.err


def test_a_peft_folder_is_not_compared(dtheta: Run, stocked: Path) -> None:
    assert dtheta("merge", "llama", "l.delta", "--format", "peft", "--out", "peft").code == 0
    done = dtheta("extract", "llama", "peft", "--partial", "--dry-run")
    assert done.code == 2 and "--partial compares two checkpoints" in done.err
