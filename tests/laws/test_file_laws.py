"""Laws of the file: what was saved is what is loaded, and no damage or lie goes unnoticed or costs memory."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from dtheta.core.block import Block
from dtheta.core.change import Change, Dense
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.combination import Scaled, Sum
from dtheta.core.delta import Delta, content_digest
from dtheta.core.files import check, load, read_header, save
from dtheta.core.fingerprint import Fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.recompress import recompress
from dtheta.core.rows import Rows
from dtheta.errors import ConfigError, FormatError
from tests.laws.strategies import MODELS, changes, deltas, make_model, unbound

NAMES = sorted(MODELS)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(st.data())
def test_load_of_save_is_the_same_delta(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    model = make_model(name)
    delta = data.draw(deltas(model))
    path = tmp_path_factory.mktemp("file") / "a.delta"
    basis = data.draw(st.booleans())
    assert save(delta, path, include_basis=basis) == path
    plain = load(path)
    loaded = load(path, model)
    header = check(path)
    assert loaded == delta == plain and header.digest == delta.digest == loaded.digest
    assert list(loaded) == list(delta) == list(header.changes)
    assert loaded.base == delta.base == header.base
    assert loaded.provenance.to_dict() == delta.provenance.to_dict()
    for n, change in delta.changes.items():
        assert {k: t.dtype for k, t in plain[n].tensors().items()} == {k: t.dtype for k, t in change.tensors().items()}
        assert all(torch.equal(t, change.tensors()[k]) for k, t in plain[n].tensors().items())
        # a basis from the base is the one that was saved, to the last bit on one machine
        assert torch.equal(loaded[n].dense(), change.dense())
    again = save(loaded, path.with_name("b.delta"), include_basis=basis)
    assert again.read_bytes() == path.read_bytes()


@settings(max_examples=25)
@given(st.data())
def test_identity_does_not_depend_on_how_a_file_stores_the_delta(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    model = make_model("linear")
    delta = data.draw(deltas(model))
    folder = tmp_path_factory.mktemp("file")
    with_basis = load(save(delta, folder / "a.delta", include_basis=True))
    loose = load(save(delta.map(lambda _, change: unbound(change)), folder / "b.delta"))
    assert with_basis == loose == delta


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file with every kind of change."""
    from tests.golden.write import every_kind

    return save(every_kind(), tmp_path_factory.mktemp("whole") / "a.delta").read_bytes()


def _refused(path: Path) -> str:
    """Every way of reading refuses, with a format error that names the file; headers may look fine."""
    with pytest.raises(FormatError) as error:
        load(path)
    with pytest.raises(FormatError):
        check(path)
    assert path.name in str(error.value)
    return str(error.value)


@settings(max_examples=150)
@given(st.data())
def test_any_flipped_byte_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, written: bytes, data: st.DataObject
) -> None:
    header = int.from_bytes(written[:8], "little")
    anywhere, inside = st.integers(0, len(written) - 1), st.integers(0, header + 8)
    changed = bytearray(written)
    for at in data.draw(st.lists(anywhere | inside, min_size=1, max_size=4, unique=True)):
        changed[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("flip") / "a.delta"
    path.write_bytes(changed)
    _refused(path)


def test_no_byte_of_the_header_may_change(tmp_path: Path, written: bytes) -> None:
    """Flip the case bit, which JSON forgives in escapes, and the lowest bit, which it forgives in white space."""
    path = tmp_path / "a.delta"
    for at in range(0, int.from_bytes(written[:8], "little") + 8, 9):
        for bit in (0x20, 0x01):
            changed = bytearray(written)
            changed[at] ^= bit
            path.write_bytes(changed)
            with pytest.raises(FormatError):
                read_header(path)


@settings(max_examples=50)
@given(st.data())
def test_any_cut_or_tail_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, written: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.delta"
    if data.draw(st.booleans()):
        path.write_bytes(written[: data.draw(st.integers(0, len(written) - 1))])
    else:
        path.write_bytes(written + data.draw(st.binary(min_size=1, max_size=40)))
    _refused(path)


@settings(max_examples=50)
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_noise_and_lies_about_the_header_are_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, length: int
) -> None:
    path = tmp_path_factory.mktemp("noise") / "a.delta"
    for content in (noise, length.to_bytes(8, "little") + noise, len(noise).to_bytes(8, "little") + noise):
        path.write_bytes(content)
        _refused(path)


_HUGE = st.sampled_from([10**6, 10**9, 2**31, 2**40, 2**53, 2**63, 2**64, 10**30, -1, -(2**63)])
_JSON = st.recursive(
    st.none() | st.booleans() | _HUGE | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.data())
def test_a_hostile_header_costs_no_memory(
    tmp_path_factory: pytest.TempPathFactory, written: bytes, data: st.DataObject
) -> None:
    """Values anywhere in the header are replaced by huge or absurd ones, under seals that hold.

    What is refused is refused with a format error; what happens to be consistent must still be loaded for little.
    """
    length = int.from_bytes(written[:8], "little")
    header = json.loads(written[8 : 8 + length])
    document = json.loads(header["__metadata__"]["dtheta"])
    _poison(data.draw(st.sampled_from([header, document, document["changes"], document["base"]])), data)
    path = tmp_path_factory.mktemp("hostile") / "a.delta"
    path.write_bytes(_resealed(header, document) + written[8 + length :])
    tracemalloc.start()
    try:
        try:
            load(path)
        except FormatError as error:
            assert path.name in str(error)  # noqa: PT017
        assert tracemalloc.get_traced_memory()[1] < 20 * len(written) + 2**20
    finally:
        tracemalloc.stop()


@settings(max_examples=40)
@given(st.data())
def test_what_is_loaded_can_be_shown_whatever_shape_it_claims(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Changes of a few numbers in a parameter of 2**44 rows: to print and to measure them costs what they hold."""
    rows, columns = 1 << 44, data.draw(st.integers(1, 5))
    change = Sum(tuple(data.draw(st.lists(_small(rows, columns), min_size=1, max_size=4))))
    folder = tmp_path_factory.mktemp("claim")
    delta = Delta({"w": change, "v": data.draw(_small(rows, columns))})
    loaded = load(save(delta, folder / "a.delta", include_basis=True))
    # Where parts of a sum nearly cancel, rounding is relative to the parts and not to what is left of them.
    parts = sum(leaf.norm() for one in delta.changes.values() for leaf in one.leaves())
    tracemalloc.start()
    try:
        assert str(loaded) and (loaded + loaded).norm() == pytest.approx(2 * loaded.norm(), abs=1e-6 * parts)
        assert loaded.inner(loaded) == pytest.approx(loaded.norm() ** 2, rel=1e-6, abs=1e-6 * parts**2)
        assert recompress(loaded, 1).norm() <= loaded.norm() * (1 + 1e-6) + 1e-6 * parts
        assert tracemalloc.get_traced_memory()[1] < 2**24  # what is imported on first use counts, too
    finally:
        tracemalloc.stop()


@st.composite
def _small(draw: st.DrawFn, rows: int, columns: int) -> Change:
    kind = draw(st.sampled_from(["low-rank", "rows", "block", "block", "scaled"]))
    if kind == "low-rank":
        return LowRank(torch.zeros(rows, 0), torch.zeros(0, columns))
    if kind == "rows":
        return Rows(torch.zeros(0, dtype=torch.int64), torch.zeros(0, columns), (rows, columns))
    if kind == "scaled":
        return Scaled(0.5, draw(_small(rows, columns)))
    start, height = draw(st.sampled_from([0, 1, rows // 2])), draw(st.integers(1, 4))
    return Block(draw(changes((height, columns), depth=1)), 0, start, (rows, columns))


_CHILD = """
import resource, sys, pathlib
from dtheta.core.files import load
from dtheta.errors import FormatError
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
refused = 0
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        load(path)
    except FormatError:
        refused += 1
print(refused)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited by a Linux call")
def test_claimed_sizes_are_never_allocated(tmp_path: Path, written: bytes) -> None:
    """Load a hundred hostile files in a process that may take 128 MB more than it has; torch's memory counts here."""
    folder = tmp_path / "files"
    folder.mkdir()
    length = int.from_bytes(written[:8], "little")
    for i in range(100):
        draw = random.Random(i)
        header = json.loads(written[8 : 8 + length])
        document = json.loads(header["__metadata__"]["dtheta"])
        while not _enlarge(draw.choice([header, document["changes"]]), draw):
            pass
        (folder / f"{i:03}.delta").write_bytes(_resealed(header, document) + written[8 + length :])
    run = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) >= 90  # a claim that is only about the shape of the base is harmless and may pass


def _enlarge(node: object, draw: random.Random) -> bool:
    """Put a huge number in place of one somewhere below a JSON node; tell whether there was one."""
    while isinstance(node, (dict, list)) and node:
        key = draw.choice(sorted(node) if isinstance(node, dict) else range(len(node)))
        if type(node[key]) is int:
            node[key] = draw.choice([2**31, 2**36, 2**40, 2**52, 2**62, 2**70])
            return True
        node = node[key]
    return False


def _resealed(header: dict, document: dict) -> bytes:
    """Length and header with the digests and the seal that an attacker can compute as well as we can."""
    try:
        parts = {name: digest for name, digest in document["tensors"].items() if not name.endswith("probe")}
        content = {
            name: (meta, {n.rpartition(":")[2]: d for n, d in parts.items() if n.rpartition(":")[0] == name})
            for name, meta in document["changes"].items()
        }
        document = {**document, "digest": content_digest(Fingerprint(document["base"]["digests"]), content)}
    except (TypeError, AttributeError, KeyError, ValueError):
        pass  # the document is absurd enough as it is
    return _sealed(header, document)


def _sealed(header: dict, document: dict) -> bytes:
    body = {key: value for key, value in document.items() if key != "sha256"}
    seal = hashlib.sha256(json.dumps(body, separators=(",", ":")).encode()).hexdigest()
    text = json.dumps({**body, "sha256": seal}, separators=(",", ":"))
    if isinstance(header.get("__metadata__"), dict) and set(header["__metadata__"]) == {"dtheta"}:
        header = {**header, "__metadata__": {"dtheta": text}}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["changes", "plain", "rank"], 2**52, "expected"),
        (["changes", "plain", "rank"], True, "rank"),
        (["changes", "plain", "shape"], [2**52, 2**52], "shape"),
        (["changes", "plain", "kind"], "low-rnk", "did you mean 'low-rank'"),
        (["changes", "plain", "extra"], 1, "unknown field 'extra'"),
        (["changes", "rows", "count"], 7, "rows"),
        (["changes", "rows", "shape"], [10**12, 2], None),
        (["changes", "fused", "start"], 8, "does not fit"),
        (["changes", "fused", "axis"], 2, "does not fit"),
        (["changes", "sum", "terms"], [], "terms"),
        (["changes", "sum", "terms", 0, "factor"], 1, "factor"),
        (["changes", "spectral", "rank"], 4, "shifts"),
        (["changes", "dense", "shape"], [3, 3], "expected"),
        (["base", "root"], 5, "digest"),
        (["base", "digests", "dense"], "x", "base"),
        (["provenance", "sed"], 1, "did you mean 'seed'"),
        (["provenance", "seed"], "1", "seed"),
        (["format"], 2, "newer dtheta"),
        (["format"], "1", "version"),
        (["digset"], "", "did you mean 'digest'"),
        (["tensors", "dense:values"], "0" * 64, "damaged"),
        (["tensors", "none:values"], "0" * 64, "missing"),
    ],
)
def test_each_lie_has_its_message(tmp_path: Path, written: bytes, path: list, value: object, message: str) -> None:
    length = int.from_bytes(written[:8], "little")
    header = json.loads(written[8 : 8 + length])
    document = json.loads(header["__metadata__"]["dtheta"])
    node = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file = tmp_path / "a.delta"
    file.write_bytes(_resealed(header, document) + written[8 + length :])
    if message is None:  # a shape that is only claimed costs nothing until the delta meets a base
        assert load(file)["rows"].shape == (10**12, 2)
        return
    assert message in _refused(file)


def test_a_wrong_identity_is_refused_from_the_header_alone(tmp_path: Path, written: bytes) -> None:
    length = int.from_bytes(written[:8], "little")
    header = json.loads(written[8 : 8 + length])
    document = json.loads(header["__metadata__"]["dtheta"])
    file = tmp_path / "a.delta"
    for lie in ({**document, "digest": "0" * 64}, {**document, "base": {"root": None, "digests": {}}}):
        file.write_bytes(_sealed(header, lie) + written[8 + length :])
        with pytest.raises(FormatError, match="does not have the digest"):
            read_header(file)
    file.write_bytes(_sealed(header, document) + written[8 + length :])
    assert file.read_bytes() == written and load(file).digest == document["digest"]


def test_the_header_has_one_spelling_only(tmp_path: Path, written: bytes) -> None:
    """JSON says the same in many ways; a file that says it in another was not written by dtheta."""
    length = int.from_bytes(written[:8], "little")
    header, data = written[8 : 8 + length], written[8 + length :]
    record = json.loads(header)
    document = record["__metadata__"]["dtheta"]
    assert header.endswith(b" ") and b"\\\\u03a9" in header  # there is padding, and an escape, to play with
    spellings = [
        header[:-1] + b"\t",
        header + b" " * 8,
        header.rstrip(b" "),
        header.replace(b"\\\\u03a9", b"\\\\u03A9"),
        header.replace(b'"dtype"', b'"\\u0064type"', 1),
        json.dumps(record).encode(),
        json.dumps(dict(reversed(record.items())), separators=(",", ":")).encode(),
        json.dumps({**record, "__metadata__": {"dtheta": document + " "}}, separators=(",", ":")).encode(),
        header.replace(b'\\"format\\":1', b'\\"format\\": 1'),
    ]
    for spelling in spellings:
        assert spelling != header
        (tmp_path / "a.delta").write_bytes(len(spelling).to_bytes(8, "little") + spelling + data)
        assert "not as dtheta wrote it" in _refused(tmp_path / "a.delta")


def test_nesting_is_limited_but_not_within_what_can_be_saved(tmp_path: Path) -> None:
    change: Change = Dense(torch.ones(2, 2))
    for _ in range(12):
        change = Sum((Scaled(0.5, change), change))
        change = Sum((Scaled(0.5, change.terms[1]),))
    with pytest.raises(ConfigError, match="nested"):
        save(Delta({"w": change}), tmp_path / "a.delta")
    assert list(tmp_path.iterdir()) == []
    deep = written_nested(200)
    (tmp_path / "b.delta").write_bytes(deep)
    assert "nested" in _refused(tmp_path / "b.delta")


def written_nested(depth: int) -> bytes:
    """A file that claims a change in a change, many times."""
    meta: dict = {"kind": "dense", "shape": [1]}
    for _ in range(depth):
        meta = {"kind": "scaled", "shape": [1], "factor": 0.5, "term": meta}
    document = {
        "format": 1,
        "digest": "0" * 64,
        "base": {"root": None, "digests": {}},
        "changes": {"w": meta},
        "tensors": {},
        "provenance": {},
    }
    return _resealed({"__metadata__": {"dtheta": ""}}, document)


def test_bottomless_json_is_refused(tmp_path: Path) -> None:
    for text in (b"[" * 100_000, b'{"__metadata__":{"dtheta":"' + b"[" * 100_000 + b'"}}', b'{"a":' * 50_000):
        (tmp_path / "a.delta").write_bytes(len(text).to_bytes(8, "little") + text)
        _refused(tmp_path / "a.delta")


def _poison(node: object, data: st.DataObject) -> None:
    """Replace one value somewhere below a JSON node."""
    while isinstance(node, (dict, list)) and len(node) > 0:
        keys = [
            k for k in (sorted(node) if isinstance(node, dict) else range(len(node))) if k not in ("sha256", "format")
        ]
        key = data.draw(st.sampled_from(keys))
        deeper = node[key]
        if not isinstance(deeper, (dict, list)) or not deeper or data.draw(st.integers(0, 3)) == 0:
            node[key] = data.draw(_HUGE | _JSON)
            return
        node = deeper


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_checkpoint_is_read_or_refused_but_never_believed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A plain checkpoint has no digests, so flipped numbers pass; flipped claims about them must not."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_file({"a": torch.ones(3, 4), "b": torch.zeros(5, dtype=torch.int64), "c": torch.ones(2).half()}, path)
    changed = bytearray(path.read_bytes())
    length = int.from_bytes(changed[:8], "little")
    for at in data.draw(st.lists(st.integers(0, length + 7), min_size=1, max_size=3, unique=True)):
        changed[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed[: data.draw(st.sampled_from([len(changed), len(changed) - 1, length + 8]))])
    try:
        checkpoint = open_checkpoint(path)
        read = [checkpoint[name] for name in checkpoint]
    except FormatError as error:
        assert path.name in str(error)  # noqa: PT017
        return
    assert sum(t.numel() * t.element_size() for t in read) == path.stat().st_size - length - 8


def test_empty_delta_can_be_saved(tmp_path: Path) -> None:
    assert load(save(Delta({}), tmp_path / "a.delta")) == Delta({})
