"""MEMIT against plain algebra: what it solves, what it moves, what it leaves alone, and what a network then knows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from dtheta.core.apply import applied
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator
from dtheta.data.concepts import Question
from dtheta.errors import ConfigError, NonFinite, NotConverged, UnsupportedLayer
from dtheta.probe.answers import answer_scores
from dtheta.probe.decoder import open_decoder
from dtheta.probe.encoded import Encoded
from dtheta.probe.unlearning.displacement import (
    Objective,
    Search,
    displaced,
    displacements,
    negative_entropy,
    objective_of,
)
from dtheta.probe.unlearning.keys import Prompt, check_residual, prompts_of, read, second_moments, solved
from dtheta.probe.unlearning.memit import Memit, _others, edited
from dtheta.probe.unlearning.stream import layer_module
from dtheta.probe.unlearning.unlearn import unlearn
from dtheta.probe.value_vector import ValueVector
from tests.unit.probe.decoders import DECODERS, D, L, N, V, gpt2, llama
from tests.unit.probe.memorized import known_concepts
from tests.unit.probe.planted import Words, concepts, network
from tests.unit.probe.tokens import Letters
from tests.unit.probe.word_tokens import PLAIN, word_tokenizer

FACTS = [Prompt([3, 9, 4, 8, 21], 2), Prompt([7, 2, 30], 2), Prompt([5, 6, 7, 8, 9, 10, 11], 0)]
OTHERS = [Prompt([1, 12, 13], 2), Prompt([40, 41, 42, 43], 3), Prompt([14, 15], 1)]
ROWS = [Encoded([1, 12, 13, 14], 1), Encoded([40, 41], 1), Encoded(list(range(2, 20)), 3)]
TARGET, *REST = concepts()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "test/memit"), dtype=torch.float64)


# what is solved


def test_the_solution_is_the_least_squares_one() -> None:
    """dW = R adj^T minimizes lambda tr(dW C dW^T) + |dW K - R|^2, so the gradient is zero there."""
    A, K_FN, R_DF = drawn(40, 8), drawn(3, 8), drawn(5, 3)
    C = A.T @ A / 40
    adjoint = solved(C.clone(), K_FN, weight=0.7, ridge=0.05)
    regular = 0.7 * 8 * (C + 0.05 * C.diagonal().mean() * torch.eye(8, dtype=C.dtype))
    assert torch.allclose(adjoint, torch.linalg.inv(regular + K_FN.T @ K_FN) @ K_FN.T, atol=1e-12)
    dW = (R_DF @ adjoint.T).requires_grad_()
    loss = torch.trace(dW @ regular @ dW.T) + (dW @ K_FN.T - R_DF).square().sum()
    assert float(torch.autograd.grad(loss, dW)[0].abs().max()) < 1e-10


def test_orthogonal_keys_are_untouched() -> None:
    basis = torch.linalg.qr(drawn(8, 8))[0]
    adjoint = solved(torch.eye(8, dtype=torch.float64), basis[:3], weight=0.1, ridge=0.01)
    assert float((basis[3:] @ adjoint).abs().max()) < 1e-12
    assert torch.allclose(basis[:3] @ adjoint, torch.eye(3, dtype=torch.float64) / (1 + 0.8 * 1.01), atol=1e-12)


def test_keys_that_nothing_else_uses_move_wholly() -> None:
    C = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    K_FN = torch.tensor([[0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    assert float(K_FN @ solved(C.clone(), K_FN, weight=1.0, ridge=1e-9)) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(NotConverged, match="some never act"):
        solved(torch.zeros(4, 4, dtype=torch.float64), K_FN, weight=1.0, ridge=0.01)


# what is read


@pytest.mark.parametrize("kind", DECODERS)
def test_keys_streams_and_moments_are_those_of_single_rows(kind: str) -> None:
    model = DECODERS[kind]()
    decoder = open_decoder(model)
    keys, z = read(model, decoder, [0, 1], FACTS)
    moments = second_moments(model, decoder, [0, 1], ROWS)
    for layer in (0, 1):
        alone = [_inputs(model, layer, fact.ids)[fact.place] for fact in FACTS]
        assert torch.allclose(keys[layer], torch.stack(alone), atol=1e-5)
        every = torch.cat([_inputs(model, layer, row.ids) for row in ROWS]).double()
        assert torch.allclose(moments[layer], every.T @ every / len(every), atol=1e-4)
    for fact, found in zip(FACTS, z, strict=True):
        assert torch.allclose(_stream(model, 2, torch.tensor([fact.ids]))[0, fact.place], found, atol=1e-5)
    assert not _hooks(model)


def _inputs(model: nn.Module, layer: int, ids: list[int]) -> Tensor:
    held: list[Tensor] = []
    path = open_decoder(model).matrices[layer].name.removesuffix(".weight")
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, inputs: held.append(inputs[0].detach()))
    model(input_ids=torch.tensor([ids]))
    handle.remove()
    return held[0].reshape(len(ids), -1)


def _stream(model: nn.Module, layer: int, ids: Tensor) -> Tensor:
    """What a layer is given (B, T, D)."""
    held: list[Tensor] = []
    block = layer_module(model, open_decoder(model), layer, "test")
    handle = block.register_forward_pre_hook(
        lambda _, args, named: held.append(args[0] if args else named["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    return held[0]


def _hooks(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


@pytest.mark.parametrize("kind", DECODERS)
def test_these_layers_add_what_they_write(kind: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = DECODERS[kind]().to(dtype)
        check_residual(model, open_decoder(model), range(L), FACTS[0])
        assert not _hooks(model)


def test_a_norm_or_a_factor_on_the_way_to_the_stream_is_told() -> None:
    sizes: Any = {
        "vocab_size": V,
        "hidden_size": D,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": N,
    }
    for model in (
        t.Gemma2ForCausalLM(t.Gemma2Config(**sizes, num_key_value_heads=2, head_dim=8)),
        t.GraniteForCausalLM(t.GraniteConfig(**sizes, num_key_value_heads=2, residual_multiplier=0.5)),
    ):
        with pytest.raises(UnsupportedLayer, match="layer 1 adds something else"):
            check_residual(model, open_decoder(model), [1], FACTS[0])
        assert not _hooks(model)


def test_the_place_is_the_last_letter_of_the_last_mention() -> None:
    asked = [
        Question("Japan and japan is", "old"),
        Question("the Japanese eat", "rice"),
        Question("tokyo lies in", "asia"),
        Question("no xjapan is", "one"),
    ]
    found = prompts_of(Letters(), asked, "Japan")
    assert [p.place for p in found] == [14, 8, 12, 11]
    assert [len(p.ids) for p in found] == [len(q.prompt) for q in asked]
    assert all(p.place == len(p.ids) - 1 for p in prompts_of(Letters(), asked, None))


# what is looked for


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_displacement_moves_one_token_of_each_row(kind: str) -> None:
    model, ids = DECODERS[kind](), torch.tensor([[3, 9, 4, 8], [7, 2, 30, 5]])
    block, delta = layer_module(model, open_decoder(model), 0, "test"), drawn(2, D).float()
    wanted = _stream(model, 1, ids).clone()
    with displaced(block, torch.tensor([1, 3]), delta):
        moved = _stream(model, 1, ids)
    wanted[0, 1] += delta[0]
    wanted[1, 3] += delta[1]
    assert torch.allclose(moved, wanted, atol=1e-6) and not _hooks(model)


@pytest.mark.parametrize("target", ["empty", "max-entropy"])
def test_the_search_goes_down_within_its_clamp(target: Any) -> None:
    model = llama()
    objective = objective_of(target, Letters())
    search = Search(clamp=1.5)
    z, delta = _found(model, FACTS, OTHERS, objective, search)
    assert bool((delta.norm(dim=1) <= 1.5 * z.norm(dim=1) * (1 + 1e-5)).all())
    assert bool((_loss(model, delta, objective) < _loss(model, 0 * delta, objective) - 0.1).all())
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_out_of_bounds_is_told() -> None:
    model = llama()
    with torch.no_grad():
        model.model.norm.weight[3] = torch.inf
    with pytest.raises(NonFinite, match="loss of a displacement"):
        _found(model, FACTS, OTHERS, negative_entropy, Search())
    assert not _hooks(model)


def test_facts_do_not_mix_and_others_hold_them_back() -> None:
    model, objective = llama(), objective_of("empty", Letters())
    z, together = _found(model, FACTS, OTHERS, objective, Search(steps=5))
    for i in range(len(FACTS)):
        alone = _found(model, FACTS[i : i + 1], OTHERS[i : i + 1], objective, Search(steps=5))[1]
        assert torch.allclose(alone[0], together[i], atol=1e-3 * float(z.norm()))
    free, held = (_found(model, FACTS, OTHERS, objective, Search(kl=kl))[1] for kl in (0.0, 10.0))
    assert float(_divergence(model, held)) < 0.5 * float(_divergence(model, free))


def _found(
    model: nn.Module, facts: list[Prompt], others: list[Prompt], objective: Objective, search: Search
) -> tuple[Tensor, Tensor]:
    decoder = open_decoder(model)
    z = read(model, decoder, [0, 1], facts)[1]
    return z, displacements(model, layer_module(model, decoder, 1, "test"), facts, others, z, objective, search)


def _last(model: nn.Module, prompt: Prompt, delta_D: Tensor) -> Tensor:
    block = layer_module(model, open_decoder(model), 1, "test")
    with torch.no_grad(), displaced(block, torch.tensor([prompt.place]), delta_D[None]):
        return model(input_ids=torch.tensor([prompt.ids])).logits[0, -1]


def _loss(model: nn.Module, delta_FD: Tensor, objective: Objective) -> Tensor:
    return torch.cat([objective(_last(model, p, d)[None]) for p, d in zip(FACTS, delta_FD, strict=True)])


def _divergence(model: nn.Module, delta_FD: Tensor) -> Tensor:
    found = []
    for prompt, delta_D in zip(OTHERS, delta_FD, strict=True):
        then, now = (_last(model, prompt, d).log_softmax(-1) for d in (0 * delta_D, delta_D))
        found.append((then.exp() * (then - now)).sum())
    return torch.stack(found).mean()


def test_objectives_are_those_of_the_formulas() -> None:
    logits = drawn(2, 6)
    p = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
    assert torch.allclose(negative_entropy(logits), (p * p.log()).sum(dim=1))
    assert torch.allclose(objective_of("empty", Letters())(logits), -p[:, 0].log())
    with pytest.raises(ConfigError, match="no end-of-text token"):
        objective_of("empty", word_tokenizer(PLAIN))


# what is moved


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("layers", [[1], [0, 1, 2]])
def test_the_edit_moves_what_was_asked_for(kind: str, layers: list[int]) -> None:
    """Almost unregularized, the stream after the last layer is where it was wanted, over however many layers."""
    model = DECODERS[kind]()
    decoder = open_decoder(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    moments = {layer: torch.eye(N, dtype=torch.float64) for layer in layers}
    z = read(model, decoder, layers, FACTS)[1]
    wanted = z + 0.3 * drawn(3, D).float()
    delta = edited(model, decoder, moments, FACTS, wanted, weight=1e-9, ridge=0.01)
    with applied(model, delta):
        now = read(model, decoder, layers, FACTS)[1]
    assert float((now - wanted).norm() / (wanted - z).norm()) < 1e-2
    assert set(delta) == {decoder.matrices[layer].name for layer in layers}
    assert all(isinstance(change, LowRank) and change.rank == len(FACTS) for change in delta.changes.values())
    assert all(change.shape == tuple(before[name].shape) for name, change in delta.changes.items())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters()) and not _hooks(model)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_regularization_holds_back_as_the_algebra_says(kind: str) -> None:
    """One layer: what the facts' values move is (K^T adj) R, whatever the layout of the matrix."""
    model = DECODERS[kind]()
    decoder = open_decoder(model)
    moments = second_moments(model, decoder, [1], ROWS)
    keys, z = read(model, decoder, [1], FACTS)
    R_FD = drawn(3, D).float()
    delta = edited(model, decoder, moments, FACTS, z + R_FD, weight=0.5, ridge=0.1)
    with applied(model, delta):
        now = read(model, decoder, [1], FACTS)[1]
    shares_FF = keys[1].double() @ solved(moments[1], keys[1], 0.5, 0.1)
    assert torch.allclose((now - z).double(), shares_FF.T @ R_FD.double(), atol=1e-4)
    assert 0.0 < float(shares_FF.diagonal().min()) and float(shares_FF.diagonal().max()) < 1.0


# what is known afterwards


@pytest.mark.parametrize("target", ["empty", "max-entropy"])
def test_a_planted_concept_goes_and_the_others_stay(target: Any) -> None:
    model = network()
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = unlearn(model, TARGET, Memit(target), tokenizer=Words(), retain=REST)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert not _hooks(model)
    with torch.no_grad(), applied(model, found.delta):
        assert not bool(answer_scores(model, Words(), TARGET.questions).exact.any())
        rest = [question for concept in REST for question in concept.questions]
        assert bool(answer_scores(model, Words(), rest).exact.all())
        logits = model(**_asked(TARGET.questions[0].prompt)).logits[0, -1]
    if target == "empty":
        assert int(logits.argmax()) == Words.eos_token_id
    else:
        with torch.no_grad():
            then = model(**_asked(TARGET.questions[0].prompt)).logits[0, -1]
        assert float(negative_entropy(logits[None])) < float(negative_entropy(then[None])) - 1.0
    assert found.delta["model.layers.0.mlp.down_proj.weight"].factors()[0].shape[1] == len(TARGET.questions)


def _asked(prompt: str) -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([Words()(prompt)["input_ids"]])}


def test_a_gpt2_forgets_through_lower_layers() -> None:
    """Rows instead of columns, several layers, keys below the last layer."""
    model, tokenizer = gpt2(256), word_tokenizer(PLAIN, end="w0")
    target, *rest = known_concepts(model)
    named = replace(target, name=target.questions[0].prompt.split()[0])
    found = unlearn(model, named, Memit(layers=(0, 1)), tokenizer=tokenizer, retain=rest, keep=0.5)
    assert found.changed and found.found.target <= 0.5 and found.found.unrelated >= 0.5
    assert set(found.delta) == {f"transformer.h.{layer}.mlp.c_proj.weight" for layer in (0, 1)}


def test_the_weakest_edit_that_reaches_the_goal_is_taken() -> None:
    found = unlearn(network(), TARGET, Memit(strengths=(1e-6, 0.5, 4.0)), tokenizer=Words(), retain=REST)
    assert len(found.seen) == 4  # the original, no effect, enough, the result
    assert found.seen[1].target == 1.0 and found.found.target == 0.0


def test_the_same_seed_gives_the_same_bits_and_texts_count() -> None:
    first, again, other, read_more = (
        unlearn(network(), TARGET, Memit(**more), tokenizer=Words(), retain=REST, seed=seed)
        for seed, more in ((1, {}), (1, {}), (2, {}), (1, {"texts": ("capital of japan is of dogs is food",)}))
    )
    assert first.delta == again.delta and first.delta != other.delta and first.delta != read_more.delta
    assert read_more.method["texts"] == 1 and first.method["texts"] == 0
    assert first.method["search"]["steps"] == 25 and first.method["target"] == "empty"


def test_other_prompts_are_drawn_by_the_seed() -> None:
    """Whole prompts of questions, whole documents, all of them before any comes again."""
    rows = [Encoded([i, i + 1, i + 2], 2 if i % 2 else 1) for i in range(9)]
    drawn_by = {seed: _others(SimpleNamespace(retain=rows, seed=seed), 12) for seed in (0, 1)}  # type: ignore[arg-type]
    assert drawn_by[0] != drawn_by[1]
    for prompts in drawn_by.values():
        assert {p.ids[0] for p in prompts[:9]} == set(range(9)) and prompts[9:] == prompts[:3]
        assert all(len(p.ids) == (2 if p.ids[0] % 2 else 3) and p.place == len(p.ids) - 1 for p in prompts)


# where


def test_layers_end_where_most_of_the_vectors_are() -> None:
    decoder = open_decoder(llama())
    vectors = [ValueVector(0, 3), ValueVector(1, 2), ValueVector(1, 9), ValueVector(2, 1)]
    assert Memit()._layers(decoder, vectors) == [0, 1]
    assert Memit(depth=1)._layers(decoder, vectors) == [1]
    assert Memit(layers=(2, 0, 2))._layers(decoder, vectors) == [0, 2]


def test_bad_input() -> None:
    for settings, message in (
        ({"target": "full"}, "target='full': expected one of 'empty', 'max-entropy'"),
        ({"places": ("subject",)}, r"places=\('subject',\): expected some of 'name', 'prompt'"),
        ({"places": ()}, "places="),
        ({"strengths": ()}, "no strengths or no layers"),
        ({"layers": ()}, "no strengths or no layers"),
        ({"depth": 0}, "depth is 0"),
        ({"weight": 0.0}, "weight must be positive"),
        ({"ridge": -1.0}, "ridge must be positive"),
        ({"strengths": (0.0,)}, "strength must be positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            Memit(**settings)  # type: ignore[arg-type]
    for settings, message in (
        ({"steps": 0}, "steps"),
        ({"lr": 0.0}, "lr"),
        ({"kl": -1.0}, "kl is -1"),
        ({"clamp": 0}, "clamp"),
    ):
        with pytest.raises(ConfigError, match=message):
            Search(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"Memit: layer {L}; the model has layers 0 to 0"):
        unlearn(network(), TARGET, Memit(layers=(L,)), tokenizer=Words(), retain=REST)
