"""Pictures of one's own: a folder per class, or a table; what cannot be meant is named."""

from __future__ import annotations

import pytest
import torch

from dtheta.data.image_files import read_image_folder, read_image_table
from dtheta.errors import ConfigError, FormatError

Image = pytest.importorskip("PIL.Image")

COLORS = {"cat/1.png": 10, "cat/2.JPG": 20, "dog/1.png": 110, "dog/2.gif": 120, "dog/3.png": 130}
SIDE = 4


@pytest.fixture
def folder(tmp_path):
    """Five one-colored grey pictures of two classes."""
    for name, color in COLORS.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 6), color).save(path)
    return tmp_path / "pictures"


def _table(folder, content, name="table.csv"):
    path = folder / name
    path.write_text(content)
    return path


def _colors(images):
    assert images.images.shape == (len(images), SIDE, SIDE, 3) and images.images.dtype == torch.uint8
    return images.images[:, 0, 0, 0].tolist()


def test_a_folder_per_class(folder):
    images, classes = read_image_folder(folder, SIDE)
    assert classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 1, 1, 1]
    assert _colors(images) == list(COLORS.values())
    assert torch.equal(read_image_folder(str(folder), SIDE)[0].images, images.images)


def test_what_file_managers_leave_behind_and_notes_are_passed_over(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "cat" / ".DS_Store").write_bytes(b"x")
    (folder / "dog" / "Thumbs.db").write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / "README.txt").write_text("notes beside the classes")
    assert len(read_image_folder(folder, SIDE)[0]) == 5


def test_a_table_keeps_its_order(folder):
    path = _table(folder, "path,label\ndog/3.png,b\ncat/1.png,a\ndog/1.png,b\n")
    images, classes = read_image_table(path, SIDE)
    assert classes == ("a", "b")
    assert images.labels.tolist() == [1, 0, 1]
    assert _colors(images) == [130, 10, 110]


def test_columns_of_other_names_whole_numbers_and_absolute_paths(folder):
    path = _table(folder, f"file\tclass\n{folder}/cat/1.png\t10\ndog/1.png\t9\n", "table.tsv")
    images, classes = read_image_table(path, SIDE, image="file", label="class")
    assert classes == ("9", "10")  # in order as numbers
    assert images.labels.tolist() == [1, 0]


def test_json_lines(folder):
    rows = '{"path": "cat/1.png", "label": true}\n{"path": "dog/1.png", "label": false}\n'
    images, classes = read_image_table(_table(folder, rows, "table.jsonl"), SIDE)
    assert classes == ("False", "True") and images.labels.tolist() == [1, 0]


def test_folders_that_cannot_be_meant(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"no folder .*nowhere"):
        read_image_folder(tmp_path / "nowhere", SIDE)
    with pytest.raises(ConfigError, match="it is a file"):
        read_image_folder(folder / "cat" / "1.png", SIDE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="expected one for each class"):
        read_image_folder(tmp_path / "empty", SIDE)
    with pytest.raises(FormatError, match="expected one for each class"):
        read_image_folder(folder / "cat", SIDE)


def test_a_class_without_pictures(folder):
    (folder / "bird").mkdir()
    with pytest.raises(FormatError, match="bird: this class has no pictures"):
        read_image_folder(folder, SIDE)


def test_one_class_only(folder):
    for path in (folder / "dog").iterdir():
        path.unlink()
    (folder / "dog").rmdir()
    with pytest.raises(FormatError, match="every picture is of the class 'cat'; a task needs at least two"):
        read_image_folder(folder, SIDE)
    with pytest.raises(FormatError, match=r"table\.csv: every picture is of the class 'a'"):
        read_image_table(_table(folder, "path,label\ncat/1.png,a\n"), SIDE)


def test_a_folder_of_parts_is_recognized(folder):
    with pytest.raises(FormatError, match=r"pictures.cat: a folder in the folder of the class .*train, test"):
        read_image_folder(folder.parent, SIDE)


def test_pictures_beside_the_classes_and_strange_files(folder):
    Image.new("L", (4, 4)).save(folder / "lost.png")
    with pytest.raises(FormatError, match=r"lost\.png: this picture is in no class"):
        read_image_folder(folder, SIDE)
    (folder / "lost.png").unlink()
    (folder / "cat" / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"notes\.txt: not a picture"):
        read_image_folder(folder, SIDE)


def test_a_damaged_picture_is_named(folder):
    content = (folder / "dog" / "1.png").read_bytes()
    (folder / "dog" / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match=r"dog.1\.png: cannot be decoded"):
        read_image_folder(folder, SIDE)


@pytest.mark.parametrize(
    ("content", "kind", "match"),
    [
        ("", FormatError, "line 1: the file is empty"),
        ("path,label\n", FormatError, "names no picture"),
        ("file,label\ncat/1.png,a\n", ConfigError, "line 2: no column 'path'; there are: file, label"),
        ("path,lable\ncat/1.png,a\n", ConfigError, "no column 'label'.*did you mean 'lable'"),
        ("path,label\ncat/1.png,a\ndog/1.png, \n", FormatError, "line 3: 'label' is empty"),
        ("path,label\n ,a\n", FormatError, "line 2: 'path' is empty"),
        ("path,label\ncat/1.png\n", FormatError, "line 2: 1 fields, but the header has 2"),
        ("path,label\ncat/9.png,a\n", ConfigError, "line 2: there is no picture .*9.png; paths are relative"),
        ("path,label\ncat,a\n", ConfigError, "line 2: there is no picture"),
        ("path,label\ncat/1.png,a\ncat/1.png,b\n", FormatError, "line 3: .*'b' here and 'a' in line 2"),
    ],
)
def test_tables_that_cannot_be_meant(folder, content, kind, match):
    with pytest.raises(kind, match=match):
        read_image_table(_table(folder, content), SIDE)


def test_a_size_that_cannot_be_meant(folder):
    with pytest.raises(ConfigError, match="size=-1"):
        read_image_folder(folder, -1)
