"""Data on disk gives what data in memory gives, in memory that does not grow with the rows."""

import os
import random
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import trainer.data.disk
import trainer.leakage.find
import trainer.preflight.reading
from tests.tiny import WORDS
from tests.trainer.conftest import WriteConfig, WriteRows, make_rows
from tests.trainer.test_train import train
from trainer import files, preflight, tokens
from trainer.__main__ import main
from trainer.config_file import load_config
from trainer.data.disk import Chained, DiskList, Picked
from trainer.examples import InMemory
from trainer.log import read_log
from trainer.objectives.supervised import Supervised
from trainer.preflight.storage import MAX_IN_MEMORY_BYTES, Disk, Memory, storage_for
from trainer.resolve import Hardware, resolve
from trainer.spool import Spool, SpoolWriter
from trainer.tokens import Encoded


@st.composite
def encoded(draw: st.DrawFn, num_ids: int) -> Encoded:
    ids = st.lists(st.integers(0, num_ids - 1), min_size=1, max_size=6)
    completion = draw(ids)
    mask = draw(st.none() | st.tuples(*[st.booleans()] * len(completion)))
    where = f"{draw(st.sampled_from(['a', 'b:c', 'd[e]']))}:{draw(st.integers(0, 2**40))}"
    class_id = draw(st.none() | st.integers(0, 9))
    # All learnt is what no mask means.
    return Encoded(
        tuple(draw(ids)), tuple(completion), where, None if mask and all(mask) else mask, class_id
    )


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([300, 1 << 16, 200_000]))
def test_a_spool_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, num_ids: int
) -> None:
    examples = data.draw(st.lists(encoded(num_ids), max_size=8))
    path = tmp_path_factory.mktemp("spool") / "one"
    with SpoolWriter(path, num_ids, masked=True) as writer:
        for example in examples:
            writer.append(example)
        writer.finish({"num": len(examples)})
    spool, plain = Spool(path, "task"), InMemory(examples, "task")
    assert list(spool) == examples == [spool[i] for i in range(len(spool))]
    assert spool.lengths.tolist() == plain.lengths.tolist()
    assert spool.tasks == plain.tasks
    assert spool.epoch(0, 1).tolist() == plain.epoch(0, 1).tolist()
    assert spool.facts == {"num": len(examples)}
    bytes_of = 2 if num_ids <= 1 << 16 else 4
    assert (path / "tokens.bin").stat().st_size == bytes_of * spool.lengths.sum()


def test_a_damaged_spool_is_written_anew(tmp_path: Path) -> None:
    example = Encoded((1, 2), (3, 0), "f:1")

    def fill(append: Callable[[Encoded], None]) -> dict[str, Any]:
        calls.append(1)
        append(example)
        return {}

    calls: list[int] = []
    disk = Disk(tmp_path, 320, masked=False)
    for _ in range(2):
        assert list(disk.tokens(lambda: "key", "", fill)[0]) == [example]
    assert len(calls) == 1
    for damage in ("tokens.bin", "rows.bin", "spool.json"):
        file = tmp_path / "key" / damage
        file.write_bytes(file.read_bytes()[:-1])
        assert list(disk.tokens(lambda: "key", "", fill)[0]) == [example]
    assert len(calls) == 4


@given(st.lists(st.lists(st.integers(), max_size=5), max_size=4), st.data())
def test_sequences_on_disk_are_like_lists(parts: list[list[int]], data: st.DataObject) -> None:
    whole = [item for part in parts for item in part]
    chained: Sequence[int] = Chained([DiskList(Path("/tmp"), part) for part in parts])
    assert list(chained) == whole
    assert len(chained) == len(whole)
    chosen = data.draw(st.slices(len(whole)))
    assert chained[chosen] == whole[chosen]
    picked = [i for i in range(len(whole)) if i % 2]
    assert list(Picked(chained, picked)) == whole[1::2]
    assert Picked(chained, picked)[:1] == whole[1:2]
    for index in range(-len(whole), len(whole)):
        assert chained[index] == whole[index]
    for index in (len(whole), -len(whole) - 1):
        with pytest.raises(IndexError):
            chained[index]


def losses(run: Path) -> list[tuple[Any, ...]]:
    records = read_log(run / "metrics.jsonl")
    return [(r["event"], r["step"], r.get("loss")) for r in records]


def test_a_run_from_disk_is_the_run_from_memory(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = write_config()
    plain = train(config, capsys)
    expected = losses(tmp_path / "run")
    cache = ("--set", "data.stream=true", "--set", f"data.cache={tmp_path / 'shared'}")
    found = train(config, capsys, "--overwrite", *cache)
    assert found["content_hash"] == plain["content_hash"]
    assert str(tmp_path) not in (Path(found["artifact"]) / "run.json").read_text()
    found = train(config, capsys, "--overwrite", "--set", "data.stream=true")
    assert found["content_hash"] == plain["content_hash"]
    assert losses(tmp_path / "run") == expected
    # The run's own tokens go with the run.
    assert not (tmp_path / "run" / files.TOKENS).exists()


def test_large_files_go_to_disk_by_themselves(write_config: WriteConfig) -> None:
    config = resolve(load_config(write_config()), Hardware(False, False))

    class Large:
        num_bytes = MAX_IN_MEMORY_BYTES + 1

    assert isinstance(storage_for(config, [], 320), Memory)
    assert isinstance(storage_for(config, [Large()], 320), Disk)  # type: ignore[list-item]


@pytest.fixture
def num_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples each call tokenized."""
    calls: list[int] = []
    real = tokens.encode

    def encode(tokenizer: Any, examples: Any) -> Any:
        calls.append(len(examples))
        return real(tokenizer, examples)

    monkeypatch.setattr(tokens, "encode", encode)
    return calls


def prepared(config: Path, *overrides: str) -> preflight.Prepared:
    return preflight.prepare(resolve(load_config(config, overrides), Hardware(False, False)))


def test_tokens_in_a_cache_are_used_again_by_whoever_needs_the_same(
    write_config: WriteConfig, tmp_path: Path, num_encoded: list[int]
) -> None:
    config = write_config()
    cached = ("data.stream=true", f"data.cache={tmp_path / 'c'}")
    first = prepared(config, *cached)
    assert sum(num_encoded) == 40
    assert list(first.train) == list(prepared(config).train)
    num_encoded.clear()
    for same in ("name=second", "method.rank=2", "optimiser.max_steps=1"):
        again = prepared(config, *cached, same)
        assert list(again.train) == list(first.train)
        assert again.tasks == first.tasks
    assert num_encoded == []
    assert len(list((tmp_path / "c").iterdir())) == 2
    for change in ("seed=1", "data.template_name=summarize/1", "data.max_length=1000"):
        num_encoded.clear()
        prepared(config, *cached, change)
        assert sum(num_encoded) == 40, change


def test_a_resumed_run_does_not_tokenize_again(
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    num_encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = write_config(loop={"checkpoint_every": 2})
    stream = ("--set", "data.stream=true")
    whole = train(config, capsys, *stream)
    num_calls = 0
    real = Supervised.summed_loss

    def interrupted(self: Supervised, model: Any, batch: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 10:
            raise KeyboardInterrupt
        return real(self, model, batch)

    monkeypatch.setattr(Supervised, "summed_loss", interrupted)
    assert main(["train", str(config), "--overwrite", *stream]) == 130
    assert len(list((tmp_path / "run" / files.TOKENS).iterdir())) == 2
    num_encoded.clear()
    resumed = train(config, capsys, "--resume", *stream)
    assert resumed["content_hash"] == whole["content_hash"]
    assert num_encoded == []


def test_ctrl_c_while_tokenizing_leaves_nothing(
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = write_config()
    cache = tmp_path / "cache"

    def encode(tokenizer: Any, examples: Any) -> Any:
        assert [path.suffix for path in cache.iterdir()] == [".partial"]
        raise KeyboardInterrupt

    monkeypatch.setattr(tokens, "encode", encode)
    arguments = ["--set", "data.stream=true", "--set", f"data.cache={cache}"]
    assert main(["train", str(config), *arguments]) == 130
    assert list(cache.iterdir()) == []
    assert "interrupted" in capsys.readouterr().err


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    # In a container a process gets the number of the one that was killed before it.
    for process in (gone, os.getpid(), os.getppid()):
        (tmp_path / f"key.{process}.partial").mkdir()
    Disk(tmp_path, 320, masked=False)
    assert [path.name for path in tmp_path.iterdir()] == [f"key.{os.getppid()}.partial"]


def test_two_processes_write_the_same_spool(tmp_path: Path) -> None:
    """Whoever is second takes what is there, and neither loses what it has open."""
    path, example = tmp_path / "key", Encoded((1, 2), (3,), "rows.jsonl:1")
    with SpoolWriter(path, 320, masked=False) as first:
        first.append(example)
        with SpoolWriter(path.with_name("other"), 320, masked=False) as second:
            second._path = path
            second.append(example)
            read = first.finish({})
            assert list(second.finish({})) == list(read) == list(Spool(path)) == [example]


def test_a_folder_that_cannot_be_written(
    write_config: WriteConfig, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "file").write_text("")
    cache = tmp_path / "file" / "cache"
    line = refused(write_config(), "--set", "data.stream=true", "--set", f"data.cache={cache}")
    assert f"{cache}: cannot be written: Not a directory; name another folder in data.cache" in line


def test_rows_are_named_from_disk(
    write_config: WriteConfig, refused: Callable[..., str], write_rows: WriteRows
) -> None:
    rows = [*make_rows(40), {"input": "late " * 300, "completion": "x"}]
    path = write_rows("train.jsonl", rows)
    line = refused(
        write_config(),
        *("--set", "data.stream=true", "--set", "data.max_length=100"),
        *("--set", "data.max_overlong_share=0"),
    )
    assert f"examples are longer than 100 tokens (longest: {path}:41 with 614), more" in line


def test_memory_does_not_grow_with_the_rows(
    write_config: WriteConfig,
    write_rows: WriteRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five times the rows, of which buffers hold but few, take as much; in memory they take
    several times that."""
    monkeypatch.setattr(trainer.data.disk, "BUFFER_BYTES", 1 << 14)
    monkeypatch.setattr(trainer.leakage.find, "CHUNK_ROWS", 64)
    monkeypatch.setattr(trainer.preflight.reading, "CHUNK", 64)
    drawn = random.Random(0)

    def peak(num_rows: int, stream: bool) -> int:
        rows = (
            {"input": " ".join(drawn.choices(WORDS.split(), k=16)), "completion": "rain"}
            for _ in range(num_rows)
        )
        write_rows("train.jsonl", rows)
        data = yaml.safe_load(config.read_text())["data"]
        config.write_text(
            yaml.safe_dump(
                yaml.safe_load(config.read_text())
                | {"data": data | {"stream": stream, "validation": 0.05, "max_validation_rows": 20}}
            )
        )
        run = resolve(load_config(config), Hardware(False, False))
        tracemalloc.start()
        prepared = preflight.prepare(run)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(prepared.train) > 0.9 * num_rows
        return result

    config = write_config()
    peak(100, True)
    few, many, plain = peak(250, True), peak(1250, True), peak(1250, False)
    assert many < 1.25 * few
    assert plain > 3 * many
