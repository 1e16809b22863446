"""Fingerprints and base tensors: the same name and digest whatever wraps the model or is attached to it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.core.apply import applied, merge
from dtheta.core.fingerprint import Fingerprint, fingerprint, merkle_root, tensor_digest
from dtheta.core.interop import from_peft, to_peft
from dtheta.core.tensors import aliases, attached_to, base_tensors, canonical_names, matches, shared, why_unreadable
from dtheta.errors import BaseMismatch, UnknownParameter, UnsupportedLayer


class Term(nn.Module):
    """What an adapter of ours registers as a parametrization."""

    is_dtheta_term = True

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + 1


def test_digest_is_documented_sha256() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    expected = hashlib.sha256(json.dumps(["float32", [2, 3]]).encode() + tensor.numpy().tobytes()).hexdigest()
    assert tensor_digest(tensor) == expected == tensor_digest(tensor.T.contiguous().T)


def test_dtype_shape_and_bits_all_count() -> None:
    zero = torch.zeros(2, 3)
    others = [zero.half(), zero.reshape(3, 2), zero.reshape(6), -zero, zero + 1e-45, zero[:0], torch.tensor(0.0)]
    assert len({tensor_digest(t) for t in [zero, *others]}) == 8


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64],
)
def test_every_dtype_has_a_digest(dtype: torch.dtype) -> None:
    assert len(tensor_digest(torch.zeros(3).to(dtype))) == 64


def test_tensors_without_plain_data_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedLayer, match=r"(?s)weight.*meta device"):
        fingerprint(nn.Linear(2, 2, device="meta"))
    with pytest.raises(UnsupportedLayer, match=r"(?s)weight.*lazy"):
        fingerprint(nn.LazyLinear(2))
    with pytest.raises(UnsupportedLayer, match="sparse"):
        tensor_digest(torch.eye(2).to_sparse())


def test_a_tensor_without_plain_data_takes_the_root_and_nothing_else(tiny_mlp: nn.Module) -> None:
    whole = fingerprint(tiny_mlp)
    tiny_mlp.register_buffer("graph", torch.eye(3).to_sparse())
    part = fingerprint(tiny_mlp)
    assert part.root is None and part.digests == whole.digests and "sparse" in part.unreadable["graph"]
    assert part.restrict(["0.weight", "prompt"]) == Fingerprint({"0.weight": whole.digests["0.weight"]})
    for ask in (lambda: part.restrict(["0.weight", "graph"]), lambda: fingerprint(tiny_mlp, ["graph"])):
        with pytest.raises(UnsupportedLayer, match=r"^graph: .*sparse"):
            ask()
    whole.check(tiny_mlp)


def test_an_adapter_beside_a_sparse_buffer_has_a_delta(tiny_mlp: nn.Module, tmp_path: Path) -> None:
    tiny_mlp.register_buffer("graph", torch.eye(3).to_sparse())
    adapter = attach(tiny_mlp, LoRA(rank=2), "0.weight")
    delta = adapter.delta()
    adapter.detach()
    assert delta.base.root is None and set(delta.base.digests) == {"0.weight"}
    folder = to_peft(delta, tmp_path / "peft", model=tiny_mlp)
    assert from_peft(folder, tiny_mlp).base.digests == delta.base.digests
    with applied(tiny_mlp, delta):
        pass
    assert torch.equal(merge(tiny_mlp, delta).graph.to_dense(), torch.eye(3))


def test_root_covers_names_and_digests(tiny_mlp: nn.Module) -> None:
    found = fingerprint(tiny_mlp)
    lines = "".join(f"{n} {tensor_digest(t)}\n" for n, t in sorted(base_tensors(tiny_mlp).items()))
    assert found.root == found.digest == hashlib.sha256(lines.encode()).hexdigest() == merkle_root(found.digests)
    with torch.no_grad():
        tiny_mlp[0].bias[0] += 1
    assert fingerprint(tiny_mlp).diff(found) == ["0.bias"]
    assert fingerprint(tiny_mlp).root != found.root


def test_some_names_only(tiny_mlp: nn.Module) -> None:
    part = fingerprint(tiny_mlp, ["2.bias"])
    assert list(part.digests) == ["2.bias"] and part.root is None
    with pytest.raises(UnknownParameter, match=r"did you mean '2\.bias'"):
        fingerprint(tiny_mlp, ["2.bais"])
    whole = fingerprint(tiny_mlp)
    assert whole.restrict(["2.bias", "prompt"]) == Fingerprint({"2.bias": part.digests["2.bias"]}, whole.root)


def test_check_names_what_differs_and_what_is_missing(tiny_mlp: nn.Module) -> None:
    known = fingerprint(tiny_mlp)
    known.check(tiny_mlp)
    known.check(dict(base_tensors(tiny_mlp)), ["0.weight"])
    tensors = {("0.wieght" if n == "0.weight" else n): t for n, t in base_tensors(tiny_mlp).items()}
    tensors["2.bias"] = tensors["2.bias"] + 1
    with pytest.raises(BaseMismatch) as error:
        known.check(tensors)
    text = str(error.value)
    assert "of the 4 tensors" in text and "1 differ in content, first: 2.bias" in text
    assert "1 are missing, first: 0.weight; did you mean " in text and "'0.wieght'" in text and "strict=False" in text
    known.check(tensors, ["0.bias", "2.weight", "unknown to the fingerprint"])


def test_experts_that_files_store_one_by_one_are_told() -> None:
    """transformers stacks them as it loads; the nearest name was advised, which is another tensor."""
    stored = {f"l.moe.experts.{i}.w1.weight": torch.zeros(2, 3) for i in range(2)}
    with pytest.raises(BaseMismatch, match=r"dtheta merge FOLDER DELTA") as error:
        fingerprint(stored).check({"l.mlp.experts.gate_up_proj": torch.zeros(2, 2, 3)})
    assert "did you mean" not in str(error.value)
    with pytest.raises(BaseMismatch) as error:
        fingerprint(stored).check({"l.mlp.experts.0.w1.weight": torch.zeros(2, 3)})
    assert "did you mean" in str(error.value) and "in one tensor" not in str(error.value)
    stacked = fingerprint({"l.mlp.experts.gate_up_proj": torch.zeros(2, 2, 3)})
    with pytest.raises(BaseMismatch, match=r"dt\.merge\(model, dt\.load\(DELTA\)\)\.save_pretrained\(NEW\)") as error:
        stacked.check(stored)
    assert "did you mean" not in str(error.value)
    with pytest.raises(BaseMismatch, match="did you mean"):
        stacked.check({"l.mlp.experts.down_proj": torch.zeros(2, 2, 3)})


def test_names_do_not_depend_on_wrappers(tiny_mlp: nn.Module) -> None:
    plain = fingerprint(tiny_mlp)
    assert fingerprint(nn.DataParallel(tiny_mlp)) == plain
    assert fingerprint(nn.ModuleDict({"_orig_mod": tiny_mlp})) == plain  # as torch.compile wraps it
    inner = nn.Sequential(nn.DataParallel(tiny_mlp))
    assert set(base_tensors(inner)) == {f"0.{name}" for name in plain.digests}


def test_a_module_that_is_called_module_keeps_its_name() -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    assert set(base_tensors(model)) == {"module.weight", "module.bias"}


def test_attached_terms_do_not_show(tiny_mlp: nn.Module) -> None:
    plain, names = fingerprint(tiny_mlp), set(base_tensors(tiny_mlp))
    parametrize.register_parametrization(tiny_mlp[0], "weight", Term(), unsafe=True)
    assert "0.parametrizations.weight.original" in dict(tiny_mlp.named_parameters())
    assert fingerprint(tiny_mlp) == plain and set(base_tensors(tiny_mlp)) == names
    assert attached_to(tiny_mlp) == ["0"]
    assert attached_to(nn.Sequential(nn.Linear(2, 2))) == []


def test_hooks_of_ours_are_found_and_others_are_not(tiny_mlp: nn.Module) -> None:
    class Hook:
        is_dtheta_term = True

        def __call__(self, *arguments: object) -> None: ...

        def method(self, *arguments: object) -> None: ...

    tiny_mlp[0].register_forward_hook(lambda *arguments: None)
    assert attached_to(tiny_mlp) == []
    for register in (tiny_mlp[2].register_forward_hook, tiny_mlp.register_forward_pre_hook):
        for hook in (Hook(), Hook().method):
            handle = register(hook)
            assert len(attached_to(tiny_mlp)) == 1
            handle.remove()


def test_a_models_own_parametrizations_are_part_of_the_base() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)))
    names = {"0.bias", "0.parametrizations.weight.original0", "0.parametrizations.weight.original1"}
    assert set(base_tensors(model)) == names == set(dict(model.named_parameters()))


def test_tied_tensors_count_once_under_every_name(tiny_gpt2: nn.Module) -> None:
    names = canonical_names(tiny_gpt2)
    assert names["lm_head.weight"] == names["transformer.wte.weight"] == "transformer.wte.weight"
    assert "lm_head.weight" not in base_tensors(tiny_gpt2)
    assert [o.name for o in aliases(tiny_gpt2)["transformer.wte.weight"]] == [
        "transformer.wte.weight",
        "lm_head.weight",
    ]


def test_two_parameters_on_one_memory_are_tied() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False), "c": nn.Linear(3, 3)})
    model["b"].weight.data = model["a"].weight.data
    assert set(base_tensors(model)) == {"a.weight", "c.weight", "c.bias"}
    assert len({id(t) for _, t in shared(model)["a.weight"]}) == 2


def test_transient_buffers_are_no_part_of_the_base() -> None:
    model = nn.BatchNorm1d(3)
    model.register_buffer("cache", torch.zeros(3), persistent=False)
    assert set(base_tensors(model)) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def test_sharded_tensors_are_recognized_without_importing_distributed() -> None:
    class Sharded(torch.Tensor):
        placements = ()

    assert "sharded" in why_unreadable(torch.zeros(2).as_subclass(Sharded))


def test_globs_are_alternatives() -> None:
    assert matches("a.query.weight", "*.key.weight | *.query.*") and not matches("a.value.weight", "*.key.*|*.query.*")
