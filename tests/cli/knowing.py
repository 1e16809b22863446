"""A folder with a model that knows facts, and a file of its concepts: the planted network on disk."""

from __future__ import annotations

import json
from pathlib import Path

from dtheta.data.concepts import concept_record
from tests.unit.probe.planted import VOCABULARY, concepts, network


def knowing(folder: Path) -> None:
    """Write ``model`` and ``own.jsonl`` into a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    network().save_pretrained(folder / "model")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="pad"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="pad", unk_token="pad", model_max_length=128)
    fast.save_pretrained(folder / "model")
    lines = [json.dumps(concept_record(one)) for one in concepts()]
    lines.append(json.dumps({"name": "atlantis", "questions": [
        {"prompt": f"{word} of atlantis is", "answer": "pad"} for word in ("capital", "color", "food")
    ]}))  # fmt: skip
    lines.append(json.dumps({"name": "silent"}))
    (folder / "own.jsonl").write_text("\n".join(lines) + "\n")
