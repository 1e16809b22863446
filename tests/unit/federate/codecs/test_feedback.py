"""What was left out, in the next round."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.change import Dense as Displacement
from dtheta.core.change import New
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank as Product
from dtheta.errors import ConfigError, NonFinite
from dtheta.federate.codecs import Amplitude, Dense, Exact, Feedback, LowRank, Ternary
from dtheta.federate.frame import Frame
from tests.unit.federate.codecs.examples import CAP, delta, draw, flat

FRAME = Frame.of(delta())
PUSH = Delta({"a": Displacement(torch.tensor([1.0, 0.01]))})


def sent(feedback: Feedback, codec, one: Delta, frame: Frame) -> Delta:
    payload = feedback.encode(codec, one, frame, seed=0, key="k")
    return codec.decode(payload, frame, cap=CAP, seed=0, key="k")


def test_the_bookkeeping_is_exact_to_float64():
    feedback = Feedback()
    arrived = flat(sent(feedback, Ternary(0.2), delta(), FRAME), FRAME)
    state = feedback.state()
    assert state is not None
    torch.testing.assert_close(flat(state, FRAME), flat(delta(), FRAME) - arrived, rtol=1e-12, atol=1e-6)
    dense = delta().restrict("dense|prompt")
    frame = Frame.of(dense)
    feedback = Feedback()
    arrived = flat(sent(feedback, Ternary(0.2), dense, frame), frame)
    assert torch.equal(flat(feedback.state() or dense, frame), flat(dense, frame) - arrived)


def test_a_small_steady_push_gets_through_with_feedback_and_never_without():
    frame, feedback = Frame.of(PUSH), Feedback()
    rounds = [sent(feedback, Ternary(0.5), PUSH, frame)["a"].dense() for _ in range(150)]
    assert float(torch.stack(rounds).sum(0)[1]) > 0
    assert sent(Feedback(), Ternary(0.5), PUSH, frame)["a"].dense()[1] == 0


def test_an_exact_codec_leaves_nothing():
    feedback = Feedback(delta(1))
    arrived = sent(feedback, Exact(), delta(), FRAME)
    assert feedback.state() is None
    torch.testing.assert_close(flat(arrived, FRAME), flat(delta(), FRAME) + flat(delta(1), FRAME), rtol=1e-6, atol=1e-6)


def test_a_low_rank_residual_stays_in_factors():
    one = Delta({"a": Product(draw(40, 3), draw(3, 30))})
    feedback = Feedback()
    sent(feedback, LowRank(1), one, Frame.of(one))
    state = feedback.state()
    assert state is not None
    left = state["a"]
    assert isinstance(left, Product) and left.rank in (2, 3, 4)


def test_a_new_vector_has_a_residual_too():
    one = Delta({"prompt": New(draw(2, 8))})
    feedback = Feedback()
    arrived = sent(feedback, Dense("float16"), one, Frame.of(one))
    state = feedback.state()
    assert state is not None and state["prompt"].kind == "new" and state["prompt"].dtype == torch.float64
    assert torch.equal(state["prompt"].dense() + arrived["prompt"].dense(), one["prompt"].dense().double())


def test_a_state_goes_on_elsewhere():
    frame = Frame.of(PUSH)
    first = Feedback()
    sent(first, Ternary(0.5), PUSH, frame)
    second = Feedback()
    assert second.state() is None
    second.restore(first.state())
    assert sent(first, Ternary(0.5), PUSH, frame) == sent(second, Ternary(0.5), PUSH, frame)
    second.restore(None)
    assert second.state() is None


def test_a_refused_round_leaves_the_residual_as_it_was():
    frame, feedback = Frame.of(PUSH), Feedback()
    sent(feedback, Ternary(0.5), PUSH, frame)
    before = feedback.state()
    with pytest.raises(NonFinite):
        feedback.encode(Ternary(0.5), Delta({"a": Displacement(torch.tensor([torch.inf, 0]))}), frame, seed=0, key="k")
    assert feedback.state() is before


def test_what_the_receiver_draws_has_no_feedback():
    with pytest.raises(ConfigError, match="'amplitude': what arrives is drawn"):
        Feedback().encode(Amplitude(), PUSH, Frame.of(PUSH), seed=0, key="k")
