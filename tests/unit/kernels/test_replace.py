"""Replacing MLPs: errors are those of a plain computation, later ones see earlier ones, bad input is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import dtheta as dt
from dtheta.core.mlps import find_mlps
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer
from dtheta.kernels.latency import latency
from dtheta.kernels.mlp_inputs import mlp_inputs, outputs
from dtheta.kernels.replace import replace_mlps
from dtheta.kernels.replacement import Cost, Replaced, Replacement

CONFIG: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 31,
}  # fmt: skip
FAST: dict[str, Any] = {"sizes": (1,)}


def bert() -> nn.Module:
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**CONFIG, initializer_range=0.2))


def batches(count: int = 8) -> list[dict[str, Tensor]]:
    """Texts of 4 to 10 tokens, padded."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(4, 11, (count, 8), generator=draw)
    return [
        {
            "input_ids": torch.randint(3, 31, (8, 10), generator=draw),
            "attention_mask": (torch.arange(10) < of[:, None]).long(),
        }
        for of in lengths
    ]


def test_inputs_are_those_of_real_tokens_and_the_pass_ends_there() -> None:
    model = bert().train()
    mlp, batch = find_mlps(model)[1], batches(1)[0]
    seen: list[Tensor] = []
    hook = mlp.entry.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.eval()(**batch)
    hook.remove()
    later: list[int] = []
    hook = model.encoder.layer[2].register_forward_hook(lambda *_: later.append(1))  # type: ignore[union-attr,index]
    model.train()
    (found,) = mlp_inputs(model, mlp, [batch])
    hook.remove()
    assert torch.equal(found, seen[0][batch["attention_mask"].bool()]) and not later
    assert all(module.training for module in model.modules()) and not mlp.entry._forward_pre_hooks


def test_errors_are_those_of_a_plain_computation_on_the_batches_held_out() -> None:
    model, given = bert().eval(), batches()
    found = replace_mlps(model, given, 6, sequential=False, seed=3, **FAST)
    held = [given[i] for i in sorted(keyed_order(len(given), 3, "replace/held-out")[:2])]
    before = torch.cat(list(outputs(model, held)))
    inputs = [torch.cat(list(mlp_inputs(model, mlp, held))) for mlp in find_mlps(model)]
    for row, mlp, x in zip(found.mlps, find_mlps(model), inputs, strict=True):
        of = {n.rpartition("replaced.")[2]: c.dense() for n, c in found.delta.changes.items() if n.startswith(mlp.name)}
        y = mlp(x)
        hidden = torch.nn.functional.gelu(x @ of["up.weight"].T + of["up.bias"])
        missed = y - (hidden @ of["down.weight"].T + of["down.bias"] + x @ of["skip.weight"].T)
        assert row.error == pytest.approx(
            float((missed.square().sum() / (y - y.mean(0)).square().sum()).detach()), rel=1e-3
        )
        assert row.examples == sum(int(b["attention_mask"].sum()) for b in given) - len(x)
    with dt.attach(model, found.delta).disabled():
        pass
    after = torch.cat(list(outputs(model, held)))
    wanted = float((after - before).square().sum() / (before - before.mean(0)).square().sum())
    assert found.output_error == pytest.approx(wanted, rel=1e-3)


def test_all_neurons_give_the_model_back() -> None:
    found = replace_mlps(bert(), batches(), 24, **FAST)
    assert found.output_error < 1e-6 and max(row.error for row in found.mlps) < 1e-6


def test_in_sequence_the_first_is_fitted_alike_and_later_ones_on_what_earlier_ones_make() -> None:
    model, given = bert(), batches()
    inside, apart = (replace_mlps(model, given, 4, sequential=s, ridge=1e-3, **FAST) for s in (True, False))
    first = [n for n in inside.delta if n.startswith("encoder.layer.0")]
    assert all(torch.equal(inside.delta[n].dense(), apart.delta[n].dense()) for n in first)
    held = [given[i] for i in sorted(keyed_order(len(given), 0, "replace/held-out")[:2])]
    adapter = dt.attach(model, inside.delta.restrict("encoder.layer.0.*|encoder.layer.1.*"))
    mlp = find_mlps(model)[2]
    x = torch.cat(list(mlp_inputs(model, mlp, held)))
    adapter.detach()
    of = {n.rpartition("replaced.")[2]: inside.delta[n].dense() for n in inside.delta if n.startswith(mlp.name)}
    hidden = torch.nn.functional.gelu(x @ of["up.weight"].T + of["up.bias"])
    y = mlp(x)
    missed = y - (hidden @ of["down.weight"].T + of["down.bias"] + x @ of["skip.weight"].T)
    wanted = float((missed.square().sum() / (y - y.mean(0)).square().sum()).detach())
    assert inside.mlps[2].error == pytest.approx(wanted, rel=1e-3)
    assert inside.mlps[2].error != pytest.approx(apart.mlps[2].error, rel=1e-6)


def test_the_model_is_as_it_was_and_the_same_seed_gives_the_same_bits() -> None:
    model = bert().train()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    for variant in ("own-neurons", "own-random", "random"):
        a, b = (replace_mlps(model, batches(), 5, variant=variant, **FAST) for _ in range(2))  # type: ignore[arg-type]
        assert a.delta == b.delta
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    assert all(module.training and "forward" not in vars(module) for module in model.modules())
    other = replace_mlps(model, batches(), 5, variant="own-random", seed=1, **FAST)
    assert other.delta != replace_mlps(model, batches(), 5, variant="own-random", **FAST).delta


def test_costs_count_numbers_and_products() -> None:
    found = replace_mlps(bert(), batches(), 5, select="encoder.layer.1.*", sizes=(1, 3))
    (row,) = found.mlps
    d, h, m = 16, 24, 5
    assert (row.before.parameters, row.before.flops) == (2 * d * h + d + h, 4 * d * h)
    assert (row.after.parameters, row.after.flops) == (2 * d * m + d + m + d * d, 2 * (2 * d * m + d * d))
    assert set(found.latency) == {1, 3} and all(t > 0 for pair in found.latency.values() for t in pair)
    assert found.delta.provenance.operation == "snnk-replace" and found.delta.provenance.seed == 0
    assert found.delta.provenance.settings["mlps"] == ["encoder.layer.1.intermediate"]
    random = replace_mlps(bert(), batches(), 5, select="encoder.layer.1.*", variant="random", skip=False, **FAST)
    assert random.mlps[0].after.parameters == d * 5 + d
    assert random.mlps[0].after.flops == 2 * (d * 5 + 5 * (d + 1))  # the projection is multiplied, and not held


def test_the_verdict_says_where_it_does_not_pay() -> None:
    def replacement(after: Cost, error: float) -> Replacement:
        before = Cost(100, 200, {1: 1.0, 32: 2.0})
        return Replacement(dt.Delta({}), (Replaced("a.mlp", error, None, 0.0, 9, before, after),), 0.1)

    assert replacement(Cost(50, 100, {1: 0.5, 32: 1.0}), 0.1).verdict() == []
    said = replacement(Cost(100, 250, {1: 1.2, 32: 1.0}), 0.6).verdict()
    assert [line.partition(":")[0] for line in said[:2]] == ["does not pay in numbers", "does not pay in flops"]
    assert said[2] == "does not pay in time at batch 1 (1.20x the time)" and said[3].startswith("loses more than half")


def test_latency_is_of_one_call() -> None:
    calls = {"a": 0, "b": 0}

    def count(name: str) -> Any:
        def function(x: Tensor) -> Tensor:
            calls[name] += 1
            return x

        return function

    found = latency({name: count(name) for name in calls}, torch.zeros(1), repeat=3)
    assert set(found) == {"a", "b"} and min(calls.values()) >= 5 and max(found.values()) < 1


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"width": 25}, ConfigError, "encoder.layer.0.intermediate: width=25 is more than the 24 neurons"),
        ({"width": 17, "variant": "low-rank"}, ConfigError, "more than the rank 16 of its matrices"),
        ({"width": 10**9, "variant": "random"}, ConfigError, "fit on 1000000016 features take 1.6e"),
        ({"width": 0}, ConfigError, "width"),
        ({"width": 2.5}, ConfigError, "width"),
        ({"variant": "neurons"}, ConfigError, "expected one of own-neurons"),
        ({"batches": batches(1)}, ConfigError, "too few batches"),
        ({"batches": []}, ConfigError, "too few batches"),
        ({"held_out": 1.5}, ConfigError, "between 0 and 1"),
        ({"held_out": []}, ConfigError, "0 to measure errors on"),
        ({"select": "@attention"}, UnsupportedLayer, "takes no MLP"),
        ({"batches": [{k: v[:1, :4] for k, v in b.items()} for b in batches(3)]}, ConfigError, "give more data"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], error: type[Exception], said: str) -> None:
    given = {"batches": batches(), "width": 6, **options, **FAST}
    model = bert()
    with pytest.raises(error, match=said):
        replace_mlps(model, given.pop("batches"), given.pop("width"), **given)
    assert all("forward" not in vars(module) for module in model.modules())


def test_models_that_cannot_be_replaced_are_refused() -> None:
    with pytest.raises(UnsupportedLayer, match="does not run this MLP"):
        replace_mlps(Unused(), [torch.randn(9, 4)] * 3, 2)
    with pytest.raises(UnsupportedLayer, match="has no MLP"):
        replace_mlps(nn.Linear(4, 4), [torch.randn(9, 4)] * 3, 2)
    model = bert()
    dt.attach(model, dt.LoRA(rank=2), select="@mlp")
    with pytest.raises(UnsupportedLayer, match="an adapter is on Linear layers of this MLP"):
        replace_mlps(model, batches(), 6)
    broken = bert()
    with torch.no_grad():
        broken.embeddings.word_embeddings.weight.fill_(float("nan"))  # type: ignore[union-attr,operator]
    with pytest.raises(NonFinite):
        replace_mlps(broken, batches(), 6)


class Twice(nn.Module):
    """One MLP in two places, at inputs of other sizes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mlp = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(4 * torch.tanh(x + self.mlp(x)) + 2)


def test_an_mlp_that_a_pass_runs_twice_is_fitted_to_and_measured_on_both() -> None:
    draw = torch.Generator().manual_seed(0)
    given, held = [[torch.randn(50, 6, generator=draw) for _ in range(n)] for n in (4, 2)]
    model = Twice().eval()
    found = replace_mlps(model, given, 8, held_out=held, **FAST)
    assert found.mlps[0].examples == 2 * 4 * 50
    x = torch.cat(held)
    with torch.no_grad():
        inputs = torch.cat([x, 4 * torch.tanh(x + model.mlp(x)) + 2])
        y = model.mlp(inputs)
        adapter = dt.attach(model, found.delta)
        missed = (y - model.mlp(inputs)).square().sum()
        adapter.detach()
    assert found.mlps[0].error == pytest.approx(float(missed / (y - y.mean(0)).square().sum()), rel=1e-3)


def test_a_model_of_one_number_an_example_has_an_error_of_its_output() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 1), nn.Flatten(0)).eval()
    given = [torch.randn(n, 6) for n in (60, 60, 40, 30)]
    found = replace_mlps(model, given[:2], 6, held_out=given[2:], **FAST)
    assert found.output_error == pytest.approx(found.mlps[0].error, rel=1e-3)


def test_the_mask_of_an_encoder_says_nothing_of_the_tokens_of_its_decoder() -> None:
    sizes: dict[str, Any] = {"vocab_size": 31, "d_model": 8, "d_ff": 16, "d_kv": 4, "num_layers": 1, "num_heads": 2}
    model = transformers.T5Model(transformers.T5Config(**sizes)).eval()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    batch = {"input_ids": torch.ones(2, 4).long(), "attention_mask": mask, "decoder_input_ids": torch.ones(2, 4).long()}
    encoder, decoder = find_mlps(model)
    assert [len(x) for mlp in (encoder, decoder) for x in mlp_inputs(model, mlp, [batch])] == [5, 8]
    assert [len(y) for y in outputs(model, [batch])] == [8]
    batch["decoder_attention_mask"] = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert [len(x) for mlp in (encoder, decoder) for x in mlp_inputs(model, mlp, [batch])] == [5, 7]
    assert [len(y) for y in outputs(model, [batch])] == [7]
