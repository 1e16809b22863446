"""Fixtures of the command line: tiny model folders, tables of texts, and ways to run ``dtheta``."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dtheta.cli.main import main
from dtheta.cli.options import Once

WORDS = {"good": "great fine lovely happy bright".split(), "bad": "awful poor sad dull broken".split()}
FILLER = "the film was a story about some people and their long day in town".split()


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def dtheta(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run a command in this process, in an empty folder.

    Tests vary a common command by giving an option again, which users are kept from: here the last one stands.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Once, "refuse", lambda *_: None)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


def interruptible() -> None:
    """Undo what a shell or nohup does to whatever it runs in the background: interrupts and hang-ups are ignored."""
    for sign in (signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, signal.SIG_DFL)


def spawn(*arguments: object, code: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command (or Python ``code``) in a process of its own."""
    start = [sys.executable, "-c", code] if code else [sys.executable, "-m", "dtheta.cli.main"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    command = [*start, *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300, **options)


def sentences(count: int) -> list[tuple[str, str]]:
    """Return texts with the class that their one telling word decides."""
    rows = []
    for i in range(count):
        label = ("good", "bad")[i % 2]
        filler = [FILLER[(i * 7 + j * 3) % len(FILLER)] for j in range(4 + i % 3)]
        filler.insert(i % 4, WORDS[label][(i // 2) % 5])
        rows.append((" ".join([*filler, str(i)]), label))
    return rows


def write_table(path: Path, rows: list[tuple[str, str]], columns: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 labeled texts that a tiny network can learn."""
    return write_table(tmp_path / "reviews.csv", sentences(60))


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", *FILLER, *WORDS["good"], *WORDS["bad"]]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two tiny models: ``bert``, an encoder, and ``llama``, a decoder with a language-modeling head."""
    import torch
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    size = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    made = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = {
            "bert": BertModel(BertConfig(**size, max_position_embeddings=32, initializer_range=0.3)),
            "llama": LlamaForCausalLM(LlamaConfig(**size, max_position_embeddings=32, tie_word_embeddings=False)),
        }
    for name, model in models.items():
        made[name] = tmp_path_factory.mktemp("models") / name
        model.save_pretrained(made[name])
        _tokenizer(made[name])
    return made


@pytest.fixture(scope="session")
def adapted(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's delta of the tiny encoder, trained by the command itself; read only."""
    folder = tmp_path_factory.mktemp("adapted")
    table = write_table(folder / "reviews.csv", sentences(60))
    out = folder / "reviews.delta"
    command = [
        "adapt",
        "--model",
        folders["bert"],
        "--data",
        table,
        "--rank",
        4,
        "--steps",
        30,
        "--lr",
        1e-2,
        "--quiet",
    ]
    assert main([str(a) for a in [*command, "--max-length", 16, "--out", out]]) == 0
    return out


@pytest.fixture(scope="session")
def adapted_language(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model's delta of the tiny decoder; read only."""
    folder = tmp_path_factory.mktemp("language")
    table = folder / "texts.jsonl"
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in sentences(40)))
    out = folder / "texts.delta"
    command = [
        "adapt",
        "--model",
        folders["llama"],
        "--data",
        table,
        "--rank",
        4,
        "--steps",
        20,
        "--lr",
        1e-2,
        "--quiet",
    ]
    assert main([str(a) for a in [*command, "--max-length", 16, "--out", out]]) == 0
    return out


@pytest.fixture
def here(dtheta: Callable[..., Outcome], folders: dict[str, Path], table: Path) -> Path:
    """The folder of ``table`` that commands run in, with the tiny encoder."""
    (table.parent / "bert").symlink_to(folders["bert"])
    return table.parent


@pytest.fixture
def stocked(adapted: Path, adapted_language: Path, folders: dict[str, Path], table: Path) -> Path:
    """The folder of ``table``, with a classifier's delta x, a language model's l, and their models."""
    folder = table.parent
    shutil.copy(adapted, folder / "x.delta")
    shutil.copy(adapted_language, folder / "l.delta")
    for name in ("bert", "llama"):
        (folder / name).symlink_to(folders[name])
    return folder
