"""Write the corpus of damaged files: ``python -m tests.hardening.damage``. A name says what is wrong with a file.

Files are small, and made from valid ones, which are not kept. A file stays as it is: later versions must refuse it.
"""

from __future__ import annotations

import json
from pathlib import Path

from dtheta.core.files import save
from dtheta.core.interop import to_peft
from dtheta.core.tensorfile import encode
from dtheta.probe.trace import Traces
from tests.golden.write import every_kind
from tests.hardening.readers import drop_trace, low_rank_delta, net, write_shards

FOLDER = Path(__file__).with_name("damaged")


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _header(data: bytes, change: tuple[str, str]) -> bytes:
    """Replace a text in the header of a safetensors file, and set its length."""
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].decode()
    assert change[0] in text
    new = text.replace(*change, 1).encode()
    return len(new).to_bytes(8, "little") + new + data[8 + length :]


def deltas(scratch: Path) -> dict[str, bytes]:
    """Damaged deltas by name."""
    whole = save(every_kind(), scratch / "whole.delta").read_bytes()
    return {
        "empty.delta": b"",
        "cut-in-the-header.delta": whole[:200],
        "cut-in-the-data.delta": whole[:-7],
        "bytes-behind-the-end.delta": whole + b"\0" * 16,
        "one-bit-of-the-data.delta": _flipped(whole, len(whole) - 5),
        "one-bit-of-the-header.delta": _flipped(whole, 100),
        "header-length-of-exabytes.delta": (1 << 62).to_bytes(8, "little") + whole[8:],
        "pickle.delta": b"PK\x03\x04" + bytes(60),
        "newer-format.delta": _header(whole, ('\\"format\\":1', '\\"format\\":9')),
    }


def others(scratch: Path) -> dict[str, bytes]:
    """Damaged files of other kinds by place."""
    peft = to_peft(low_rank_delta(), scratch / "p", model=net())
    config, weights = (peft / "adapter_config.json").read_bytes(), (peft / "adapter_model.safetensors").read_bytes()
    write_shards(scratch)
    shard, index = (scratch / "a.safetensors").read_bytes(), (scratch / "model.safetensors.index.json").read_bytes()
    Traces((drop_trace(0.5),)).save(scratch / "t.json")
    traces = (scratch / "t.json").read_bytes()
    placed = "model.safetensors.index.json"
    return {
        "config-cut.peft/adapter_config.json": config[:60],
        "config-cut.peft/adapter_model.safetensors": weights,
        "weights-cut.peft/adapter_config.json": config,
        "weights-cut.peft/adapter_model.safetensors": weights[:-9],
        f"shard-outside.checkpoint/{placed}": index.replace(b"a.safetensors", b"../a.safetensors"),
        f"shard-missing.checkpoint/{placed}": index,
        "shard-missing.checkpoint/a.safetensors": shard,
        "aliases-without-end.yaml": b"a: &a [x, x]\n" + b"".join(
            f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n".encode() for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "key-twice.yaml": b"rank: 4\nrank: 8\n",
        "empty-number.yaml": b"rank: !!int ''\n",
        "number-to-the-base-60.yaml": b"lr: 1" + b":1" * 300 + b".5\n",
        "row-too-short.csv": b"text,label\none,yes\ntwo\n",
        "not-utf-8.csv": "text,label\ncaf\u00e9,yes\n".encode("latin-1"),
        "quote-left-open.tsv": b'text\tlabel\n"one\tyes\ntwo\tno\n',
        "bottomless.jsonl": b'{"text": ' + b"[" * 20_000 + b"\n",
        "list-for-a-row.jsonl": b'["one", "yes"]\n',
        "key-is-a-list.runs.jsonl": b'{"task": ["bbc"], "seed": 0}\n',
        "not-utf-8.runs.jsonl": b'{"task": "\xff", "seed": 0}\n',
        "bottomless.runs.jsonl": b"[" * 20_000 + b"\n",
        "field-missing.traces.json": traces.replace(b'"effect"', b'"efect"'),
        "cut.traces.json": traces[:99],
        "bottomless.results.json": b"[" * 20_000,
        "field-unknown.results.json": encode({"modell": "x"}),
        "array-without-kind.zarr/zarr.json": encode({"zarr_format": 3, "node_type": {"x": 1}, "attributes": {}}),
        "no-record.zarr/zarr.json": encode({"zarr_format": 3, "node_type": "group", "attributes": {}}),
    }  # fmt: skip


def write(folder: Path, scratch: Path) -> None:
    """Write all files that are not there yet."""
    for name, content in {**deltas(scratch), **others(scratch)}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(content)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        write(FOLDER, Path(made))
    print(json.dumps(sorted(path.name for path in FOLDER.iterdir()), indent=1))
