"""Replaced MLPs on a model: it runs as with the modules exchanged by hand, trains, and comes off without a trace."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import dtheta as dt
from dtheta.core.delta import Delta
from dtheta.core.tensors import base_tensors
from dtheta.errors import BaseMismatch, ConfigError, ShapeMismatch, UnknownParameter, UnsupportedLayer
from dtheta.kernels.mlp_inputs import run_batch
from dtheta.kernels.replace import replace_mlps

CONFIG: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 31,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def bert() -> nn.Module:
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**CONFIG)).eval()


def llama() -> nn.Module:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).eval()


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, 3)).eval()


def batches(model: nn.Module, count: int = 6) -> list[Any]:
    draw = torch.Generator().manual_seed(1)
    if isinstance(model, nn.Sequential):
        return [torch.randn(40, 6, generator=draw) for _ in range(count)]
    return [{"input_ids": torch.randint(3, 31, (8, 10), generator=draw)} for _ in range(count)]


def output(model: nn.Module, batch: Any) -> Tensor:
    found = run_batch(model, batch)
    return found if isinstance(found, Tensor) else found[0]


def replaced(model: nn.Module, **options: Any) -> Delta:
    return replace_mlps(model, batches(model), 6, **{"sizes": (1,), **options}).delta


class ByHand(nn.Module):
    """What stands in for an MLP, written out from the tensors of a delta."""

    def __init__(self, delta: Delta, mlp: str, activation: nn.Module) -> None:
        super().__init__()
        self.of = {n.removeprefix(f"{mlp}.replaced."): c.dense() for n, c in delta.changes.items() if n.startswith(mlp)}
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        of = self.of
        up = x @ of["up.weight"].T + of["up.bias"]
        gate = self.activation(x @ of["gate.weight"].T + of["gate.bias"]) if "gate.weight" in of else None
        hidden = self.activation(up) if gate is None else gate * up
        y = hidden @ of["down.weight"].T + of["down.bias"]
        return y + x @ of["skip.weight"].T if "skip.weight" in of else y


@pytest.mark.parametrize("skip", [True, False])
def test_bert_runs_as_with_its_modules_exchanged_by_hand(skip: bool) -> None:
    model = bert()
    delta, other = replaced(model, skip=skip), copy.deepcopy(bert())
    for i, layer in enumerate(other.encoder.layer):  # type: ignore[union-attr,arg-type]
        layer.intermediate = ByHand(delta, f"encoder.layer.{i}.intermediate", nn.GELU())
        layer.output.dense = nn.Identity()
    dt.attach(model, delta)
    torch.testing.assert_close(output(model, batches(model)[0]), output(other, batches(model)[0]))


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.ReLU(), nn.SiLU()])
def test_a_run_of_a_sequence_runs_as_with_its_modules_exchanged_by_hand(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 12), activation, nn.Linear(12, 3), nn.LayerNorm(3)).eval()
    x = torch.randn(40, 6)
    found = replace_mlps(model, batches(model), 6, sizes=(1,), held_out=[x])
    by_hand = nn.Sequential(model[0], ByHand(found.delta, "1", activation), model[4])
    with torch.no_grad():
        wanted, y = by_hand(x), model(x)
        dt.attach(model, found.delta)
        torch.testing.assert_close(model(x), wanted)
    error = (y - wanted).square().sum() / (y - y.mean(0)).square().sum()
    assert found.output_error == pytest.approx(float(error), rel=1e-4)


@pytest.mark.parametrize("skip", [True, False])
def test_llama_runs_as_with_its_modules_exchanged_by_hand(skip: bool) -> None:
    model = llama()
    delta, other = replaced(model, skip=skip), copy.deepcopy(llama())
    for i, layer in enumerate(other.model.layers):  # type: ignore[union-attr,arg-type]
        layer.mlp = ByHand(delta, f"model.layers.{i}.mlp", nn.SiLU())
    dt.attach(model, delta)
    torch.testing.assert_close(output(model, batches(model)[0]), output(other, batches(model)[0]))


@pytest.mark.parametrize("variant", ["own-neurons", "own-random", "random", "low-rank"])
@pytest.mark.parametrize("make", [bert, llama, plain])
def test_a_file_runs_as_the_delta_did_and_detaching_restores_every_bit(make: Any, variant: str, tmp_path: Path) -> None:
    model, width = make(), 3
    batch = batches(model)[0]
    before, tensors = output(model, batch), {n: t.clone() for n, t in base_tensors(model).items()}
    delta = replace_mlps(model, batches(model), width, variant=variant, sizes=(1,)).delta  # type: ignore[arg-type]
    delta.save(tmp_path / "replaced.delta")
    adapter = dt.attach(model, delta)
    after = output(model, batch)
    assert not torch.equal(after, before)
    assert adapter.delta() == delta
    with adapter.disabled():
        assert torch.equal(output(model, batch), before)
    adapter.detach()
    assert torch.equal(output(model, batch), before)
    assert all(torch.equal(t, tensors[n]) for n, t in base_tensors(model).items())
    assert all("forward" not in vars(m) and "dtheta_replaced" not in vars(m) for m in model.modules())
    loaded = dt.load(tmp_path / "replaced.delta")
    assert loaded == delta
    with dt.attach(model, loaded).disabled():
        pass
    assert torch.equal(output(model, batch), after)


def test_training_moves_every_tensor_but_the_mark_and_lowers_the_loss() -> None:
    model = plain()
    delta = replaced(model)
    x = batches(model)[0]
    with torch.no_grad():
        wanted = model(x)
    adapter = dt.attach(model, delta)

    def loss(found: Any, batch: Tensor) -> Tensor:
        return (found(batch) - wanted).square().mean()

    first = float(loss(adapter, x).detach())
    dt.fit(adapter, [x], steps=40, lr=1e-2, loss=loss, quiet=True)
    assert float(loss(adapter, x).detach()) < 0.7 * first
    trained = adapter.delta()
    moved = {name: not torch.equal(trained[name].dense(), delta[name].dense()) for name in delta}
    assert moved == {name: not name.endswith(".seal") for name in delta}
    assert trained.provenance.parents == [delta.digest]
    adapter.detach()
    dt.attach(model, trained)
    assert float(loss(model, x).detach()) < 0.7 * first


def test_the_delta_is_refused_on_another_base() -> None:
    delta, other = replaced(bert()), bert()
    with torch.no_grad():
        other.embeddings.word_embeddings.weight.add_(1)  # type: ignore[union-attr,operator]
    dt.attach(other, delta).detach()  # what it does not touch may differ
    with torch.no_grad():
        other.encoder.layer[0].output.dense.bias.add_(1)  # type: ignore[union-attr,index]
    with pytest.raises(BaseMismatch, match=r"encoder\.layer\.0\.output\.dense\.bias"):
        dt.attach(other, delta)
    dt.attach(other, delta, strict=False).detach()


def test_neither_sums_nor_multiples_nor_weights_between_are_meant() -> None:
    model = bert()
    a, b = replaced(model), replaced(model, seed=1)
    for delta in (a + b, 0.5 * a, a - b, -1.0 * a, 0.5 * (a + b), 0.3 * a + 0.7 * b, dt.uniform_soup([a, b])):
        with pytest.raises(UnsupportedLayer, match="a sum, an average or a multiple"):
            dt.attach(model, delta)
    with pytest.raises(ConfigError, match="replaced or it is not"):
        dt.attach(model, a, weight=0.5)
    assert all("forward" not in vars(m) for m in model.modules())
    with pytest.raises(UnsupportedLayer, match="attach it instead"):
        dt.merge(model, a)
    with pytest.raises(UnsupportedLayer, match="attach it instead"), dt.applied(model, a):
        pass


def test_what_comes_back_to_one_fit_runs_as_it_does() -> None:
    model = plain()
    a, b = replaced(model), replaced(model, variant="own-random")
    x = batches(model)[0]
    with torch.no_grad():
        adapter = dt.attach(model, a)
        wanted = output(model, x)
        adapter.detach()
        for same in (1.0 * a, 0.5 * a + 0.5 * a, a + b - b):
            adapter = dt.attach(model, same)
            torch.testing.assert_close(output(model, x), wanted)
            adapter.detach()


def test_an_average_of_two_trainings_of_one_fit_is_of_the_same_neurons() -> None:
    model = plain()
    fit = replaced(model)
    trained = []
    for seed in (0, 1):
        adapter = dt.attach(model, fit)
        target = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed))
        loss = lambda net, x, target=target: (net(x) - target).square().mean()  # noqa: E731
        dt.fit(adapter, [batches(model)[0]], steps=3, lr=1e-2, loss=loss, quiet=True)
        trained.append(adapter.delta())
        adapter.detach()
    average = 0.5 * trained[0] + 0.5 * trained[1]
    adapter = dt.attach(model, average)
    x = batches(model)[1]
    torch.testing.assert_close(output(model, x), ByHand(average, "0", nn.Tanh())(x))


def test_an_mlp_is_replaced_once() -> None:
    model = bert()
    dt.attach(model, replaced(model, select="encoder.layer.0.*"))
    with pytest.raises(UnsupportedLayer, match="replaced already"):
        dt.attach(model, replaced(bert()))
    dt.attach(model, replaced(bert(), select="encoder.layer.1.*"))  # beside it another may be


def test_no_other_adapter_stands_where_nothing_would_read_it() -> None:
    model = llama()
    delta = replaced(model)
    adapter = dt.attach(model, delta)
    with pytest.raises(UnsupportedLayer, match="nothing reads this layer"):
        dt.attach(model, dt.LoRA(rank=2), select="@mlp")
    dt.attach(model, dt.LoRA(rank=2), select="@attention").detach()
    adapter.detach()
    lora = dt.attach(model, dt.LoRA(rank=2), select="@mlp")
    with pytest.raises(UnsupportedLayer, match="an adapter on one of its layers"):
        dt.attach(model, delta)
    lora.detach()
    dt.attach(model, delta).detach()


def test_tensors_that_are_missing_or_of_another_model_are_refused() -> None:
    model, delta = bert(), replaced(bert())
    part = {n: c for n, c in delta.changes.items() if not n.endswith("0.intermediate.replaced.down.weight")}
    with pytest.raises(
        ShapeMismatch, match=r"layer.0.intermediate.replaced.down.weight: expected \(16, 6\).*found none"
    ):
        dt.attach(model, Delta(part, delta.base))
    with pytest.raises(UnknownParameter, match=r"replaces the MLP 'encoder.layer.7.intermediate'"):
        dt.attach(model, delta.rename(lambda n: n.replace("layer.1.", "layer.7.")), strict=False)


def test_a_copy_of_an_adapter_runs_by_itself() -> None:
    model = plain()
    adapter = dt.attach(model, replaced(model))
    x = batches(model)[0]
    twin, before = copy.deepcopy(adapter), adapter(x)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for p in twin.trainable().values():
            p.zero_()
    assert torch.equal(adapter(x), before) and not twin(x).any()
    twin.detach()
    assert torch.equal(adapter(x), before)
