"""The bank on real networks: MiniLM, and SmolLM2 with its tied embedding, also where it generates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtheta.compose.bank import Bank
from dtheta.compress.compeft import compress
from dtheta.core.apply import applied
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.seeds import generator
from dtheta.core.tensors import base_tensors
from tests.unit.compose.banks import adapter, alone
from tests.unit.compose.examples import normal


def small(model: nn.Module, index: int) -> Delta:
    """An adapter that moves a pretrained network as training would."""
    return 0.02 * adapter(model, index, 4, "@blocks")


def signs(model: nn.Module, name: str) -> Delta:
    """5 % of a tensor as signs and a scale, as ComPEFT leaves full fine-tuning."""
    change = Dense(0.02 * normal(*base_tensors(model)[name].shape, name="signs"))
    return compress(Delta({name: change}, fingerprint(model).restrict([name])), 0.05)


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(1000, 20_000, (rows, length), generator=generator(0, "tokens"))


class Untouched:
    """A check that storage, versions and numbers of a model are what they were when it was made."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before = [(p.data_ptr(), p._version, p.detach().clone()) for p in model.parameters()]

    def check(self) -> None:
        for (place, version, numbers), p in zip(self.before, self.model.parameters(), strict=True):
            assert p.data_ptr() == place and p._version == version and torch.equal(p, numbers)


def test_minilm(minilm: nn.Module) -> None:
    before, ids = Untouched(minilm), tokens(4, 12)
    bank = Bank(minilm)
    given: dict[str, Delta] = {"a": small(minilm, 0), "b": small(minilm, 1)}
    given |= {"packed": compress(small(minilm, 2), 0.2), "words": signs(minilm, "embeddings.word_embeddings.weight")}
    wanted = {}
    for name, one in given.items():
        bank.add(name, one)
        with applied(minilm, one), torch.no_grad():
            wanted[name] = minilm(ids).last_hidden_state
        with bank.using(name), torch.no_grad():
            assert torch.allclose(minilm(ids).last_hidden_state, wanted[name], atol=1e-5)
    names: list[str | None] = ["b", "words", None, "packed"]
    found = bank.run(ids, experts=names).last_hidden_state
    assert torch.allclose(found, alone(bank, names, ids, lambda o: o.last_hidden_state), atol=1e-5)
    before.check()


def test_smollm2_generates_with_experts(smollm2_2layers: nn.Module) -> None:
    model = smollm2_2layers
    before, ids = Untouched(model), tokens(3, 8)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    bank = Bank(model)
    for i, name in enumerate("ab"):
        bank.add(name, small(model, i))
    bank.add("words", signs(model, "model.embed_tokens.weight"))
    texts = {}
    for name in (None, *bank):
        with bank.using(name):
            assert model.lm_head.weight is model.model.embed_tokens.weight
            texts[name] = model.generate(ids, **settings)  # type: ignore[operator]
    for name in bank:
        with applied(model, bank[name]):
            assert torch.equal(model.generate(ids, **settings), texts[name])  # type: ignore[operator]
    assert len({tuple(text.flatten().tolist()) for text in texts.values()}) == 4
    names: list[str | None] = ["b", None, "a"]
    with bank.batched(names):
        mixed = model.generate(ids, **settings)  # type: ignore[operator]
    assert all(torch.equal(mixed[i], texts[name][i]) for i, name in enumerate(names))
    names = ["words", None, "a"]
    found = bank.run(ids, experts=names, use_cache=False).logits
    assert torch.allclose(found, alone(bank, names, ids, lambda o: o.logits), atol=1e-4)
    before.check()
