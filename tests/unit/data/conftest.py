"""A small wheel made on the spot, in place of the large ones, and a cache of the test's own."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dtheta.data.packages import Wheel

MEMBERS = {
    "toy_corpus/data/a.txt": b"alpha",
    "toy_corpus/data/b.txt": b"beta",
    "toy_corpus/__init__.py": b"raise SystemExit('code of a package must never run')",
    "toy_corpus-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy-corpus\nVersion: 1.0\n",
    "toy_corpus-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "toy_corpus-1.0.dist-info/RECORD": b"",
}


@pytest.fixture
def make_wheel(tmp_path: Path) -> Callable[..., Wheel]:
    """Write a wheel into ``tmp_path/wheels`` and return its pin."""

    def make(extra: dict[str, bytes] | None = None, **changes: object) -> Wheel:
        (tmp_path / "wheels").mkdir(exist_ok=True)
        path = tmp_path / "wheels" / "toy_corpus-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {**MEMBERS, **(extra or {})}.items():
                archive.writestr(name, content)
        fields = {
            "name": "toy-corpus",
            "version": "1.0",
            "filename": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
            "members": ("toy_corpus/data/*",),
            "license": "none",
            "content": "a toy",
        }
        return Wheel(**{**fields, **changes})

    return make


@pytest.fixture(autouse=True)
def no_local_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person who runs the tests has set must not reach them."""
    monkeypatch.delenv("DTHETA_WHEELS", raising=False)
