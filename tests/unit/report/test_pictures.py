"""Pictures in a page: whole inside it, told right from wrong by marks and words, within the budget."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, FormatError, MissingExtra
from dtheta.report import IMAGE_ACCURACY, AdaptResults, PictureSample, Reference, adapt_page, picture_sample
from dtheta.report.pictures import png
from dtheta.score import wilson
from tests.unit.report.examples import results
from tests.unit.report.reading import read

CLASSES = ("cat", "dog", "<b>bird")
NOISE = torch.randint(256, (60, 200, 150, 3), generator=generator(0, "noise"), dtype=torch.uint8)
LABELS = torch.arange(60) % 3


def logits(wrong: list[int]) -> torch.Tensor:
    """Of a model that is right but for some images."""
    found = torch.nn.functional.one_hot(LABELS, 3).float()
    found[wrong] = found[wrong].roll(1, 1)
    return 5 * found


def sample(before: list[int], after: list[int], shown: int = 24) -> PictureSample:
    return picture_sample("pets", "CLIPSVD", NOISE, LABELS, logits(before), logits(after), CLASSES, shown)


def job(*samples: PictureSample) -> AdaptResults:
    made = results(1, 12)
    task = replace(made.tasks[0], references=(Reference("linear probe", wilson(500, 600)),), shots=4)
    return replace(made, tasks=(task,), measure=IMAGE_ACCURACY, pictures=samples)


def test_the_kinds_take_turns_and_all_test_images_are_counted() -> None:
    found = sample(before=[0, 1, 2, 3, 4], after=[3, 4, 5])
    assert (found.became_right, found.became_wrong, found.stayed_wrong, found.stayed_right) == (3, 1, 2, 54)
    assert Counter(example.kind for example in found.examples) == {
        (False, True): 3, (True, False): 1, (False, False): 2, (True, True): 18,
    }  # fmt: skip
    first = found.examples[0]
    assert (first.label, first.before, first.after) == ("cat", "dog", "cat")
    assert first.probability == pytest.approx(float(torch.tensor([5.0, 0, 0]).softmax(0)[0]))
    assert len(sample([0, 1], [2, 3], shown=3).examples) == 3


def test_a_picture_is_the_image_made_small() -> None:
    from PIL import Image

    def opened(text: str) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(text)))

    large = opened(png(NOISE[0]))
    assert large.size == (48, 64) and large.mode == "RGB"  # 150 x 200, the longer side to 64
    grey = torch.arange(64, dtype=torch.uint8).reshape(8, 8)
    small = opened(png(grey))
    assert small.size == (8, 8) and list(small.get_flattened_data()) == list(range(64))


def test_the_page_holds_them_and_says_which_are_right() -> None:
    html = adapt_page(job(sample([0, 1, 2, 3, 4], [3, 4, 5]))).html()
    page = read(html)
    images = page.all("img")
    assert len(images) == 24
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in images)
    assert images[0]["alt"] == "Test image of the class cat; before: dog wrong; after: cat right"
    assert images[2]["alt"] and "<b>bird" in images[2]["alt"] and "<b>bird" not in html
    text = " ".join(" ".join(page.text).split()).replace("\u202f", " ")
    assert "Became right: 3 of 60, 5.0 %" in text and "Became wrong: 1 of 60" in text
    assert "before wrong: dog after right: cat, 99 %" in text
    assert "For comparison: linear probe 83.3 %." in text
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and "img-src data:;" in policy and policy.startswith("default-src 'none'")


def test_a_page_of_noise_stays_in_the_budget() -> None:
    square = NOISE[:, :150]
    found = picture_sample("noise", "m", square, LABELS, logits([]), logits([]), CLASSES)
    assert len(found.examples) == 24
    size = len(adapt_page(job(found)).html().encode())
    assert 400_000 < size < 600_000  # noise cannot be packed; all else is smaller


def test_results_with_pictures_are_read_back(tmp_path: Path) -> None:
    made = job(sample([0], [1]))
    path = made.save(tmp_path / "x.json")
    assert AdaptResults.load(path) == made
    path.write_text(re.sub(r'"png": "[^"]+"', '"png": "javascript:alert(1)"', path.read_text(), count=1))
    with pytest.raises(FormatError, match="must be a PNG file in base64"):
        AdaptResults.load(path)


def test_anything_but_a_png_is_refused() -> None:
    example = sample([], []).examples[0]
    for text in ("", "x", base64.b64encode(b"GIF89a").decode(), example.png + '" onerror="x'):
        with pytest.raises(ConfigError, match="PNG"):
            replace(example, png=text)


def test_pillow_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dtheta\[image\]'"):
        png(NOISE[0])


def test_references_are_rows_of_the_scores() -> None:
    html = adapt_page(job()).html().replace("\u202f", " ")
    assert "linear probe 83.3 %" in html and "Pictures" not in html
    assert "zero-shot model" in html and "beats the zero-shot model" in html
