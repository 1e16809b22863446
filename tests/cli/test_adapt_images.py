"""``dtheta adapt`` and ``dtheta apply`` on pictures: from a folder or a table to a delta, and back to classes."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dtheta.cli.main import main
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.files import load, read_header
from dtheta.core.seeds import generator
from tests.cli.conftest import Outcome

Image = pytest.importorskip("PIL.Image")
Run = Callable[..., Outcome]

COLORS = {"blue thing": (20, 40, 220), "green thing": (30, 200, 40), "red thing": (220, 30, 30)}
WORDS = "[PAD] [BOS] [EOS] [UNK] a photo of an icon the red green blue thing .".split()
SIDE, EACH = 16, 10


def save_clip(folder: Path, **more: Any) -> Path:
    """Write a tiny random CLIP with its tokenizer, whose texts end with the token at which it pools."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(WORDS), "max_position_embeddings": 24, "eos_token_id": 2, "bos_token_id": 1}
    vision = {**size, "image_size": SIDE, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    said = {"size": {"shortest_edge": SIDE}, "crop_size": SIDE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def picture(color: tuple[int, int, int], number: int) -> Any:
    noise = torch.randint(-15, 16, (SIDE, SIDE, 3), generator=generator(number, "pictures"))
    return Image.fromarray((torch.tensor(color) + noise).clamp(0, 255).to(torch.uint8).numpy())


def save_pictures(folder: Path, first: int = 0, each: int = EACH) -> Path:
    for place, (name, color) in enumerate(COLORS.items()):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            picture(color, first + 1000 * place + i).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return save_pictures(tmp_path / "things")


@pytest.fixture(scope="session")
def trained(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delta of the tiny model, trained by the command itself; read only."""
    folder = tmp_path_factory.mktemp("trained")
    data = save_pictures(folder / "things")
    command = ["adapt", "--model", clip, "--data", data, "--method", "CLIPSVD", "--steps", 40, "--lr", 0.1, "--quiet"]
    assert main([str(a) for a in [*command, "--out", folder / "x.delta"]]) == 0
    return folder / "x.delta"


def arguments(clip: Path, data: object, *more: object) -> list[object]:
    return ["adapt", "--model", clip, "--data", data, "--method", "CLIPSVD", "--steps", 3, *more]


def write_table(path: Path, rows: list[tuple[object, object]], columns: tuple[str, str] = ("path", "label")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_a_folder_of_classes(dtheta: Run, clip: Path, pictures: Path) -> None:
    done = dtheta(*arguments(clip, pictures, "--shots", 4, "--out", "x.delta", "--report", "x.html", "--json"))
    assert done.code == 0, done.err
    record = done.json
    assert record["wrote"] == ["x.delta", "x.html", "x.json"]
    task = record["task"]
    assert task["classes"] == list(COLORS) and task["templates"] == ["a photo of a {}."]
    assert (task["train"], task["test"]) == (12, 6)  # four of each class; a fifth of ten of each held out
    for name in ("accuracy", "baseline", "linear_probe", "raw_pixels"):
        assert 0 <= record[name]["low"] <= record[name]["estimate"] <= record[name]["high"] <= 1
    assert record["raw_pixels"]["estimate"] == 1.0  # the classes are colors
    assert record["gain"]["estimate"] == pytest.approx(record["accuracy"]["estimate"] - record["baseline"]["estimate"])
    made = read_header("x.delta").provenance
    assert made.settings["command"]["shots"] == 4 and made.settings["command"]["steps"] == 3
    assert str(pictures.parent) not in json.dumps(made.to_dict())
    page = Path("x.html").read_text()
    assert page.count("data:image/png;base64,") == 6 and "linear probe" in page and "raw pixels" in page
    assert str(clip.parent) not in page + Path("x.json").read_text()
    assert {p.name for p in Path().iterdir()} == {"things", "x.delta", "x.html", "x.json"}


def test_pictures_are_held_out_to_choose_the_step(dtheta: Run, clip: Path, pictures: Path) -> None:
    given = arguments(clip, pictures, "--shots", 4, "--validate", 3, "--report", "x.html")
    done = dtheta(*given, "--json")
    assert done.code == 0, done.err
    assert done.json["task"]["train"] == 12 and done.json["kept_step"] in range(4)
    assert "the best on 3 pictures held out" in dtheta(*given).out
    assert read_header("adapted.delta").provenance.settings["validate"] == 3
    assert "3 of the training images" in Path("x.html").read_text()
    assert dtheta(*given, "--dry-run").code == 0
    done = dtheta(*arguments(clip, pictures, "--shots", 1, "--validate", 1, "--dry-run"))
    assert done.code == 2 and "--validate 1 must lie between 0 and 0" in done.err


def test_it_learns_what_can_be_learned(trained: Path) -> None:
    task = read_header(trained).provenance.task
    assert task["accuracy"]["estimate"] == 1.0 > task["baseline"]["estimate"]


def test_the_delta_is_that_of_the_model_itself(trained: Path, clip: Path) -> None:
    assert set(load(trained)) <= set(open_checkpoint(clip))
    assert read_header(trained).base.root


def test_the_same_seed_gives_the_same_delta(dtheta: Run, clip: Path, pictures: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert dtheta(*arguments(clip, pictures, "--shots", 3, "--out", f"{name}.delta", "--seed", seed)).code == 0
    digests = [load(f"{name}.delta").digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("column", ["path", "image", "file", "picture"])
def test_a_table_of_paths(dtheta: Run, clip: Path, pictures: Path, column: str) -> None:
    files = sorted(pictures.rglob("*.png"))
    rows: list[tuple[object, object]] = [(f.relative_to(pictures), f.parent.name) for f in files]
    table = write_table(pictures / "all.csv", rows, (column, "label"))
    more = ["--image", column] if column == "picture" else []
    done = dtheta(*arguments(clip, table, *more, "--json"))
    assert done.code == 0, done.err
    assert (done.json["task"]["train"], done.json["task"]["test"]) == (24, 6)


def test_a_second_folder_to_test_on_and_a_prompt(dtheta: Run, clip: Path, pictures: Path, tmp_path: Path) -> None:
    other = save_pictures(tmp_path / "other", first=500, each=2)
    shutil.rmtree(other / "red thing")  # a class may be missing there
    done = dtheta(*arguments(clip, pictures, "--test", other, "--template", "an icon of the {}", "--augment", "--json"))
    assert done.code == 0, done.err
    assert (done.json["task"]["train"], done.json["task"]["test"]) == (30, 4)
    assert done.json["task"]["templates"] == ["an icon of the {}"]


def test_a_picture_of_another_mode_is_converted(dtheta: Run, clip: Path, pictures: Path) -> None:
    for i, mode in enumerate(("L", "P", "RGBA", "CMYK", "1")):
        suffix = "tif" if mode == "CMYK" else "png"
        picture((9, 9, 9), 7000 + i).convert(mode).save(pictures / "red thing" / f"mode-{i}.{suffix}")
    assert dtheta(*arguments(clip, pictures)).code == 0


def test_dry_run_checks_and_writes_nothing(dtheta: Run, clip: Path, pictures: Path) -> None:
    before = sorted(Path().rglob("*"))
    done = dtheta(*arguments(clip, pictures, "--report", "x.html", "--dry-run", "--json"))
    assert done.code == 0, done.err
    assert set(done.json["writes"]) == {"adapted.delta", "x.html", "x.json"}
    assert done.json["seconds"] is None and "not estimated" in done.json["notes"][0]
    assert sorted(Path().rglob("*")) == before
    assert dtheta(*arguments(clip, pictures, "--dry-run", "--shots", 9)).code == 2
    assert dtheta(*arguments(clip, pictures, "--dry-run", "--template", "red " * 30 + "{}")).code == 2


def test_prompts_of_both_towers(dtheta: Run, clip: Path, pictures: Path) -> None:
    for name in ("CoOp", "VPT", "UPT", "CoCoOp"):
        done = dtheta(
            "adapt", "--model", clip, "--data", pictures, "--method", name, "--set", "length=2", "--steps", 1,
            "--shots", 2, "--out", f"{name}.delta", "--report", f"{name}.html",
        )  # fmt: skip
        assert done.code == 0, (name, done.err)
        done = dtheta("apply", f"{name}.delta", "--model", clip, "--image", pictures / "red thing", "--json")
        assert done.code == 0, (name, done.err)
        assert len(done.json["predictions"]) == EACH
        for verb in (("apply", "--image", pictures / "red thing", "--dry-run"), ("compose",)):
            done = dtheta(verb[0], f"{name}.delta", "--model", clip, *verb[1:])
            assert done.code == 0, (name, verb, done.err)


def test_a_context_that_starts_from_tokens(dtheta: Run, clip: Path, pictures: Path) -> None:
    """Several values of a field stand in brackets, as they do for other verbs."""
    given = ["adapt", "--model", clip, "--data", pictures, "--method", "CoOp", "--set", "length=2", "--steps", 1]
    done = dtheta(*given, "--set", "ids=[5, 6]", "--lr", 1e-6)
    assert done.code == 0, done.err
    assert read_header("adapted.delta").provenance.method["ids"] == [5, 6]
    done = dtheta(*given, "--set", "ids=[5,x]")
    assert done.code == 2 and "CoOp's ids must be a number, found 'x'" in done.err


def test_an_interrupted_run_goes_on_bit_by_bit(
    dtheta: Run, clip: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dtheta.fit import checkpoint

    steps = ["--steps", 30]
    assert dtheta(*arguments(clip, pictures, "--out", "whole.delta"), *steps).code == 0
    written = checkpoint.save

    def stopped(*given: Any, **named: Any) -> None:
        written(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stopped)
        done = dtheta(*arguments(clip, pictures, "--out", "cut.delta"), *steps)
    assert done.code == 130 and "--resume" in done.err and not Path("cut.delta").exists()
    assert "--resume" in dtheta(*arguments(clip, pictures, "--out", "cut.delta"), *steps).err
    other = ["--template", "an icon of the {}"]  # other texts are another run, though the pictures are the same
    done = dtheta(*arguments(clip, pictures, "--out", "cut.delta", "--resume", *other), *steps)
    assert done.code == 2 and "cannot resume" in done.err and "constants" in done.err
    done = dtheta(*arguments(clip, pictures, "--out", "cut.delta", "--resume"), *steps)
    assert done.code == 0, done.err
    assert load("cut.delta").digest == load("whole.delta").digest
    assert not Path("cut.delta.run").exists()


def test_apply_names_the_likeliest_classes(dtheta: Run, trained: Path, clip: Path, pictures: Path) -> None:
    one = pictures / "red thing" / "03.png"
    (pictures / "blue thing" / "notes.txt").write_text("x")
    done = dtheta("apply", trained, "--model", clip, "--image", one, "--image", pictures / "blue thing", "--json")
    assert done.code == 0, done.err
    rows = done.json["predictions"]
    assert [row["label"] for row in rows] == ["red thing"] + ["blue thing"] * EACH
    assert rows[0]["image"] == str(one) and rows[0]["probability"] == max(rows[0]["probabilities"].values())
    assert set(rows[0]["probabilities"]) == set(COLORS)
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)
    plain = dtheta("apply", trained, "--model", clip, "--image", one, "--weight", 0, "--json").json["predictions"]
    assert plain[0]["probability"] < rows[0]["probability"]
    shown = dtheta("apply", trained, "--model", clip, "--image", one, "--top", 2).out
    assert "red thing" in shown and len(shown.splitlines()) == 3
    assert dtheta("apply", trained, "--model", clip, "--image", one, "--out", "p.csv").code == 0
    assert Path("p.csv").read_text().splitlines()[0].startswith("image,label,probability,probability of")
    assert "peak memory" in dtheta("apply", trained, "--model", clip, "--image", one, "--dry-run").out


def test_apply_on_another_base_is_refused(
    dtheta: Run, trained: Path, clip: Path, pictures: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(clip, other)
    tensors = {name: tensor + 0.01 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    one = pictures / "red thing" / "03.png"
    done = dtheta("apply", trained, "--model", other, "--image", one)
    assert done.code == 3 and "another base" in done.err
    assert dtheta("apply", trained, "--model", other, "--image", one, "--dry-run").code == 3
    assert "give its folder with --model" in dtheta("apply", trained, "--image", one).err


def test_a_merged_model_gives_the_same_classes(dtheta: Run, trained: Path, clip: Path, pictures: Path) -> None:
    done = dtheta("merge", clip, trained, "--out", "merged", "--check", "--json")
    assert done.code == 0, done.err
    assert done.json["check"]["difference"] < 1e-5 < done.json["check"]["moved"]
    one = pictures / "green thing" / "03.png"
    found = [
        dtheta("apply", *given, "--image", one, "--json").json["predictions"][0]["probabilities"]
        for given in (["merged"], [trained, "--model", clip])
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_show_says_what_it_is_of(dtheta: Run, trained: Path) -> None:
    shown = dtheta("show", trained).out
    assert "image-text-classification on things" in shown and "blue thing, green thing, red thing" in shown
    assert "a photo of a {}." in shown and "accuracy  100 %" in shown


def test_runs_at_several_shots_are_curves(dtheta: Run, clip: Path, pictures: Path) -> None:
    for shots in (1, 2):
        for method in ("CLIPSVD", "BitFit"):
            done = dtheta(
                *arguments(clip, pictures, "--shots", shots, "--method", method, "--report", f"{method}-{shots}.html")
            )
            assert done.code == 0, done.err
    files = [f"{method}-{shots}.json" for method in ("CLIPSVD", "BitFit") for shots in (1, 2)]
    done = dtheta("report", *files, "--out", "curves.html")
    assert done.code == 0, done.err
    page = Path("curves.html").read_text()
    assert "Few shots" in page and "BitFit" in page and "linear probe" in page
    assert dtheta("report", files[0], files[2], "--out", "one.html").code == 0
    assert "Few shots" not in Path("one.html").read_text()  # one number of shots is no curve


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--shots", "9"], 2, "--shots 9: each class needs as many images, but class 'blue thing' has 8"),
        (["--shots", "0"], 2, "--shots is 0; expected a whole number, 1 or more"),
        (["--shots", "2", "--n-train", "6"], 2, "give one of them"),
        (["--n-train", "1"], 2, "no picture to train on"),
        (["--size", "32"], 2, "takes 16 pixels"),
        (["--template", "a photo"], 2, "must hold '{}' once"),
        (["--label", "kind"], 2, "--label names a column of a table of pictures, and --data"),
        (["--image", "file"], 2, "--image names a column of a table of pictures, and --data"),
        (["--encoding", "latin-1"], 2, "--encoding is that of a table of pictures, and --data"),
        (["--no-flip"], 2, "--no-flip is of random cuts, which --augment makes"),
        (["--pooling", "mean"], 2, "--pooling is for texts"),
        (["--validate", "22"], 2, "--validate 22 must lie between 0 and 21"),
        (["--validate", "-1"], 2, "--validate -1"),
        (["--method", "DePT"], 1, "prompts are for text models"),
        (["--select", "*.nothing"], 2, "takes no parameter"),
        (["--lr", "-1"], 2, "--lr must be a positive number"),
        (["--test", "gone"], 2, "gone"),
        (["--out", "nowhere/x.delta"], 1, "there is no folder"),
    ],
)
def test_bad_options_are_one_clear_error(
    dtheta: Run, clip: Path, pictures: Path, more: list[str], code: int, message: str
) -> None:
    before = sorted(Path().rglob("*"))
    done = dtheta(*arguments(clip, pictures, *more))
    assert (done.code, done.out) == (code, ""), done.err
    assert message in done.err and "Traceback" not in done.err
    assert sorted(Path().rglob("*")) == before


def one_class(folder: Path) -> None:
    for name in list(COLORS)[1:]:
        shutil.rmtree(folder / name)


def corrupted(folder: Path) -> None:
    (folder / "red thing" / "05.png").write_bytes((folder / "red thing" / "04.png").read_bytes()[:90])


def long_name(folder: Path) -> None:
    (folder / "red thing").rename(folder / " ".join(["red"] * 60))


def in_two_classes(folder: Path) -> None:
    shutil.copy(folder / "red thing" / "04.png", folder / "blue thing" / "copy.png")


def unknown_words(folder: Path) -> None:
    (folder / "red thing").rename(folder / "\N{RED APPLE}")
    (folder / "blue thing").rename(folder / "\N{GREEN APPLE}")


def single(folder: Path) -> None:
    for path in sorted((folder / "red thing").iterdir())[1:]:
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (one_class, "at least two classes"),
        (corrupted, "05.png: cannot be decoded"),
        (long_name, "shorten the class name"),
        (in_two_classes, "one picture is in the classes 'blue thing' and 'red thing'"),
        (unknown_words, "are the same text to the model's tokenizer"),
        (single, "'red thing' has a single picture"),
    ],
)
def test_bad_pictures_are_one_clear_error(
    dtheta: Run, clip: Path, pictures: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(pictures)
    done = dtheta(*arguments(clip, pictures))
    assert done.code in (1, 2) and message in done.err and "Traceback" not in done.err
    assert not list(Path().glob("*.delta*"))


def test_bad_tables_are_one_clear_error(dtheta: Run, clip: Path, pictures: Path) -> None:
    files = [(f"things/{path.parent.name}/{path.name}", path.parent.name) for path in sorted(pictures.rglob("*.png"))]
    for rows, message in (
        ([*files, ("things/red thing/01.png", "")], "label"),
        ([*files, ("things/red thing/77.png", "red thing")], "77.png"),
    ):
        done = dtheta(*arguments(clip, write_table(Path("t.csv"), rows)))  # type: ignore[arg-type]
        assert done.code in (1, 2) and "line 32" in done.err and message in done.err, done.err
    done = dtheta(*arguments(clip, write_table(Path("t.csv"), files, ("path", "kind"))))  # type: ignore[arg-type]
    assert done.code == 2 and "--label: t.csv has no column 'label'" in done.err


def test_more_classes_to_test_on_than_to_train_on(dtheta: Run, clip: Path, pictures: Path, tmp_path: Path) -> None:
    other = save_pictures(tmp_path / "other", first=500, each=2)
    (other / "rad thing").mkdir()
    picture((1, 2, 3), 1).save(other / "rad thing" / "1.png")
    done = dtheta(*arguments(clip, pictures, "--test", other))
    assert done.code == 1 and "'rad thing' has no pictures to train on" in done.err and "'red thing'" in done.err
    done = dtheta(*arguments(clip, pictures, "--test", pictures.parent / "things"))
    assert done.code == 2 and "cannot be tested on" in done.err


def test_the_wrong_kind_of_model_or_data(
    dtheta: Run, clip: Path, pictures: Path, folders: dict[str, Path], table: Path
) -> None:
    done = dtheta("adapt", "--model", folders["bert"], "--data", pictures)
    assert done.code == 2 and "reads texts alone" in done.err
    done = dtheta("adapt", "--model", clip, "--data", table)
    assert done.code == 2 and "--data" in done.err and "holds texts" in done.err
    done = dtheta("adapt", "--model", folders["bert"], "--data", table, "--shots", 2)
    assert done.code == 2 and "--shots is for pictures" in done.err
    for more in (["--model", clip], ["--shots", 2]):  # what is not there holds neither texts nor pictures
        done = dtheta("adapt", "--data", "gone", *more)
        assert done.code == 2 and "there is no task 'gone' and no such file" in done.err
    done = dtheta("adapt", "--data", "fashon")
    assert done.code == 2 and "did you mean 'fashion'" in done.err


def test_apply_to_the_wrong_kind_is_one_clear_error(
    dtheta: Run, trained: Path, clip: Path, pictures: Path, adapted: Path, folders: dict[str, Path]
) -> None:
    one = pictures / "red thing" / "03.png"
    for given, message in (
        ([trained, "--model", clip, "--text", "x"], "give them with --image FILE"),
        ([adapted, "--model", folders["bert"], "--image", one], "is of no image classifier"),
        ([trained, "--model", clip, "--image", one, "--text", "x"], "give one kind"),
        ([trained, "--model", clip, "--image", "gone.png"], "gone.png"),
        ([trained, "--model", clip, "--image", pictures], "holds no picture; it holds folders: give those"),
        ([trained, "--model", clip, "--image", one, "--top", 0], "--top must be at least 1"),
        ([clip, "--image", one], "is of no image classifier"),
    ):
        done = dtheta("apply", *given)
        assert done.code == 2 and message in done.err and "Traceback" not in done.err, done.err
    (pictures / "bad.png").write_bytes(b"no picture")
    done = dtheta("apply", trained, "--model", clip, "--image", pictures / "bad.png")
    assert done.code == 1 and "bad.png: cannot be decoded" in done.err


def test_several_pictures_after_one_option_are_explained(dtheta: Run, pictures: Path) -> None:
    done = dtheta("apply", "x.delta", "--image", "a.png", "b.png")
    assert done.code == 2 and "'b.png'; --image takes one value, so give it again for each" in done.err


def test_pillow_is_asked_for(dtheta: Run, clip: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    done = dtheta(*arguments(clip, pictures))
    assert done.code == 1 and "pip install 'dtheta[image]'" in done.err


@pytest.mark.slow
def test_the_packaged_dual_encoder_takes_no_visual_prompt(dtheta: Run, pictures: Path) -> None:
    done = dtheta("adapt", "--data", pictures, "--method", "VPT", "--steps", 1)
    assert done.code == 1 and "its vision tower is a CNN" in done.err
