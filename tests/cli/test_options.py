"""Options: three sources, one reading, and errors that name what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from dtheta.cli.options import CommonOptions, Flag, Place, parse
from dtheta.cli.values import read_value
from dtheta.errors import ConfigError
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """One option of every kind."""

    source: Annotated[Path, Place("where from")]
    more: Annotated[tuple[str, ...], Place("what else")] = ()
    rate: Annotated[float, Flag("a rate")] = 0.5
    rank: Annotated[int | float | None, Flag("a rank or a share")] = None
    n_train: Annotated[int | None, Flag("how many")] = None
    mode: Annotated[Literal["mean", "last"] | None, Flag("a choice")] = None
    set: Annotated[tuple[str, ...], Flag("several")] = ()
    deep: Annotated[bool, Flag("a switch")] = False


def read(*arguments: str) -> Options:
    found = parse(Options, arguments, "verb", "What it does.")
    assert found is not None
    return found


def test_defaults() -> None:
    found = read("x")
    assert (found.source, found.rate, found.rank, found.set, found.deep, found.seed) == (
        Path("x"),
        0.5,
        None,
        (),
        False,
        0,
    )


def test_flags_of_every_kind() -> None:
    found = read(
        "x", "a", "--rate", "1e-4", "b", "--rank=0.9", "--n-train", "1e3", "--mode", "last", "--deep", "--set", "p=1"
    )
    assert (found.more, found.rate, found.rank, found.n_train) == (("a", "b"), 1e-4, 0.9, 1000)
    assert (found.mode, found.deep, found.set) == ("last", True, ("p=1",))
    assert read("x", "--rank", "8").rank == 8
    assert isinstance(read("x", "--rank", "8").rank, int)


def test_yaml_lies_between_defaults_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("source: a\nrate: 1e-4\nn-train: 20\ndeep: true\nset: {gamma: 1e-3, rank: 2}\nmode: last\n")
    found = read("--config", str(file), "--n-train", "30", "--no-deep")
    assert (found.source, found.rate, found.n_train, found.deep) == (Path("a"), 1e-4, 30, False)
    assert (found.set, found.mode) == (("gamma=1e-3", "rank=2"), "last")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raet: 1\n", r"unknown option 'raet'; did you mean 'rate'"),
        ("rate: fast\n", r"rate must be a number, found 'fast'"),
        ("rate: .nan\n", r"rate must be a number"),
        ("n_train: true\n", r"n_train must be a whole number, found True"),
        ("deep: 7\n", r"deep must be true or false"),
        ("mode: lst\n", r"one of mean, last, found 'lst'; did you mean 'last'"),
        ("- a\n", r"must hold option names and values"),
        ("", r"found nothing"),
        ("a: [\n", r"is not YAML"),
        ("!!python/object/apply:os.system ['true']\n", r"is not YAML"),
        ("config: other.yaml\n", r"unknown option 'config'"),
        ("n-train: 3\nn_train: 4\n", r"'n_train' gives a second value to --n-train"),
        ("rate: 1\nmode: last\nrate: 2\n", r"line 3: the key 'rate' occurs twice"),
        ("set: {gamma: 1, gamma: 2}\n", r"line 1: the key 'gamma' occurs twice"),
    ],
)
def test_a_bad_configuration_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as found:
        read("x", "--config", str(file))
    assert "run.yaml" in str(found.value)


def test_a_missing_configuration() -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration nowhere.yaml: No such file"):
        read("x", "--config", "nowhere.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--raet", "3"], "unknown option --raet; did you mean '--rate'"),
        (["x", "--rate", "fast"], "--rate must be a number, found 'fast'"),
        (["x", "--rate"], "--rate: expected one argument"),
        (["x", "--n-train", "2.5"], "--n-train must be a whole number, found '2.5'"),
        (["x", "-q"], "unknown option -q"),
        (["x", "--rate", "-bad"], "a value that begins with a dash is given as --rate=-value"),
        ([], "SOURCE is missing"),
        (["x", "--deep=1"], "--deep"),
        (["x", "--rat", "1"], "unknown option --rat"),
    ],
)
def test_a_bad_command_line_is_one_clear_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(*arguments)


def test_help_wins_over_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Options, ["--nonsense", "--help"], "verb", "What it does.\n\n  dtheta verb x\n") is None
    text = capsys.readouterr().out
    assert text.startswith("usage: dtheta verb SOURCE [MORE...] [options]\n\nWhat it does.\n\n  dtheta verb x\n")
    assert "--rank N|X" in text
    assert "(default: 0.5)" in text
    assert "--mode mean|last" in text


def test_what_is_remembered_names_no_place(tmp_path: Path) -> None:
    found = read(str(tmp_path / "data.csv"), "--rate", "0.1", "--seed", "3")
    assert found.resolved() == {
        "source": "data.csv", "more": [], "rate": 0.1, "rank": None, "n_train": None, "mode": None, "set": [],
        "deep": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        ("none", float | None, None),
        (None, int | None, None),
        ("0.5", int | float, 0.5),
        ("1.0", int | float | None, 1.0),  # a share, which is too large, and not the rank 1
        (1.0, int | float, 1.0),
        ("1", int | float, 1),
        (3, str, "3"),
        ("1e-4", float, 1e-4),
        (2.0, int, 2),
        (["a", 1], tuple[str, ...], ("a", "1")),
        ("off", bool, False),
    ],
)
def test_values(value: Any, kind: Any, found: Any) -> None:
    result = read_value(value, kind, "x")
    assert result == found
    assert type(result) is type(found)


def test_precedence_through_a_verb(dtheta: Run, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("rows: 3\nfile: missing.delta\n")
    done = dtheta("show", "--config", "run.yaml")
    assert done.code == 2
    assert "missing.delta" in done.err


@pytest.mark.parametrize("text", ["-1", "-1.5", "-1e-3", "-.5e+2", "-2.E3"])
def test_negative_numbers_in_every_form(text: str) -> None:
    assert read("x", "--rate", text).rate == float(text) == read("x", f"--rate={text}").rate


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x", "--rate", "1", "--rate", "2"), "--rate is given twice, '1' and '2', and takes one value"),
        (("x", "--rate=1", "--rate=1"), "--rate is given twice"),
        (("x", "--seed", "1", "y", "--seed", "2"), "--seed is given twice"),
        (("x", "--deep", "--no-deep"), "--deep and --no-deep are both given"),
    ],
)
def test_of_two_values_none_is_taken_silently(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(*arguments)


def test_what_may_be_given_again_is(tmp_path: Path) -> None:
    found = read("x", "--set", "a=1", "--set", "b=2", "--deep", "--deep")
    assert (found.set, found.deep) == (("a=1", "b=2"), True)
    file = tmp_path / "run.yaml"
    file.write_text("rate: 3\n")
    assert read("x", "--config", str(file), "--rate", "4").rate == 4
