"""miniclip before training: its tokenizer, its size, and where its weights start.

The vocabulary is a part of MiniLM's WordPiece vocabulary: what the captions need, single characters, and the most
frequent words (the published list is in order of frequency). The embedding of a word starts at dual's text features of
that word, so the text tower knows from the start which words are alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PAD, BOS, UNK, EOS = "[PAD]", "[BOS]", "[UNK]", "[EOS]"  # ids 0 to 3; an eos id of 2 would mean another pooling
POSITIONS = 64  # captions stay below 24; the rest is for context vectors
WORDS = 6000
_WORD = re.compile(r"[a-z]{2,}")
_CHARACTER = re.compile(r"(##)?[a-z0-9!-/:-@]")


def vocabulary(texts: Iterable[str], tokenizer: Any, words: int = WORDS) -> list[str]:
    """Return the tokens: four special ones, characters, the tokens of ``texts`` and frequent words.

    Args:
        texts: what has to be written without unknown tokens.
        tokenizer: MiniLM's.
        words: how many of the most frequent whole words.
    """
    by_id = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    spelled = tokenizer(sorted({word for text in texts for word in text.split()}), add_special_tokens=False)[
        "input_ids"
    ]
    needed = {token for ids in spelled for token in tokenizer.convert_ids_to_tokens(ids)}
    frequent = set([token for token in by_id if _WORD.fullmatch(token)][:words])
    special = set(tokenizer.all_special_tokens)
    kept = [token for token in by_id if token not in special and not token.startswith("[unused")]
    return [PAD, BOS, UNK, EOS, *(t for t in kept if t in needed or t in frequent or _CHARACTER.fullmatch(t))]


def build_tokenizer(tokens: Sequence[str], max_length: int = POSITIONS) -> Any:
    """Return the WordPiece tokenizer that writes ``[BOS] text [EOS]`` in lower case."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(tokens)}
    raw = Tokenizer(models.WordPiece(ids, unk_token=UNK, max_input_chars_per_word=60))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece(prefix="##")
    special = [(BOS, ids[BOS]), (EOS, ids[EOS])]
    raw.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=special)
    names = {"pad_token": PAD, "bos_token": BOS, "unk_token": UNK, "eos_token": EOS}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=max_length, model_input_names=inputs, **names)


def build_config(tokens: int, width: int = 192, depth: int = 4, text_depth: int = 2, patch: int = 8) -> Any:
    """Return the CLIPConfig: both towers and the joint space are ``width`` wide."""
    from transformers import CLIPConfig

    shared = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 32}
    text = {
        "vocab_size": tokens, "num_hidden_layers": text_depth, "max_position_embeddings": POSITIONS,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3, "projection_dim": width, **shared,
    }  # fmt: skip
    vision = {"num_hidden_layers": depth, "image_size": 32, "patch_size": patch, "projection_dim": width, **shared}
    return CLIPConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=width,
        logit_scale_init_value=2.3,
        architectures=["CLIPModel"],
    )


def build_model(config: Any, seed: int, words: dict[int, Tensor] | None = None) -> nn.Module:
    """Return the CLIPModel with keyed random weights; ``words`` gives token ids their first embedding (unit length)."""
    from transformers import CLIPModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
    table = model.text_model.embeddings.token_embedding.weight
    if words:
        with torch.no_grad():
            table[list(words)] = torch.stack(list(words.values())) * table.norm(dim=1).median()
    return model


def write_pixels(folder: Path) -> None:
    """Write ``preprocessor_config.json``: 32 pixels, (x - .5) / .25."""
    settings = {
        "crop_size": {"height": 32, "width": 32}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
        "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3,
        "image_processor_type": "CLIPImageProcessor", "resample": 3,
        "rescale_factor": 1 / 255, "size": {"shortest_edge": 32},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
