"""Every hostile artifact at the reader and at the client's store; what bytes at random do."""

import random
import shutil
import time
from pathlib import Path

import pytest
import torch

from server.adapters.artifact import AdapterVersion, ArtifactLimits, load_artifact
from server.adapters.weights import tensors_of
from server.errors import AdapterRefusedError
from server.models.loader import load_base
from server.types import BaseInfo
from tests.server.adapters.hostile.cases import (
    CASES,
    HARMLESS,
    MAX_BYTES,
    UNUSABLE,
    make,
    make_originals,
)
from tests.tiny import make_base
from understudy import store
from understudy.artifact import (
    CONFIG_FILE,
    MANIFEST_FILE,
    TENSORS_FILE,
    ArtifactError,
    verify,
)

FILES = (CONFIG_FILE, TENSORS_FILE, MANIFEST_FILE)
LIMITS = ArtifactLimits(max_bytes=MAX_BYTES, max_lora_rank=64, max_host_bytes=MAX_BYTES)
FUZZ_S = 4.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def info(base: Path) -> BaseInfo:
    return load_base(base, quantization="none", dtype="float32", device="cpu").info


@pytest.fixture(scope="module")
def originals(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_originals(base, tmp_path_factory.mktemp("originals"))


def load(directory: Path, info: BaseInfo, breathe=lambda: None) -> AdapterVersion:  # type: ignore[no-untyped-def]
    return load_artifact(directory, info, LIMITS, "mine", breathe=breathe)


@pytest.mark.parametrize("name", CASES)
def test_refused_with_the_reason(
    name: str, originals: dict[str, Path], info: BaseInfo, tmp_path: Path
) -> None:
    directory = make(name, originals, tmp_path / "a" / "b" / name)
    with pytest.raises(AdapterRefusedError) as caught:
        load(directory, info)
    message = str(caught.value)
    assert CASES[name].says in message
    assert any(file in message for file in FILES)
    assert str(tmp_path) not in message
    assert message.isprintable()
    assert len(message.encode()) < 1000


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.by_client])
def test_refused_by_the_clients_store(
    name: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    directory = make(name, originals, tmp_path / "a" / "b" / name)
    with pytest.raises(ArtifactError) as caught:
        verify(directory)
    message = str(caught.value)
    assert any(file in message for file in FILES)
    assert str(tmp_path) not in message
    assert message.isprintable()
    with pytest.raises((ArtifactError, OSError)):
        store.publish(directory, tmp_path / "store", "mine")
    assert store.names(tmp_path / "store") == []
    assert list((tmp_path / "store").glob("*/*")) == []


@pytest.mark.parametrize("name", [*HARMLESS, *UNUSABLE])
def test_loads(name: str, originals: dict[str, Path], info: BaseInfo, tmp_path: Path) -> None:
    directory = make(name, originals, tmp_path / name)
    assert load(directory, info).version == verify(directory).content_hash[:16]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_file_that_shrinks_while_it_is_read(
    originals: dict[str, Path], info: BaseInfo, tmp_path: Path, at: int
) -> None:
    directory = Path(shutil.copytree(originals["lora"], tmp_path / "lora"))
    looks = 0

    def shrink() -> None:
        nonlocal looks
        looks += 1
        if looks == at:
            (directory / TENSORS_FILE).write_bytes(b"")

    if at < 3:
        with pytest.raises(AdapterRefusedError, match=f"{TENSORS_FILE}: truncated"):
            load(directory, info, shrink)
    else:
        # It was in memory, and its hash is that of the manifest.
        assert load(directory, info, shrink).rank == 4


def test_a_file_that_grows_while_it_is_read(
    originals: dict[str, Path], info: BaseInfo, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(originals["lora"], tmp_path / "lora"))
    sound = load(directory, info)

    def grow() -> None:
        with (directory / TENSORS_FILE).open("ab") as file:
            file.write(b"more")

    assert same(load(directory, info, grow), sound)


def same(first: AdapterVersion, second: AdapterVersion) -> bool:
    pairs = zip(tensors_of(first.weights), tensors_of(second.weights), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and first.template == second.template


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, doubles, moves or puts in a few bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not changed:
            break
        # Often at the beginning, where the structure is.
        end = len(changed) if rng.random() < 0.5 else min(len(changed), 600)
        begin = rng.randrange(end)
        length = min(rng.choice((1, 1, 2, 8, 64)), len(changed) - begin)
        match rng.randrange(6):
            case 0:
                changed[begin] ^= 1 << rng.randrange(8)
            case 1:
                changed[begin] = rng.choice(b'0123456789-.eE[]{}",:\\\x00\xff nft')
            case 2:
                del changed[begin:]
            case 3:
                del changed[begin : begin + length]
            case 4:
                to = rng.randrange(len(changed))
                changed[to:to] = changed[begin : begin + length]
            case 5:
                changed[begin : begin + length] = rng.randbytes(length)
    return bytes(changed)


@pytest.mark.parametrize("sealed", [True, False])
def test_bytes_at_random_load_alike_or_are_refused(
    originals: dict[str, Path], info: BaseInfo, tmp_path: Path, sealed: bool
) -> None:
    """Without a manifest nothing says what the files were, and other numbers may load."""
    rng = random.Random(f"bytes {sealed}")
    files, sound = {}, {}
    for kind, original in originals.items():
        files[kind] = {name: (original / name).read_bytes() for name in FILES}
        sound[kind] = load(original, info)
    refused = loaded = leaks = 0
    deadline = time.monotonic() + FUZZ_S / 2
    directory = tmp_path / "fuzzed"
    directory.mkdir()
    while time.monotonic() < deadline:
        kind = rng.choice(list(originals))
        names = FILES if sealed else FILES[:2]
        chosen = rng.choice(names)
        content = {name: files[kind][name] for name in names}
        content[chosen] = mutate(content[chosen], rng)
        for name, data in content.items():
            (directory / name).write_bytes(data)
        try:
            adapter = load(directory, info)
        except AdapterRefusedError as error:
            leaks += str(tmp_path) in str(error)
            refused += 1
        else:
            assert not sealed or same(adapter, sound[kind])
            assert all(bool(torch.isfinite(t).all()) for t in tensors_of(adapter.weights))
            loaded += 1
    assert refused > 20
    assert loaded > 0
    assert leaks == 0
