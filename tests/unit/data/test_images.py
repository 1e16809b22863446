"""Images: splits without an image on both sides, keyed draws, and transparency on white."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.data.images import Images, contents, draw, on_white, split_images
from dtheta.errors import ConfigError, FormatError


def _numbered(values):
    """One-pixel images that show their value, labeled by it."""
    values = torch.tensor(values, dtype=torch.uint8)
    return Images(values.reshape(-1, 1, 1), values.long())


@given(st.lists(st.integers(0, 20), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1), st.integers(0, 3))
def test_a_split_keeps_every_image_once_and_copies_together(values, seed):
    train, test = split_images(_numbered(values), None, seed, "toy")
    assert sorted([*train.labels.tolist(), *test.labels.tolist()]) == sorted(values)
    assert not set(train.labels.tolist()) & set(test.labels.tolist())
    assert len(set(test.labels.tolist())) == max(1, round(0.2 * len(set(values))))
    assert torch.equal(train.images.flatten().long(), train.labels)


def test_a_split_is_a_function_of_seed_and_name():
    images = _numbered(range(50))
    first, again, other, named = (
        split_images(images, 10, seed, name)[1].labels.tolist()
        for seed, name in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
    )
    assert first == again
    assert len(first) == 10
    assert first != other and first != named


def test_splits_that_cannot_be_meant():
    with pytest.raises(FormatError, match="toy: 1 different images among 3"):
        split_images(_numbered([7, 7, 7]), None, 0, "toy")
    for n_test in (0, 3):
        with pytest.raises(ConfigError, match=f"toy: n_test={n_test} must lie between 1 and 2"):
            split_images(_numbered([1, 2, 3]), n_test, 0, "toy")


def test_draws_are_nested_and_keyed():
    images = _numbered(range(30))
    few, many = (draw(images, count, 3, "toy", "n_train").labels.tolist() for count in (5, 20))
    assert many[:5] == few
    assert sorted(draw(images, None, 3, "toy", "n_train").labels.tolist()) == list(range(30))
    assert draw(images, 5, 4, "toy", "n_train").labels.tolist() != few
    with pytest.raises(ConfigError, match="n_train=31 must lie between 1 and 30"):
        draw(images, 31, 3, "toy", "n_train")


def test_contents_tell_images_apart_however_they_lie():
    images = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    first, second, third = contents(images)
    assert len({first, second, third}) == 3
    assert contents(images[:, :1].expand(3, 2, 2)) == contents(images[:, :1].repeat(1, 2, 1))


def test_on_white_is_the_exact_mixture():
    color = torch.arange(256).repeat_interleave(256).to(torch.uint8)
    alpha = torch.arange(256).repeat(256).to(torch.uint8)
    found = on_white(torch.stack([color, color, color, alpha], dim=-1)[None])
    share = alpha.double() / 255
    exact = color.double() * share + 255 * (1 - share)
    assert found.shape == (1, 65536, 3)
    assert (found[0, :, 0].double() - exact).abs().max() <= 0.5
    assert torch.equal(found[0, alpha == 255, 0], color[alpha == 255])
