"""Unlearning losses against plain loops over sequences and tokens, from the formulas of their papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.full import Full
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError
from dtheta.probe.encoded import Encoded, collate
from dtheta.probe.unlearning.ascent import UNDIAL, WGA, GradAscent, GradDiff
from dtheta.probe.unlearning.objective import Unlearning
from dtheta.probe.unlearning.preference import DPO, NPO, SimNPO
from dtheta.probe.unlearning.rehearsal import Rehearsed
from dtheta.probe.unlearning.representation import RMU
from tests.unit.probe.decoders import D, llama

FORGET = [Encoded([3, 9, 4, 8, 21], 3), Encoded([7, 2, 30], 1), Encoded([5, 6, 7, 8, 9, 10, 11], 4)]
RETAIN = [Encoded([1, 12, 13], 1), Encoded([40, 41, 42, 43], 2), Encoded([14, 15, 16, 17, 18], 1)]


@pytest.fixture
def adapter() -> Iterator[Adapter]:
    """A tiny decoder moved away from its base."""
    held = attach(llama(), Full(), "*.mlp.*")
    with torch.no_grad():
        for parameter in held.trainable().values():
            parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    yield held
    held.detach()


class Plain:
    """Everything one sequence at a time, without padding, in float64 where it counts."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def logits(self, example: Encoded) -> Tensor:
        ids = torch.tensor([example.ids])
        return self.adapter(input_ids=ids).logits[0, :-1].double()

    def rows(self, examples: list[Encoded]) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield (logits now, logits of the original, token) of every token that counts."""
        for example in examples:
            now = self.logits(example)
            with self.adapter.disabled():
                then = self.logits(example)
            for t in range(example.start - 1, len(example.ids) - 1):
                yield now[t], then[t], example.ids[t + 1]

    def s(self, examples: list[Encoded], original: bool = False) -> list[Tensor]:
        """S of each sequence."""
        found = []
        for example in examples:
            rows = [(then if original else now, token) for now, then, token in self.rows([example])]
            found.append(-torch.stack([z.log_softmax(-1)[token] for z, token in rows]).sum())
        return found

    def ce(self, examples: list[Encoded]) -> Tensor:
        return -torch.stack([now.log_softmax(-1)[token] for now, _, token in self.rows(examples)]).mean()

    def kl(self, examples: list[Encoded]) -> Tensor:
        found = []
        for now, then, _ in self.rows(examples):
            p = then.softmax(-1)
            found.append((p * (then.log_softmax(-1) - now.log_softmax(-1))).sum())
        return torch.stack(found).mean()


def npo(p: Plain, beta: float) -> Tensor:
    gains = [now - then for now, then in zip(p.s(FORGET), p.s(FORGET, original=True), strict=True)]
    return torch.stack([-(2 / beta) * torch.log(1 / (1 + torch.exp(-beta * gain))) for gain in gains]).mean()


def simnpo(p: Plain, beta: float, delta: float) -> Tensor:
    lengths = [len(e.ids) - e.start for e in FORGET]
    means = [s / n for s, n in zip(p.s(FORGET), lengths, strict=True)]
    return torch.stack([-(2 / beta) * torch.log(torch.sigmoid(beta * (m - delta))) for m in means]).mean()


def dpo(p: Plain, beta: float) -> Tensor:
    f, r, f0, r0 = p.s(FORGET), p.s(RETAIN), p.s(FORGET, original=True), p.s(RETAIN, original=True)
    gains = [(a - b) - (a0 - b0) for a, b, a0, b0 in zip(f, r, f0, r0, strict=True)]
    return torch.stack([-(2 / beta) * torch.log(torch.sigmoid(beta * gain)) for gain in gains]).mean()


def wga(p: Plain, beta: float) -> Tensor:
    losses = torch.stack([-now.log_softmax(-1)[token] for now, _, token in p.rows(FORGET)])
    return -(torch.exp(-losses).detach() ** beta * losses).mean()


def undial(p: Plain, beta: float) -> Tensor:
    found = []
    for now, then, token in p.rows(FORGET):
        lowered = then.clone()
        lowered[token] -= beta
        found.append(-(lowered.softmax(-1) * now.log_softmax(-1)).sum())
    return torch.stack(found).mean()


CASES: dict[str, tuple[Unlearning, Callable[[Plain], Tensor]]] = {
    "ascent": (GradAscent(), lambda p: -p.ce(FORGET)),
    "difference": (GradDiff(), lambda p: -p.ce(FORGET) + 1.5 * p.ce(RETAIN)),
    "with kl": (GradAscent(kl=2.0), lambda p: -p.ce(FORGET) + 2.0 * p.kl(RETAIN)),
    "wga": (WGA(beta=2.0), lambda p: wga(p, 2.0) + p.ce(RETAIN)),
    "undial": (UNDIAL(beta=3.0), lambda p: undial(p, 3.0)),
    "npo": (NPO(), lambda p: npo(p, 0.1)),
    "npo, retain and kl": (NPO(beta=0.5, retain=1.0, kl=1.0), lambda p: npo(p, 0.5) + p.ce(RETAIN) + p.kl(RETAIN)),
    "simnpo": (SimNPO(delta=0.5), lambda p: 0.125 * simnpo(p, 4.5, 0.5) + p.ce(RETAIN)),
    "dpo": (DPO(), lambda p: dpo(p, 0.1)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_and_its_gradient_are_those_of_the_formula(case: str, adapter: Adapter) -> None:
    method, formula = CASES[case]
    batch = {"forget": collate(FORGET), "retain": collate(RETAIN)}
    found, wanted = method(adapter, batch), formula(Plain(adapter))
    assert torch.allclose(found.double(), wanted, rtol=1e-5), case
    parameters = list(adapter.trainable().values())
    for ours, theirs in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        assert torch.allclose(ours, theirs.to(ours.dtype), rtol=1e-3, atol=1e-5)


def test_rmu_reads_the_stream_of_its_layer(adapter: Adapter) -> None:
    method = RMU(layer=1, scale=1.5, alpha=4.0, seed=3)
    found = method(adapter, {"forget": collate(FORGET), "retain": collate(RETAIN)})
    assert not any(m._forward_hooks for m in adapter.model.model.layers)  # what read the stream is gone again

    def streams(examples: list[Encoded]) -> Tensor:
        parts = [adapter(input_ids=torch.tensor([e.ids]), output_hidden_states=True).hidden_states[2] for e in examples]
        return torch.cat([part[0] for part in parts]).double()

    now_f, now_r = streams(FORGET), streams(RETAIN)
    with adapter.disabled():
        then_f, then_r = streams(FORGET), streams(RETAIN)
    u = torch.rand(D, generator=generator(3, "probe/rmu")).double()
    target = 1.5 * then_f.norm(dim=-1).mean() * u / u.norm()
    size = (then_f**2).mean()
    wanted = ((now_f - target) ** 2).mean() / size + 4.0 * ((now_r - then_r) ** 2).mean() / size
    assert torch.allclose(found.double(), wanted, rtol=1e-5)


def test_before_training_preferences_stand_at_their_middle() -> None:
    """At the start model and original agree: NPO and DPO are (2 / beta) log 2, KL is 0."""
    adapter = attach(llama(), Full(), "*.mlp.*")
    batch = {"forget": collate(FORGET), "retain": collate(RETAIN)}
    for method in (NPO(), DPO()):
        assert math.isclose(method(adapter, batch).item(), 20 * math.log(2), rel_tol=1e-5)
    assert abs(float((GradAscent(kl=1.0)(adapter, batch) - GradAscent()(adapter, batch)).detach())) < 1e-6


def test_settings_are_checked_and_told() -> None:
    with pytest.raises(ConfigError, match="NPO: beta is 0"):
        NPO(beta=0.0)
    with pytest.raises(ConfigError, match=r"GradDiff: retain is -1"):
        GradDiff(retain=-1.0)
    assert GradDiff().to_dict() == {"name": "GradDiff", "retain": 1.5, "kl": 0.0}


def test_no_method_lacks_a_case() -> None:
    def leaves(kind: type) -> Iterator[type]:
        for sub in kind.__subclasses__():
            if not sub.__name__.startswith("_") and sub.__name__ != "Retaining":
                yield sub
            yield from leaves(sub)

    assert set(leaves(Unlearning)) == {type(method) for method, _ in CASES.values()} | {RMU, Rehearsed}
