"""One's own tables: read right, or refused with the file, the line and what to do."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtheta.data.table import load_table
from dtheta.errors import ConfigError, FormatError

GOOD = "text,label\ngood film,pos\nbad film,neg\nfine film,pos\nawful film,neg\n\nnice one,pos\n"


@pytest.fixture
def write(tmp_path):
    def write(content, name="my.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def _all(task):
    pairs = [
        *zip(task.train.texts, task.train.labels, strict=True),
        *zip(task.test.texts, task.test.labels, strict=True),
    ]
    return sorted((text, task.classes[label]) for text, label in pairs)


EXPECTED = sorted(
    [("good film", "pos"), ("bad film", "neg"), ("fine film", "pos"), ("awful film", "neg"), ("nice one", "pos")]
)


def test_csv(write):
    task = load_table(write(GOOD))
    assert (task.name, task.classes) == ("my", ("neg", "pos"))
    assert _all(task) == EXPECTED
    assert (len(task.train), len(task.test)) == (4, 1)


def test_tsv_jsonl_and_byte_order_mark(write):
    assert _all(load_table(write(GOOD.replace(",", "\t"), "my.tsv"))) == EXPECTED
    lines = "\n".join(json.dumps({"text": text, "label": label}) for text, label in EXPECTED)
    assert _all(load_table(write(lines, "my.jsonl"))) == EXPECTED
    assert _all(load_table(write(b"\xef\xbb\xbf" + GOOD.encode()))) == EXPECTED
    assert _all(load_table(write(GOOD.encode("utf-16")), encoding="utf-16")) == EXPECTED


def test_other_columns_and_integer_labels(write):
    task = load_table(write("id,body,stars\n1,a,10\n2,b,9\n3,c,9\n"), text="body", label="stars", n_test=1)
    assert task.classes == ("9", "10")
    lines = '{"text": "a", "label": true}\n{"text": "b", "label": false}\n\n{"text": "c", "label": true}\n'
    assert load_table(write(lines, "x.jsonl"), n_test=1).classes == ("False", "True")


def test_quoted_line_breaks_and_long_fields(write):
    long = "word " * 60_000
    task = load_table(write(f'text,label\n"one\ntwo",x\n"{long}",y\nthree,y\n'), n_test=1)
    assert {"one\ntwo", long, "three"} == {text for text, _ in _all(task)}
    assert csv.field_size_limit() == 131072


def test_a_test_file_of_its_own(write):
    test = write("text,label\nunseen,pos\n", "test.csv")
    task = load_table(write(GOOD), test=test)
    assert task.test.texts == ("unseen",)
    assert task.test.labels == (1,)
    assert len(task.train) == 5
    assert len(load_table(write(GOOD), test=test, n_train=4).train) == 4


def test_a_text_in_both_files_is_refused(write):
    test = write("text,label\nunseen,pos\nbad film,neg\nnice one,pos\n", "test.csv")
    what = r"test\.csv, line 3: this text stands in .*my\.csv, line 3 too, as do 2 of the 3 texts.*Remove them"
    with pytest.raises(FormatError, match=what):
        load_table(write(GOOD), test=test)
    with pytest.raises(FormatError, match="5 of the 5 texts"):
        load_table(write(GOOD), test=write(GOOD))


def test_a_table_sorted_by_class_gives_every_class_its_share(write):
    rows = [f"text {i},{'x' if i < 50 else 'y'}" for i in range(100)]
    test = [f"other {i},{'x' if i < 50 else 'y'}" for i in range(100)]
    files = (write("\n".join(["text,label", *part]), name) for part, name in ((rows, "my.csv"), (test, "t.csv")))
    task = load_table(next(files), test=next(files), n_train=20, n_test=20)
    assert 4 < sum(task.train.labels) < 16
    assert 4 < sum(task.test.labels) < 16


def test_a_class_without_training_rows_is_refused(write):
    rows = write("text,label\n" + "".join(f"t{i},{'rare' if i == 7 else 'often'}\n" for i in range(40)))
    seen = set()
    for seed in range(20):
        try:
            task = load_table(rows, n_test=20, seed=seed)
        except FormatError as error:
            assert "no training row is of the class 'rare' (1 of 2 classes" in str(error)  # noqa: PT017
            assert "larger n_train, a smaller n_test or another seed" in str(error)  # noqa: PT017
            seen.add("refused")
        else:
            assert set(task.train.labels) == {0, 1}
            seen.add("taken")
    assert seen == {"refused", "taken"}
    with pytest.raises(FormatError, match="no training row is of the class"):
        load_table(write(GOOD), n_train=1)


def test_rows_that_all_hold_one_text_are_refused(write):
    with pytest.raises(FormatError, match="every row holds the text 'a'; a split needs two different texts"):
        load_table(write("text,label\na,x\na,y\na,x\n"))


def test_repeated_texts_stay_on_one_side(write):
    task = load_table(write("text,label\n" + "a,x\n" * 5 + "b,y\n" * 5 + "c,x\n" * 5 + "d,y\n" * 5), n_test=1)
    assert not set(task.train.texts) & set(task.test.texts)
    assert len(task.train) + len(task.test) == 20


@pytest.mark.parametrize(
    ("content", "name", "error", "message"),
    [
        ("", "x.csv", FormatError, "line 1: the file is empty"),
        ("\n \n", "x.jsonl", FormatError, "line 1: the file is empty"),
        ("text,label\n", "x.csv", FormatError, "no rows after its header"),
        (
            "txt,label\na,b\n",
            "x.csv",
            ConfigError,
            "line 2: no column 'text'; there are: txt, label; did you mean 'txt'",
        ),
        ('{"text": "a", "lable": 1}', "x.jsonl", ConfigError, "line 1: no column 'label'.*did you mean 'lable'"),
        ("text,label\na,x\nb\n", "x.csv", FormatError, "line 3: 1 fields, but the header has 2"),
        ("text,label\na,b,x\n", "x.csv", FormatError, "line 2: 3 fields.*double quotes"),
        ('text,label\n"a\nb",x\nc\n', "x.csv", FormatError, "line 4: 1 fields"),
        ("text,label\na,x\nb,x\n", "x.csv", FormatError, "lines 2 to 3: every row has the label 'x'"),
        ("text,label\na,1\nb,2\nc,3\n", "x.csv", FormatError, "every row has a label of its own"),
        ("text,text\na,b\n", "x.csv", FormatError, "line 1: the column name 'text' occurs twice"),
        ("text,label\n  ,x\n", "x.csv", FormatError, "line 2: 'text' is empty"),
        ("text,label\na,x\nb,\n", "x.csv", FormatError, "line 3: 'label' is empty"),
        ('text,label\n"a,x\n', "x.csv", FormatError, "line 2: unexpected end of data"),
        (b"text,label\na,x\ncaf\xe9,y\n", "x.csv", FormatError, "line 3: byte 0xe9 is not utf-8.*latin-1"),
        (GOOD.encode("utf-16"), "x.csv", FormatError, "utf-16"),
        ("{}\nnope\n", "x.jsonl", ConfigError, "line 1: no column"),
        ('{"text": "a", "label": 1}\nnope\n', "x.jsonl", FormatError, "line 2: not JSON"),
        ("[1]\n", "x.jsonl", FormatError, "line 1: expected a JSON object, found list"),
        ('{"text": "a", "label": 1, "label": 2}\n', "x.jsonl", FormatError, "line 1: the field 'label' occurs twice"),
        ("[" * 100_000, "x.jsonl", FormatError, "line 1: not JSON"),
        ('{"text": 3, "label": 1}', "x.jsonl", FormatError, "line 1: 'text' must be a string, found int"),
        ('{"text": "a", "label": 1.5}', "x.jsonl", FormatError, "line 1: 'label' must be .* found float"),
        ('{"text": "a", "label": null}', "x.jsonl", FormatError, "line 1: 'label' must be .* found NoneType"),
        (GOOD, "x.xlsx", ConfigError, "only .csv, .tsv, .jsonl, .ndjson files are read"),
    ],
)
def test_bad_tables_name_the_line(write, content, name, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        load_table(write(content, name))


def test_files_and_encodings_that_are_not_there(write, tmp_path):
    with pytest.raises(ConfigError, match="no file"):
        load_table(tmp_path / "none.csv")
    for folder in (".", "", tmp_path):
        with pytest.raises(ConfigError, match="is a folder; give one file"):
            load_table(folder)
    with pytest.raises(ConfigError, match="unknown encoding 'utf-9'"):
        load_table(write(GOOD), encoding="utf-9")
    with pytest.raises(FormatError, match=r"test\.csv, line 2: the label 'poss' does not occur.*did you mean 'pos'"):
        load_table(write(GOOD), test=write("text,label\nx,poss\n", "test.csv"))
    with pytest.raises(FormatError, match="no rows to test on"):
        load_table(write(GOOD), test=write("text,label\n", "test.csv"))
    with pytest.raises(ConfigError, match="n_train=100"):
        load_table(write(GOOD), n_train=100)


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)


@given(st.lists(st.tuples(words, st.sampled_from("xy")), min_size=4, max_size=20, unique_by=lambda pair: pair[0]))
def test_whatever_is_written_comes_back(tmp_path_factory, pairs):
    pairs = [
        (text, "xy"[place % 2] if place < 4 else label)  # two of each at least: one text is held out
        for place, (text, label) in enumerate(pairs)
    ]
    folder = tmp_path_factory.mktemp("tables")
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *pairs])
    (folder / "t.jsonl").write_text(
        "\n".join(json.dumps({"text": t, "label": c}, ensure_ascii=False) for t, c in pairs)
    )
    assert _all(load_table(folder / "t.jsonl", n_test=1)) == sorted(pairs)
    assert _all(load_table(folder / "t.csv", n_test=1)) == sorted(pairs)


@given(st.binary(max_size=200), st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_any_bytes_are_read_or_refused_never_crash(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("bytes") / f"t{suffix}"
    path.write_bytes(content)
    with pytest.raises((FormatError, ConfigError)):
        load_table(path)
