"""Laws draw thousands of small weights; their factors must not end up in the user's cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_factor_cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTHETA_FACTOR_CACHE_BYTES", "0")
        yield
