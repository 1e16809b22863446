"""Members and the blocks that they are computed in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtheta.ensemble.blocks import blocks
from dtheta.ensemble.members import Member, checked, cross, deal
from dtheta.errors import ConfigError


def test_the_paper_ensemble_has_7424_members() -> None:
    found = cross(29, 128)
    assert len(found) == len(set(found)) == 7424
    assert sum(member.sign for member in found) == 0


def test_the_control_stands_for_the_first_member() -> None:
    found = cross(2, 3, control=True)
    assert found[0] == Member(0, 0, 0) and found[1:] == cross(2, 3)[1:]


def test_members_are_dealt_over_networks_in_turn_and_grow_without_changing() -> None:
    assert deal(5, 2) == [Member(0, 0), Member(1, 0), Member(0, 1), Member(1, 1), Member(0, 2)]
    assert deal(100, 7)[:10] == deal(10, 7)
    assert checked(3, None) == [Member(0), Member(1), Member(2)]


def test_members_that_cannot_be_meant_are_refused() -> None:
    for settings, message in (({"sign": 2}, "sign"), ({"draw": -1}, "draw"), ({"parameters": 0.5}, "parameters")):
        with pytest.raises(ConfigError, match=f"{message} of a member"):
            Member(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="each once"):
        cross(1, 1, (1, 1))


members = st.builds(Member, st.integers(0, 9), st.integers(0, 40), st.sampled_from([-1, 0, 1]))


@given(st.lists(members, min_size=1, max_size=60, unique=True), st.integers(1, 9), st.integers(1, 4))
def test_every_member_has_one_place_which_depends_on_itself_alone(listed: list[Member], rows: int, stack: int) -> None:
    found = blocks(listed, rows, stack)
    assert sorted(index for block in found for _, index in block.places) == list(range(len(listed)))
    for block in found:
        assert len(block.members) == rows * stack and len(block.networks) == stack
        for row, index in block.places:
            member = listed[index]
            assert block.members[row] == member
            assert row == (member.parameters % stack) * rows + member.draw % rows
            assert block.networks[row // rows] == member.parameters


def test_full_lists_waste_no_row() -> None:
    assert len(blocks(cross(3, 64), 16)) == 3 * 64 * 2 / 16
    assert len(blocks(deal(96, 3), 16)) == 6
    assert len(blocks(deal(64, None), 1, 16)) == 4
