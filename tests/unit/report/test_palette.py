"""Series colors stay apart for color-blind readers and stand out from the page, in light and in dark."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

from dtheta.report.charts import styles
from dtheta.report.page import _asset

# Machado, Oliveira, Fernandes 2009, severity 1, on linear sRGB; then Ottosson's Oklab (2020), where
# distances are about what eyes see.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
OKLAB_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OKLAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def theme(name: str) -> dict[str, np.ndarray]:
    """Variables of a theme -> linear sRGB."""
    css = _asset("page.css")
    block = css[css.index("prefers-color-scheme: dark") :] if name == "dark" else css
    found: dict[str, np.ndarray] = {}
    for variable, value in re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block):
        channels = np.array([int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        found.setdefault(variable, linear)
    return found


def oklab(linear: np.ndarray) -> np.ndarray:
    return np.array(OKLAB) @ np.cbrt(np.array(OKLAB_CONES) @ np.clip(linear, 0, 1))


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """WCAG contrast ratio."""
    light, dark = sorted((float(c @ [0.2126, 0.7152, 0.0722]) for c in (a, b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_the_first_series_stay_apart(name: str, vision: str) -> None:
    colors = theme(name)
    seen = {i: oklab(np.array(VISION[vision]) @ colors[f"s{i}"]) for i in range(1, 7)}
    for i, j in combinations(seen, 2):
        apart = float(np.linalg.norm(seen[i] - seen[j]))
        assert apart > (0.14 if max(i, j) <= 3 else 0.08), f"s{i} and s{j} look alike: {apart:.3f}"


@pytest.mark.parametrize("name", ["light", "dark"])
def test_contrast_with_the_page(name: str) -> None:
    colors = theme(name)
    for i in range(7):
        assert contrast(colors[f"s{i}"], colors["paper"]) >= 3, f"s{i}: lines and points need 3:1"
    for text in ("ink", "soft", "link", "good", "bad", "open"):
        assert contrast(colors[text], colors["paper"]) >= 4.5, f"{text}: text needs 4.5:1"


def test_no_series_is_told_by_color_alone() -> None:
    found = list(styles([f"method {i}" for i in range(9)]).values())
    assert len({style.marker for style in found[:6]}) == 6 and len({style.dash for style in found[:6]}) == 6
    assert len({(style.color, style.marker) for style in found}) == 9
