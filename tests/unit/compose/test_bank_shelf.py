"""Files and the cap: experts are read when asked for, forgotten in order of use, and come back to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dtheta.compose.bank import Bank
from dtheta.compose.bank_shelf import from_file, resident
from dtheta.compress.compeft import compress
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.fingerprint import fingerprint
from dtheta.core.spectral import Spectral
from dtheta.errors import ConfigError, FormatError
from tests.unit.compose.banks import close, tensors, under_applied, under_applied_later
from tests.unit.compose.examples import KINDS, bits, delta, normal


@pytest.fixture
def files(tiny_mlp: nn.Module, tmp_path: Path) -> list[Path]:
    return [delta(tiny_mlp, "dense", i).save(tmp_path / f"{i}.delta") for i in range(4)]


def test_a_relative_path_stays_what_it_was(
    tiny_mlp: nn.Module, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank(tiny_mlp)
    monkeypatch.chdir(files[0].parent)
    bank.add("0", "0.delta")
    monkeypatch.chdir("/")
    assert bank["0"] == load(files[0])


def test_files_are_read_when_asked_for(tiny_mlp: nn.Module, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("dtheta.compose.bank_experts.load", lambda path: read.append(Path(path).name) or load(path))
    bank = Bank(tiny_mlp)
    for i, path in enumerate(files):
        bank.add(str(i), path if i % 2 else str(path))
    assert read == [] and bank.loaded == () and bank.nbytes == 0
    bank.switch("2")
    assert read == ["2.delta"] and bank.loaded == ("2",) and bank["2"] == load(files[2])
    bank.switch("1")
    bank.switch("2")
    assert read == ["2.delta", "1.delta"] and bank.loaded == ("1", "2")
    assert repr(bank).startswith("Bank(4 experts, 2 in memory")
    bank.switch(None)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"spectral"}))  # whose singular vectors come with the base
def test_size_is_known_from_the_header(tiny_mlp: nn.Module, tmp_path: Path, kind: str) -> None:
    path = delta(tiny_mlp, kind).save(tmp_path / "a.delta")
    assert from_file("a", path).nbytes == resident(load(path)) == load(path).nbytes
    packed = (
        compress(load(path), 0.3, of="balanced", per="row").save(tmp_path / "b.delta") if kind == "low-rank" else path
    )
    assert from_file("b", packed).nbytes == resident(load(packed))


def test_the_one_asked_for_longest_ago_goes_first(tiny_mlp: nn.Module, files: list[Path]) -> None:
    size = load(files[0]).nbytes
    bank = Bank(tiny_mlp, 2 * size)
    for i, path in enumerate(files):
        bank.add(str(i), path)
    seen = []
    for name in ("0", "1", "0", "2", "3", "1"):
        bank.switch(name)
        seen.append(bank.loaded)
        assert bank.nbytes <= 2 * size
        assert close(tensors(tiny_mlp), under_applied_later(bank, name))
    assert seen == [("0",), ("0", "1"), ("1", "0"), ("0", "2"), ("2", "3"), ("3", "1")]
    bank.switch(None)


def test_place_is_made_before_a_file_is_read(tiny_mlp: nn.Module, files: list[Path]) -> None:
    size = load(files[0]).nbytes
    bank = Bank(tiny_mlp, size)
    held: list[int] = []
    bank._experts.shelf._read = lambda expert: held.append(bank.nbytes) or load(str(expert.path))  # type: ignore[func-returns-value]
    for i, path in enumerate(files[:2]):
        bank.add(str(i), path)
        bank[str(i)]
    assert held == [0, 0] and bank.loaded == ("1",)


def test_what_has_no_file_stays_and_a_full_bank_says_so(tiny_mlp: nn.Module, files: list[Path]) -> None:
    size = load(files[0]).nbytes
    bank = Bank(tiny_mlp, 2 * size)
    bank.add("held", load(files[0]))
    bank.add("1", files[1])
    bank.add("2", files[2])
    for name in ("1", "2", "1"):
        bank.switch(name)
        assert bank.loaded == ("held", name)
    with pytest.raises(ConfigError, match=r"'1', '2': .*without a file are never dropped"):
        bank.compose(["1", "2"], 1.0)
    bank.switch(None)
    bank.add("held too", load(files[3]))
    assert bank.loaded == ("held", "held too")
    with pytest.raises(ConfigError, match="capacity_bytes"):
        bank.switch("1")
    with pytest.raises(ConfigError, match="never dropped"):
        bank.add("more", delta(tiny_mlp, "ternary"))
    assert "more" not in bank
    with pytest.raises(ConfigError, match="'a': the experts"):
        Bank(tiny_mlp, size - 1).add("a", files[0])
    for wrong in (-1, 1.5, True):
        with pytest.raises(ConfigError, match="capacity_bytes"):
            Bank(tiny_mlp, wrong)  # type: ignore[arg-type]


def test_a_file_that_is_no_longer_what_it_was(tiny_mlp: nn.Module, files: list[Path]) -> None:
    before, bank = bits(tiny_mlp), Bank(tiny_mlp)
    bank.add("0", files[0])
    bank.add("1", files[1])
    files[0].write_bytes(files[2].read_bytes())
    with pytest.raises(ConfigError, match=r"'0': .*0\.delta was replaced"):
        bank.switch("0")
    broken = bytearray(files[1].read_bytes())
    broken[-1] ^= 1
    files[1].write_bytes(bytes(broken))
    with pytest.raises(FormatError, match="damaged"):
        bank.switch("1")
    assert bits(tiny_mlp) == before and bank.loaded == ()


def test_spectral_experts_get_their_basis(tiny_mlp: nn.Module, tmp_path: Path) -> None:
    shift = Spectral(0.1 * normal(2), (16, 12))
    one = Delta({"0.weight": shift}, fingerprint(tiny_mlp).restrict(["0.weight"]))
    wanted, bank = under_applied(tiny_mlp, one), Bank(tiny_mlp)
    bank.add("file", one.bind(tiny_mlp).save(tmp_path / "a.delta"))
    bank.add("held", one)
    for name in ("file", "held"):
        with bank.using(name):
            assert close(tensors(tiny_mlp), wanted)
    assert bank.nbytes > 2 * 4 * 2 * (12 + 16)  # with the singular vectors


class Plain:
    """Least recently used, the plain way: a list of names, the one asked for last at the end."""

    def __init__(self, capacity: int, sizes: dict[str, int]) -> None:
        self.capacity, self.sizes, self.held = capacity, sizes, list[str]()

    def ask(self, name: str) -> None:
        rest = [other for other in self.held if other != name]
        while sum(self.sizes[other] for other in [*rest, name]) > self.capacity:
            rest.pop(0)
        self.held = [*rest, name]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, dict[str, Path]]:
    """A network, and experts of very different sizes as files."""
    torch.manual_seed(0)
    model, folder = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 8)), tmp_path_factory.mktemp("experts")
    kinds = ("dense", "low-rank", "ternary", "rows", "mixed")
    return model, {kind: delta(model, kind, i).save(folder / f"{i}.delta") for i, kind in enumerate(kinds)}


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["dense", "low-rank", "ternary", "rows", "mixed"]), max_size=20), st.floats(0, 1))
def test_any_order_of_requests_under_any_cap(
    stored: tuple[nn.Module, dict[str, Path]], requests: list[str], part: float
) -> None:
    model, paths = stored
    fresh = {name: load(path) for name, path in paths.items()}
    sizes = {name: resident(one) for name, one in fresh.items()}
    largest, whole = max(sizes.values()), sum(sizes.values())
    plain = Plain(largest + int(part * (whole - largest)), sizes)
    bank = Bank(model, plain.capacity)
    for name, path in paths.items():
        bank.add(name, path)
    for name in requests:
        plain.ask(name)
        again = bank[name]
        assert bank.loaded == tuple(plain.held) and bank.nbytes <= plain.capacity
        assert again == fresh[name] and all(same_parts(again, fresh[name], parameter) for parameter in again)


def same_parts(a: Delta, b: Delta, parameter: str) -> bool:
    parts = a[parameter].tensors(), b[parameter].tensors()
    return set(parts[0]) == set(parts[1]) and all(torch.equal(parts[0][key], parts[1][key]) for key in parts[0])


def test_a_file_that_is_gone(tiny_mlp: nn.Module, files: list[Path]) -> None:
    bank = Bank(tiny_mlp)
    bank.add("0", files[0])
    files[0].unlink()
    with pytest.raises(ConfigError, match=r"expert '0': .*0\.delta"):
        bank.switch("0")
    assert bank.current is None
