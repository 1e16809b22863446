"""The page in a real browser without a display: no console messages, tips, keyboard, legend and sorting work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dtheta.report import adapt_report
from dtheta.report.erasure import erasure_report
from tests.unit.report.examples import results
from tests.unit.report.test_erasure import MADE, reported

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,2400 --enable-logging=stderr"
)

PROBE = """
addEventListener("load", () => {
  const seen = {};
  const tip = document.getElementById("tip");
  const chart = document.querySelector("#training-loss svg.chart");
  const marks = [...chart.querySelectorAll("[data-mark]")];
  const press_of = (key) => new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
  const press = (key) => document.activeElement.dispatchEvent(press_of(key));
  seen.charts = document.querySelectorAll("svg.chart").length;
  seen.stops = marks.filter((mark) => mark.tabIndex === 0).length;
  marks[0].focus();
  press("ArrowRight");
  seen.second = document.activeElement === marks[1] && marks[1].tabIndex === 0;
  seen.tip = tip.hidden ? "" : tip.textContent;
  seen.said = document.getElementById("said").textContent;
  press("End");
  seen.last = document.activeElement === marks[marks.length - 1];
  press("Escape");
  seen.left = tip.hidden;
  const box = marks[2].getBoundingClientRect();
  marks[2].dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: box.x, clientY: box.y }));
  seen.hover = tip.textContent;
  document.querySelector('#training-loss [data-toggle="LoRA"]').click();
  const parts = [...chart.querySelectorAll('[data-series="LoRA"]')];
  seen.off = parts.length > 1 && parts.every((part) => getComputedStyle(part).display === "none");
  const heads = [...document.querySelectorAll("#accuracy thead th")];
  const order = () => [...document.querySelectorAll("#accuracy tbody tr")].map((row) => row.children[2].textContent);
  heads[2].querySelector("button").click();
  seen.up = order();
  heads[2].querySelector("button").click();
  seen.down = order();
  seen.sort = heads[2].getAttribute("aria-sort");
  seen.wide = document.documentElement.scrollWidth <= innerWidth;
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
});
"""


SHEET = 718  # pixels of a sheet of A4 between the margins of Chromium
PRINTED = """
addEventListener("load", () => {
  const out = (one) => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
  const size = (one) => one.getBoundingClientRect().width / one.viewBox.baseVal.width;
  const seen = {
    out: [...document.querySelectorAll("table, svg.chart, pre, p")].filter(out).map((one) => one.textContent),
    smallest: Math.min(...[...document.querySelectorAll("svg.chart")].map(size)),
    broken: [...document.querySelectorAll("thead th")].filter((one) => one.scrollWidth > one.clientWidth + 1).length,
  };
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
});
"""


def browse(page: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={folder}", *more, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def console(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    folder = tmp_path_factory.mktemp("browser")
    path = adapt_report(results(2, 30), folder / "report.html")
    return probe(path, PROBE)


def probe(page: Path, script: str, *more: str) -> tuple[dict, str]:
    """Return what a script finds on a page, and what the browser logs."""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    done = browse(page, page.parent / "profile", "--dump-dom", "--virtual-time-budget=3000", *more)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&amp;", "&")), done.stderr


def test_no_console_messages(probed) -> None:
    assert console(probed[1]) == []


def test_the_console_is_watched(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>console.error('seen')</script>")
    assert console(browse(page, tmp_path / "profile", "--dump-dom").stderr)


def test_tips_follow_keyboard_and_pointer(probed) -> None:
    seen, _ = probed
    assert seen["charts"] == 17 and seen["stops"] == 1
    assert seen["second"] and seen["last"] and seen["left"]
    assert seen["tip"].startswith("step 2\nLoRA ") and seen["said"] == seen["tip"]
    assert seen["hover"].startswith("step 3\n")


def test_legend_and_sorting(probed) -> None:
    seen, _ = probed
    assert seen["off"] and seen["sort"] == "descending"
    assert seen["up"] == sorted(seen["up"], key=float) and seen["down"] == sorted(seen["up"], key=float, reverse=True)


def test_nothing_sticks_out_sideways(probed) -> None:
    assert probed[0]["wide"]


@pytest.mark.parametrize("kind", ["adapt", "erasure"])
def test_all_of_a_page_is_on_the_sheet_and_charts_can_be_read(kind: str, tmp_path: Path) -> None:
    """The style of print, laid out at the width of a sheet."""
    path = tmp_path / "report.html"
    if kind == "adapt":
        adapt_report(results(2, 30), path)
    else:
        long = "Repair, then a long name of what was done"
        erasure_report({long if name == "gone" else name: reported(name) for name in MADE}, "planted", path)
    path.write_text(path.read_text(encoding="utf-8").replace("@media print", "@media all"), "utf-8")
    seen, _ = probe(path, PRINTED, f"--window-size={SHEET},2400")
    assert seen["out"] == [] and seen["broken"] == 0
    assert seen["smallest"] > 0.9  # text of 11 pixels stays one of 10
