"""Tensors that are merged into one: shapes, dtypes and weights that go together, or are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dtheta.compose.merge_forms import require_divisible, require_same_form
from dtheta.core.checkpoints import open_checkpoint
from dtheta.errors import ConfigError
from tests.unit.compose.checkpoints import write


@pytest.mark.parametrize(
    ("name", "tensors", "said"),
    [
        ("w", [torch.ones(2, 2), torch.ones(2, 3)], r"its shapes differ: \[2, 2\] in .*0, \[2, 3\] in .*1$"),
        ("embed", [torch.ones(2, 2), torch.ones(3, 2)], "resize the vocabularies to one size first"),
        ("w", [torch.ones(2, dtype=torch.int64), torch.ones(2)], r"its dtypes differ: torch.int64 in .*0, floats in"),
        ("w", [torch.ones(2).long(), torch.ones(2).int()], r"its dtypes differ: torch.int64 .*torch.int32"),
        ("w", [torch.ones(2), torch.ones(2).to(torch.float8_e4m3fn)], "dequantize it first"),
        ("w", [torch.ones(2), torch.ones(2, dtype=torch.complex64)], "torch.complex64, which is not merged"),
    ],
)
def test_forms_that_differ(tmp_path: Path, name: str, tensors: list[torch.Tensor], said: str) -> None:
    found = [open_checkpoint(write(tmp_path / str(i), {name: tensor})) for i, tensor in enumerate(tensors)]
    require_same_form(name, (found[0], name), [(found[0], name)])
    with pytest.raises(ConfigError, match=said):
        require_same_form(name, None, [(checkpoint, name) for checkpoint in found])
    with pytest.raises(ConfigError, match=said):
        require_same_form(name, (found[0], name), [(found[1], name)])


def test_floats_of_any_size_go_together(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    found = [open_checkpoint(write(tmp_path / str(i), {"w": torch.ones(2).to(kind)})) for i, kind in enumerate(kinds)]
    require_same_form("w", None, [*((checkpoint, "w") for checkpoint in found), (found[0], None)])


@pytest.mark.parametrize("weights", [(1.0, -1.0), (0.1, 0.2, -0.3), (0.0, 0.0)])
def test_weights_without_a_sum(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="the weights sum to 0"):
        require_divisible("linear", {"normalize": True}, {"weight": weights})
    require_divisible("linear", {"normalize": False}, {"weight": weights})
    require_divisible("ties", {"normalize": True}, {"weight": weights})  # which divides by 1 there
    require_divisible("linear", {"normalize": True}, {"weight": (*weights, 1e-6)})
