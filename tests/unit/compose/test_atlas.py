"""Learning: coefficients are found again, by every variant; rules, seeds, errors; the base stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dtheta.compose.atlas import learn_coefficients
from dtheta.compose.coefficients import Coefficients, blocks
from dtheta.compose.compose import compose
from dtheta.compose.linearized import linearized
from dtheta.core.apply import applied
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, UnsupportedLayer
from tests.unit.compose.examples import bits, delta, normal

Batch = tuple[Tensor, Tensor]


def error(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


@pytest.fixture
def deltas(tiny_mlp: nn.Module) -> list[Delta]:
    return [delta(tiny_mlp, kind, i) for i, kind in enumerate(("dense", "low-rank", "ternary"))]


def teach(model: nn.Module, deltas: list[Delta], weights: Any, count: int = 6) -> list[Batch]:
    """Batches whose targets are what a composition of the deltas says."""
    with applied(model, compose(deltas, weights)), torch.no_grad():
        return [(x := normal(16, 12, index=i, name="inputs"), model(x)) for i in range(count)]


def on(batches: Iterable[Batch], loss: Callable[..., Tensor] = error) -> Callable[[nn.Module], float]:
    batches = list(batches)
    return lambda model: sum(float(loss(model, b).detach()) for b in batches) / len(batches)


SETTINGS: dict[str, Any] = {"epochs": 40, "lr": 5e-2, "weight_decay": 0.0, "schedule": "cosine"}


def test_the_coefficients_that_made_the_data_are_found(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    table = 0.5 * normal(3, 4, name="table")
    found = learn_coefficients(tiny_mlp, deltas, teach(tiny_mlp, deltas, table), error, **{**SETTINGS, "epochs": 150})
    assert torch.allclose(found.values[..., 0], table.double(), atol=0.03)
    assert found.report is not None and found.report.epochs[-1].loss < 1e-4  # type: ignore[operator]


def test_isotropic_coefficients_are_tied_ones(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    """One step of plain descent by hand, with the gradients of the blocks added; and the data's numbers are found."""
    batches = teach(tiny_mlp, deltas, [0.6, -0.4, 0.9])
    found = learn_coefficients(tiny_mlp, deltas, batches, error, isotropic=True, **SETTINGS)
    assert torch.equal(found.values, found.values[:, :1].expand_as(found.values))
    assert torch.allclose(found.values[:, 0, 0], torch.tensor([0.6, -0.4, 0.9], dtype=torch.float64), atol=0.02)
    c = torch.zeros(3, requires_grad=True)
    moved = {n: p + sum(c[i] * d[n].dense() for i, d in enumerate(deltas)) for n, p in tiny_mlp.named_parameters()}
    loss = F.mse_loss(torch.func.functional_call(tiny_mlp, moved, (batches[0][0],)), batches[0][1])
    optimizer = torch.optim.AdamW([c], lr=0.1, weight_decay=0.0)
    loss.backward()
    optimizer.step()
    one = learn_coefficients(
        tiny_mlp, deltas, batches[:1], error, isotropic=True, epochs=1, lr=0.1, weight_decay=0.0, clip=None
    )
    assert torch.allclose(one.values[:, 0, 0].float(), c.detach(), atol=1e-5)


def test_one_part_is_the_plain_variant_and_more_fit_better(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    target = copy.deepcopy(tiny_mlp)
    with torch.no_grad():
        for index, parameter in enumerate(target.parameters()):
            parameter += 0.1 * normal(*parameter.shape, index=index, name="target")
        batches = [(x := normal(16, 12, index=i, name="inputs"), target(x)) for i in range(4)]
    settings = {**SETTINGS, "epochs": 25}
    plain = learn_coefficients(tiny_mlp, deltas, batches, error, **settings)
    assert learn_coefficients(tiny_mlp, deltas, batches, error, parts=1, **settings) == plain
    losses = [plain.report.epochs[-1].loss]  # type: ignore[union-attr]
    for parts in (4, 16):
        split = learn_coefficients(tiny_mlp, deltas, batches, error, parts=parts, seed=2, **settings)
        assert split.values.shape == (3, 4, parts) and split.seed == 2
        losses.append(split.report.epochs[-1].loss)  # type: ignore[union-attr]
        with applied(tiny_mlp, compose(deltas, split)):
            assert on(batches)(tiny_mlp) < losses[0]  # type: ignore[operator]
    assert losses == sorted(losses, reverse=True)  # type: ignore[type-var]


def test_what_was_scored_is_what_compose_makes(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    batches = teach(tiny_mlp, deltas, [1.0, 0.5, 0.0])
    metric = on(batches)
    for extra in ({}, {"parts": 3}, {"isotropic": True}):
        found = learn_coefficients(
            tiny_mlp, deltas, batches, error, metric=metric, better="lower", epochs=5, lr=0.05, **extra
        )
        assert found.report is not None
        with applied(tiny_mlp, compose(deltas, found)):
            assert metric(tiny_mlp) == found.report.epochs[found.report.best].scores["score"]


def test_the_best_epoch_is_kept_and_never_below_the_start(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    batches = teach(tiny_mlp, deltas, [1.0, 0.5, 0.0])
    scores = iter([3.0, 1.0, 4.0, 4.0, 2.0])
    found = learn_coefficients(tiny_mlp, deltas, batches, error, metric=lambda model: next(scores), epochs=4)
    short = learn_coefficients(tiny_mlp, deltas, batches, error, epochs=2)
    assert found == short and found.report is not None and found.report.best == 2
    assert [e.scores["score"] for e in found.report.epochs] == [3.0, 1.0, 4.0, 4.0, 2.0]
    worse = learn_coefficients(tiny_mlp, deltas, batches, error, metric=on(batches), better="higher", epochs=3, lr=0.1)
    assert worse == Coefficients.zeros(deltas) and worse.report is not None and worse.report.best == 0


def test_few_shot_never_below_zero_shot(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    """Three examples with random labels: overfitting hurts, and the epoch of the base is among the candidates."""
    shots = [(normal(3, 12, name="shots"), torch.tensor([0, 3, 5]))]
    held = [(normal(64, 12, name="held"), torch.arange(64) % 8)]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def accuracy(model: nn.Module) -> float:
        return float((model(held[0][0]).argmax(1) == held[0][1]).double().mean())

    found = learn_coefficients(tiny_mlp, deltas, shots, loss, metric=accuracy, recipe="few-shot")
    assert found.report is not None and len(found.report.epochs) == 11
    with applied(tiny_mlp, compose(deltas, found)):
        after = accuracy(tiny_mlp)
    assert after >= accuracy(tiny_mlp)


def test_tasks_are_added_and_the_shortest_ends_an_epoch(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    seen: list[str] = []

    def noted(name: str) -> Callable[[nn.Module, Batch], Tensor]:
        def loss(model: nn.Module, batch: Batch) -> Tensor:
            seen.append(name)
            return error(model, batch)

        return loss

    a, b = teach(tiny_mlp, deltas, [1.0, 0.0, 0.0], 2), teach(tiny_mlp, deltas, [0.0, 1.0, 0.0], 5)
    settings: dict[str, Any] = {"epochs": 1, "lr": 0.1, "clip": None, "weight_decay": 0.0}
    losses = {"a": noted("a"), "b": noted("b")}
    learn_coefficients(tiny_mlp, deltas, {"a": a, "b": b}, losses, **settings)
    assert seen == ["a", "b", "a", "b"]

    def both(model: nn.Module, batch: tuple[Batch, Batch]) -> Tensor:
        return error(model, batch[0]) + error(model, batch[1])

    one = learn_coefficients(tiny_mlp, deltas, {"a": a[:1], "b": b[:1]}, error, **settings)
    two = learn_coefficients(tiny_mlp, deltas, [(a[0], b[0])], both, **settings)
    assert torch.allclose(one.values, two.values, atol=1e-6)


def test_accumulated_batches_count_by_their_rows(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    x, y = teach(tiny_mlp, deltas, [1.0, 0.5, 0.0], 1)[0]
    settings: dict[str, Any] = {"epochs": 3, "lr": 0.1}
    whole = learn_coefficients(tiny_mlp, deltas, [(x, y)], error, **settings)
    cut = [(x[:5], y[:5]), (x[5:], y[5:])]
    split = learn_coefficients(tiny_mlp, deltas, cut, error, accumulation=2, **settings)
    assert torch.allclose(whole.values, split.values, atol=1e-5)


def test_a_budget_takes_the_largest_gradients_per_block(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    batches = teach(tiny_mlp, deltas, [1.0, 0.5, -1.0])
    c = torch.zeros(3, 4, requires_grad=True)
    moved = {
        n: tiny_mlp.get_parameter(n) + sum(c[i, j] * d[n].dense() for i, d in enumerate(deltas))
        for j, n in enumerate(blocks(deltas))
    }
    sum(F.mse_loss(torch.func.functional_call(tiny_mlp, moved, (x,)), y) for x, y in batches).backward()  # type: ignore[union-attr]
    assert c.grad is not None
    largest = c.grad.abs().argmax(0)
    found = learn_coefficients(tiny_mlp, deltas, batches, error, budget=1, epochs=2)
    assert torch.equal(found.values[..., 0] != 0, F.one_hot(largest, 3).T.bool())
    whole = learn_coefficients(tiny_mlp, deltas, batches, error, budget=1, selection="whole", epochs=2)
    assert whole.values[..., 0].any(1).nonzero().flatten().tolist() == [int(c.grad.abs().sum(1).argmax())]
    drawn = learn_coefficients(tiny_mlp, deltas, batches, error, budget=2, selection="random", epochs=1)
    assert int(drawn.values.any(1).any(1).sum()) == 2


@pytest.mark.parametrize("order", [1, 2])
def test_the_penalty_makes_coefficients_smaller(tiny_mlp: nn.Module, deltas: list[Delta], order: int) -> None:
    batches = teach(tiny_mlp, deltas, [0.5, 0.5, 0.5])
    free, held = (
        learn_coefficients(tiny_mlp, deltas, batches, error, penalty=w, order=order, **SETTINGS).values
        for w in (0.0, 1.0)
    )
    assert torch.isfinite(held).all() and float(held.abs().sum()) < 0.7 * float(free.abs().sum())


def test_the_penalty_is_half_the_mean_norm_over_blocks(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    """A loss without gradient by the coefficients leaves the penalty alone: its first step is minus its sign."""
    from dtheta.compose.descent import Descent, Unknowns
    from dtheta.compose.objectives import Supply, Task
    from dtheta.compose.recipe import Recipe
    from dtheta.compose.rules import Last

    class Still:
        half, gradient = False, torch.zeros(2, 3, 1, dtype=torch.float64)

    values = normal(2, 3, 1).double()
    for order in (1, 2):
        supply = Supply([Task("", [0], error)], 0)
        unknowns = Unknowns(torch.ones(2, 3, dtype=torch.bool))
        run = Descent(Still(), supply, Last(), unknowns, Recipe(penalty=0.5, order=order), 0)  # type: ignore[arg-type]
        with torch.no_grad():
            run.free.copy_(values)
        wanted = values.sign() / 6 if order == 1 else 0.5 * values / values.norm(dim=0, keepdim=True) / 3
        assert torch.allclose(torch.as_tensor(run._penalty()), wanted)


def test_the_linearized_variant_learns_for_the_expansion(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    wanted = [0.7, -0.5, 0.2]
    target = linearized(tiny_mlp, compose(deltas, wanted))
    with torch.no_grad():
        batches = [(x := normal(16, 12, index=i, name="inputs"), target(x)) for i in range(4)]
    metric = on(batches)
    found = learn_coefficients(
        tiny_mlp, deltas, batches, error, metric=metric, better="lower", isotropic=True, linearized=True, **SETTINGS
    )
    assert torch.allclose(found.values[:, 0, 0], torch.tensor(wanted, dtype=torch.float64), atol=0.02)
    assert found.report is not None
    with torch.no_grad():
        again = metric(linearized(tiny_mlp, compose(deltas, found)))
    assert again == found.report.epochs[found.report.best].scores["score"]


def test_the_same_seed_gives_the_same_bits(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    x, y = map(torch.cat, zip(*teach(tiny_mlp, deltas, [1.0, 0.5, 0.0]), strict=True))
    data = TensorDataset(x, y)

    def noisy(model: nn.Module, batch: Batch) -> Tensor:
        return error(model, (F.dropout(batch[0], 0.3), batch[1]))

    def run(source: Any, seed: int) -> Coefficients:
        return learn_coefficients(tiny_mlp, deltas, source, noisy, epochs=3, seed=seed)

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = run(data, 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert run(data, 0) == first and run(data, 1) != first
    assert run(DataLoader(data, 32, shuffle=True), 3) == run(DataLoader(data, 32, shuffle=True), 3)


@pytest.mark.parametrize("isotropic", [False, True])
def test_the_model_is_as_before(tiny_mlp: nn.Module, deltas: list[Delta], isotropic: bool) -> None:
    tiny_mlp.train()
    tiny_mlp[2].weight.requires_grad_(False)
    batches = teach(tiny_mlp, deltas, 0.5)
    before = bits(tiny_mlp)
    learn_coefficients(tiny_mlp, deltas, batches, error, epochs=2, isotropic=isotropic, linearized=isotropic)
    assert bits(tiny_mlp) == before


@pytest.mark.parametrize("broken", ["loss", "metric", "nan", "batches"])
def test_the_model_is_as_before_when_something_raises(tiny_mlp: nn.Module, deltas: list[Delta], broken: str) -> None:
    batches = teach(tiny_mlp, deltas, 0.5)
    before, calls = bits(tiny_mlp), []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(1)
        if broken == "loss" and len(calls) == 4:
            raise ZeroDivisionError
        return error(model, batch) * (float("nan") if broken == "nan" and len(calls) == 4 else 1.0)

    def metric(model: nn.Module) -> float:
        if broken == "metric" and calls:
            raise ZeroDivisionError
        return 0.0

    source = [*batches[:2], None] if broken == "batches" else batches
    raised: Any = {"nan": NonFinite, "batches": TypeError}.get(broken, ZeroDivisionError)
    with pytest.raises(raised, match="step 4: the loss is nan" if broken == "nan" else None):
        learn_coefficients(tiny_mlp, deltas, source, loss, metric=metric, epochs=2)
    assert bits(tiny_mlp) == before


def test_batch_statistics_are_not_written_to() -> None:
    model = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 8)).train()
    deltas = [delta(model, names=["0.weight", "1.weight", "2.weight"])]
    before = bits(model)
    learn_coefficients(model, deltas, [(normal(4, 12), normal(4, 8))], error, epochs=2)
    assert bits(model) == before


def test_a_model_that_writes_to_itself_is_named(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 8)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x)

    model = Counting()
    with pytest.raises(UnsupportedLayer, match="calls"):
        learn_coefficients(model, [delta(model)], [(normal(4, 12), normal(4, 8))], error, epochs=1)


def test_float16_gradients_that_underflow_or_overflow_are_scaled(tiny_mlp: nn.Module) -> None:
    model = tiny_mlp.half()
    wide = delta(model.float())
    model = model.half()
    one = Delta(wide.changes, fingerprint(model).restrict(wide))
    batch = (normal(4, 12).half(), normal(4, 8))

    def tiny(net: nn.Module, batch: Batch) -> Tensor:
        return 1e-8 * (net(batch[0]).float() - batch[1]).square().mean()

    def huge(net: nn.Module, batch: Batch) -> Tensor:
        return 300.0 * (net(batch[0]).float() - batch[1]).square().sum()

    for loss in (tiny, huge):
        found = learn_coefficients(model, [one], [batch], loss, epochs=1, weight_decay=0.0, clip=None)
        assert bool((found.values != 0).all())


def test_deltas_that_cannot_be_learned(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    batches = [(normal(4, 12), normal(4, 8))]
    with pytest.raises(UnsupportedLayer, match="prompt: a delta brings a vector"):
        learn_coefficients(tiny_mlp, [Delta({"prompt": New(normal(2))})], batches, error)
    with pytest.raises(ConfigError, match="change nothing"):
        learn_coefficients(tiny_mlp, [Delta({})], batches, error)
    with pytest.raises(ConfigError, match="at least one delta"):
        learn_coefficients(tiny_mlp, [], batches, error)
    moved = copy.deepcopy(tiny_mlp)
    with torch.no_grad():
        moved[0].weight += 1
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        learn_coefficients(tiny_mlp, [deltas[0], delta(moved)], batches, error)
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        learn_coefficients(moved, deltas, batches, error)
    assert learn_coefficients(moved, deltas, batches, error, strict=False, epochs=1).values.any()


def test_spectral_deltas_are_bound_to_the_model(tiny_mlp: nn.Module) -> None:
    one = delta(tiny_mlp, "spectral", names=["0.weight"])
    from dtheta.core.spectral import Spectral

    unbound = Delta({"0.weight": Spectral(one["0.weight"].shift, (16, 12))}, one.base)  # type: ignore[attr-defined]
    batches = [(normal(4, 12), normal(4, 8))]
    found = learn_coefficients(tiny_mlp, [unbound], batches, error, epochs=1)
    assert found.deltas == (unbound.digest,) and found.values.all()
    with applied(tiny_mlp, compose([unbound], found)):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": 0}, "parts"), ({"parts": 2, "isotropic": True}, "isotropic"), ({"budget": 9}, "budget"),
        ({"selection": "best", "budget": 1}, "selection"), ({"recipe": "adition"}, "recipe"),
        ({"rate": 1}, "no 'rate'"), ({"metric": float, "better": "up"}, "higher or lower"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_meant(
    tiny_mlp: nn.Module, deltas: list[Delta], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        learn_coefficients(tiny_mlp, deltas, [(normal(4, 12), normal(4, 8))], error, **arguments)


def test_data_that_cannot_be_used(tiny_mlp: nn.Module, deltas: list[Delta]) -> None:
    def learn(batches: Any, loss: Any = error) -> Coefficients:
        return learn_coefficients(tiny_mlp, deltas, batches, loss)

    one = [(normal(4, 12), normal(4, 8))]
    with pytest.raises(ConfigError, match="no batch"):
        learn([])
    with pytest.raises(ConfigError, match="have no length"):
        learn(iter(one))
    with pytest.raises(ConfigError, match="same names"):
        learn({"a": one}, {"b": error})
    with pytest.raises(ConfigError, match="same names"):
        learn(one, {"b": error})
    with pytest.raises(ConfigError, match="no task"):
        learn({})
    with pytest.raises(ConfigError, match="must be a scalar"):
        learn(one, lambda model, batch: model(batch[0]))
    with pytest.raises(ConfigError, match="does not depend"):
        learn(one, lambda model, batch: Dense(batch[1]).values.sum())


def test_one_delta_may_stand_alone(tiny_mlp: nn.Module) -> None:
    one, x = delta(tiny_mlp), normal(8, 12)
    found = [
        learn_coefficients(tiny_mlp, given, [x], lambda model, batch: model(batch).square().mean(), epochs=1)
        for given in (one, [one])
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("wrong", ["a.delta", ["a.delta"], None])
def test_what_is_no_delta(tiny_mlp: nn.Module, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="expected deltas"):
        learn_coefficients(tiny_mlp, wrong, [normal(8, 12)], lambda model, batch: model(batch).sum())


@pytest.mark.parametrize("batches", [[1], {"a": [1]}])
def test_a_loss_is_a_function(tiny_mlp: nn.Module, batches: Any) -> None:
    with pytest.raises(ConfigError, match="the loss is a NoneType; expected a function"):
        learn_coefficients(tiny_mlp, [delta(tiny_mlp)], batches, None)  # type: ignore[arg-type]


def test_one_batch_is_no_mapping_of_tasks(tiny_mlp: nn.Module) -> None:
    batch = {"x": normal(8, 12), "y": normal(8, 12)}
    with pytest.raises(ConfigError, match=r"holds tensors, \['x', 'y'\]: if it is one batch, give it in a list"):
        learn_coefficients(tiny_mlp, [delta(tiny_mlp, "dense")], batch, lambda m, b: m(b["x"]).mean())
