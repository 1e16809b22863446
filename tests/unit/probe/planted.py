"""A decoder whose facts are planted: each neuron that holds one is known, the others hold nothing.

    prompt   "<relation> of <concept> is"  ->  one answer for each pair
    layer    attention is uniform and copies (q = k = 0, v = o = 1): the stream at the last token holds all words
    MLP      neuron (c, r): gate reads the relation, up reads the concept, so both must be there; it writes the answer,
             and less of the concept's name. As many neurons again read and write at random, with short vectors.

Tokens are words, their embeddings orthonormal and tied to the unembedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers as t
from torch import nn

from dtheta.core.seeds import generator
from dtheta.data.concepts import Concept, Question
from dtheta.probe.value_vector import ValueVector

CONCEPTS = ("france", "japan", "islam", "dogs", "music", "ocean")
RELATIONS = ("capital", "color", "food", "season", "leader")
ANSWERS = tuple(f"{concept[:3]}{relation[:4]}" for concept in CONCEPTS for relation in RELATIONS)
VOCABULARY = ("pad", "of", "is", *CONCEPTS, *RELATIONS, *ANSWERS)
FEATURES, EMPTY = 48, 40
PLANTED = len(ANSWERS)


class Words:
    """A tokenizer of whole words."""

    eos_token_id = 0

    def __len__(self) -> int:
        return len(VOCABULARY)

    def __call__(self, text: str | Sequence[str], add_special_tokens: bool = True) -> dict[str, list]:
        """Return the ids of the words that there are."""
        if not isinstance(text, str):
            return {"input_ids": [self(one)["input_ids"] for one in text]}
        return {"input_ids": [VOCABULARY.index(word) for word in text.split() if word in VOCABULARY]}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the words of ids."""
        return " ".join(VOCABULARY[int(i)] for i in ids)

    def batch_decode(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        """Return the words of rows."""
        return [self.decode(row) for row in rows]


def concepts() -> list[Concept]:
    """The facts, by concept."""
    found = []
    for c, concept in enumerate(CONCEPTS):
        answers = ANSWERS[c * len(RELATIONS) : (c + 1) * len(RELATIONS)]
        asked = tuple(Question(f"{r} of {concept} is", a) for r, a in zip(RELATIONS, answers, strict=True))
        found.append(Concept(concept, documents=(" ".join(f"{q.prompt} {q.answer}" for q in asked),), questions=asked))
    return found


def vectors(concept: str) -> list[ValueVector]:
    """Where a concept's facts are."""
    first = CONCEPTS.index(concept) * len(RELATIONS)
    return [ValueVector(0, first + r) for r in range(len(RELATIONS))]


def network() -> nn.Module:
    """The network."""
    config = t.LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=FEATURES, intermediate_size=PLANTED + EMPTY, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=True, pad_token_id=0, eos_token_id=0,
        bos_token_id=None,
    )  # fmt: skip
    model = t.LlamaForCausalLM(config).eval()
    draws = generator(0, "planted")
    basis = torch.linalg.qr(torch.randn(FEATURES, FEATURES, generator=draws))[0]
    E = basis[: len(VOCABULARY)]
    of = {word: E[i] for i, word in enumerate(VOCABULARY)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.ndim == 1 else parameter.zero_()
        model.model.embed_tokens.weight.copy_(E)
        layer = model.model.layers[0]
        layer.self_attn.v_proj.weight.copy_(torch.eye(FEATURES))
        layer.self_attn.o_proj.weight.copy_(0.5 * torch.eye(FEATURES))
        mlp = layer.mlp
        for part in (mlp.gate_proj.weight, mlp.up_proj.weight):
            part[PLANTED:] = 0.3 * torch.randn(EMPTY, FEATURES, generator=draws)
        mlp.down_proj.weight[:, PLANTED:] = 0.01 * torch.randn(FEATURES, EMPTY, generator=draws)
        for n, answer in enumerate(ANSWERS):
            concept, relation = CONCEPTS[n // len(RELATIONS)], RELATIONS[n % len(RELATIONS)]
            mlp.gate_proj.weight[n], mlp.up_proj.weight[n] = 2.0 * of[relation], 2.0 * of[concept]
            mlp.down_proj.weight[:, n] = 0.2 * of[answer] + 0.05 * of[concept]
    return model
