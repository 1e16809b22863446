"""Layer names for people."""

from __future__ import annotations

from dtheta.report.layers import layer_grid, short_names
from tests.unit.report.examples import LAYERS, ROLES


def test_common_parts_are_dropped() -> None:
    names = ["encoder.layer.0.query.weight", "encoder.layer.1.query.weight", "encoder.layer.1.dense.weight"]
    assert list(short_names(names).values()) == ["0.query", "1.query", "1.dense"]
    assert short_names(["head.weight"]) == {"head.weight": "head"}
    assert list(short_names(["a.weight", "b.bias"]).values()) == ["a.weight", "b.bias"]


def test_blocks_and_roles_make_a_grid() -> None:
    grid = layer_grid({name: float(i) for i, name in enumerate(LAYERS)})
    assert grid.rows == ROLES and grid.columns == ("0", "1", "2", "3", "4", "5")
    assert grid.cells[1][2] == LAYERS.index("encoder.layer.2.attention.self.key.weight")


def test_blocks_are_in_numeric_order_and_gaps_are_empty() -> None:
    grid = layer_grid({f"h.{b}.{r}": 1.0 for b in (10, 2, 3) for r in ("q", "v") if (b, r) != (3, "v")})
    assert grid.columns == ("2", "3", "10") and grid.cells[1] == (1.0, None, 1.0)


def test_one_role_keeps_its_name() -> None:
    grid = layer_grid({f"blocks.{b}.attn.qkv.weight": 1.0 for b in range(3)})
    assert grid.rows == ("qkv",) and grid.columns == ("0", "1", "2")


def test_names_without_blocks_are_listed() -> None:
    grid = layer_grid({"embed.weight": 1.0, "head.weight": 2.0})
    assert grid.rows == ("embed", "head") and grid.cells == ((1.0,), (2.0,))


def test_a_mostly_empty_grid_is_a_list() -> None:
    grid = layer_grid({"a.0.x.weight": 1.0, "b.1.y.weight": 2.0, "c.2.z.weight": 3.0})
    assert grid.columns == ("",) and len(grid.rows) == 3
