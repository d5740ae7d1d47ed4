"""Every format gives the same rows; what is wrong with a file is said by file, line and column."""

import gzip
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import WriteConfig, make_rows
from trainer.config import DatasetConfig
from trainer.data import Row, open_source, read_rows
from trainer.errors import DataError

ROWS = [
    *make_rows(5),
    {"input": 'a "quoted", text\nover lines\t', "completion": "é 漢\u2028 end"},
]


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def write_json(path: Path) -> None:
    path.write_text("\n " + json.dumps(ROWS, indent=1), encoding="utf-8")


def write_delimited(path: Path) -> None:
    import csv

    with path.open("w", encoding="utf-8-sig", newline="") as file:
        dialect = "excel-tab" if path.suffix == ".tsv" else "excel"
        writer = csv.DictWriter(file, ["input", "completion"], dialect=dialect)
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    importlib.import_module("pyarrow.parquet").write_table(pa.Table.from_pylist(ROWS), path)


WRITERS: dict[str, Callable[[Path], None]] = {
    ".jsonl": write_jsonl,
    ".json": write_json,
    ".csv": write_delimited,
    ".tsv": write_delimited,
    ".parquet": write_parquet,
}


def read(path: Path) -> list[Row]:
    return read_rows([open_source(path)])


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as raised:
        read(path)
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(str(path))


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path)
    rows = read(path)
    assert [row.fields for row in rows] == ROWS
    assert {row.where.rpartition(":")[0] for row in rows} == {str(path)}
    if suffix == ".parquet":
        return
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [row.fields for row in read(packed)] == ROWS


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write_jsonl(path)
    assert [row.fields for row in read(path)] == ROWS


def test_numbers_are_lines_and_count_those_inside_quotes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('input,completion\n"two\nlines",a\n\nlast,b\n')
    assert [row.where for row in read(path)] == [f"{path}:2", f"{path}:5"]


def test_a_source_tells_how_far_it_has_read(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".parquet"):
        path = tmp_path / f"rows{suffix}"
        WRITERS[suffix](path)
        source = open_source(path)
        rows = source.rows()
        next(rows)
        assert 0 < source.position <= source.size
        assert source.label == path.name


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"x", ": its format is told by its suffix, which must be one of .jsonl, .json"),
        ("a", b"x", ": its format is told by its suffix"),
        ("a.jsonl.zip", b"x", ": its format is told by its suffix"),
        ("a.jsonl.gz", b"not gzip", ": damaged gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99)[:-9], ": damaged gzip file"),
        ("a.csv", b"", ": no rows"),
        ("a.csv", b"input,completion\n", ": no rows"),
        ("a.csv", b"input,completion\na\n", ":2: has 1 values, the header names 2 columns"),
        ("a.csv", b"input,completion\na,b,c\n", ":2: has 3 values, the header names 2 columns"),
        ("a.csv", b"input,input\n", ":1: column 'input' is named twice"),
        ("a.csv", b"input,,c\n", ":1: column 2 has no name; the first line must name all"),
        ("a.csv", b'a,b\n1,2\n"x,y\n', ":3: not valid CSV: unexpected end of data"),
        ("a.csv", b'a,b\n"x"y,z\n', ":2: not valid CSV: ',' expected after '\"'"),
        ("a.csv", b"a,b\nc,d\ne,\xff\n", ":3: not UTF-8 at byte 2"),
        ("a.tsv", b"a\tb\n1,2\n", ":2: has 1 values, the header names 2 columns"),
        ("a.json", b'[{"a": 1},\n{"a": }]', ":2: not valid JSON: Expecting value at column 7"),
        ("a.json", b'[{"a": 1}, 3]', ":2: must be an object such as {...}, got a int"),
        ("a.json", b"[]", ": no rows"),
        ("a.json", b"[\xff]", ": not UTF-8 at byte 1"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', ":2: must be an object such as {...}, got a list"),
    ],
)
def test_bad_files(
    name: str,
    content: bytes,
    expected: str,
    tmp_path: Path,
    write_config: WriteConfig,
    refused: Callable[..., str],
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    line = refused(write_config(data={"train": str(path)}))
    assert line.startswith(f"error: {path}{expected}"), line


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert f"is a folder; name its files, or write {{dataset: {tmp_path}}}" in refusal(tmp_path)


def test_bad_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    assert refusal(path).startswith(": cannot be read: Parquet")
    assert "No such file" in refusal(tmp_path / "none.parquet")
    write_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    assert refusal(path).startswith(": damaged after row 0: ")


@pytest.mark.parametrize("name", ["pyarrow.parquet", "datasets"])
def test_what_is_not_installed_is_named_with_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.parquet").write_bytes(b"")
    entry = tmp_path / "a.parquet" if name != "datasets" else DatasetConfig(dataset="some/name")
    with pytest.raises(DataError, match=r"pip install 'understudy-suite\[hub\]'"):
        open_source(entry)


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, with its cache in a folder of the test's own."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return library


def test_data_sets_of_a_local_folder(tmp_path: Path, datasets: Any) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl")
    (folder / "test.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    source = open_source(DatasetConfig(dataset=str(folder)))
    rows = read_rows([source])
    assert [row.fields for row in rows] == ROWS
    assert rows[2].where == f"{folder}[train]:3"
    assert source.label == "files[train]"
    assert (source.size, source.position) == (len(ROWS), len(ROWS))
    part = open_source(DatasetConfig(dataset=str(folder), split="train[1:3]"))
    assert [row.fields for row in part.rows()] == ROWS[1:3]
    with pytest.raises(DataError, match=r"data set '.*\[dev\]' cannot be loaded: Unknown split"):
        open_source(DatasetConfig(dataset=str(folder), split="dev"))


def test_saved_data_sets_and_their_classes(tmp_path: Path, datasets: Any) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "good"])
    )
    saved = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=saved).save_to_disk(tmp_path / "many")
    hashes = set()
    for name in ("one", "many"):
        source = open_source(DatasetConfig(dataset=str(tmp_path / name)))
        assert [row.fields["label"] for row in source.rows()] == ["good", "bad", None]
        hashes.add(source.sha256())
    assert len(hashes) == 1
    with pytest.raises(DataError, match=r"\[dev\]' cannot be loaded: there are the splits train"):
        open_source(DatasetConfig(dataset=str(tmp_path / "many"), split="dev"))
