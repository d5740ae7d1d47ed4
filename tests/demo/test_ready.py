"""The ready-made adapters fit the embedded base, and what does not fit is refused with a remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.__main__ import main
from demo.adapters import main as make_adapters
from demo.ready import NotReadyError, find_ready, publish_ready
from demo.roles import BASE, CONFIGS, LIVE, ROLES, STORE
from tests.tiny import lora_config, make_adapter, make_base
from trainer.config_file import load_config
from understudy import store
from understudy.artifact import TENSORS_FILE

NAMES = [role.adapter for role in ROLES]
MAX_BYTES = 5_000_000


def test_those_that_come_with_the_demo_fit_its_base() -> None:
    """Fails when the base was replaced: `python -m demo.adapters` makes them anew."""
    found = find_ready(STORE, NAMES, BASE)
    assert store.names(STORE) == sorted(NAMES)
    for name, manifest in found.items():
        assert store.versions(STORE, name) == [store.version_of(manifest.content_hash)]
        config = load_config(CONFIGS / f"{name}.yaml")
        assert manifest.name == name
        assert manifest.method == config.method.type
        assert manifest.quantization == config.quantization
        assert manifest.prompt_template == config.data.template


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in STORE.rglob("*")) < MAX_BYTES


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and a store with one adapter for it."""
    folder = tmp_path_factory.mktemp("tiny")
    base = make_base(folder / "base")
    adapter = make_adapter(base, folder / "adapter", lora_config(), name="mine", seed=1)
    store.publish(adapter, folder / "store", "mine")
    return base, folder / "store"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return make_base(tmp_path / "other", seed=5)


Change = Callable[[Path], None]


def cut(root: Path) -> None:
    tensors = next(root.rglob(TENSORS_FILE))
    tensors.write_bytes(tensors.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda root: shutil.rmtree(root / "mine"), "holds no ready-made mine; make them anew"),
        (cut, "the ready-made mine@[0-9a-f]{16} is damaged: .*; make them anew"),
    ],
)
def test_missing_and_damaged(
    change: Change, problem: str, tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    base, root = tiny
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    assert list(find_ready(copy, ["mine"], base)) == ["mine"]
    change(copy)
    with pytest.raises(NotReadyError, match=problem):
        find_ready(copy, ["mine"], base)


def test_of_another_base(tiny: tuple[Path, Path], other: Path, tmp_path: Path) -> None:
    base, root = tiny
    problem = "mine@[0-9a-f]{16} was trained on another base .*`python -m demo.adapters`"
    with pytest.raises(NotReadyError, match=problem):
        publish_ready(root, ["mine"], other, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    published = publish_ready(root, ["mine"], base, tmp_path / "target")
    assert published == {"mine": store.versions(tmp_path / "target", "mine")[0]}
    store.verify_version(tmp_path / "target", "mine", published["mine"])


def test_the_demo_says_so_and_trains_nothing(
    tiny: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, root = tiny
    monkeypatch.setattr("demo.__main__.BASE", base)
    monkeypatch.setattr("demo.__main__.STORE", root)
    assert main(["--base", str(base), "--out", str(tmp_path / "run")]) == 1
    first = next(name for name in NAMES if name != LIVE)
    problem = f"demo: {root} holds no ready-made {first}; make them anew with"
    assert capsys.readouterr().err.startswith(problem)
    assert list((tmp_path / "run").iterdir()) == []


def test_made_anew_for_another_base(
    other: Path, tiny: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real trainer, two steps of it: some ten seconds, most of them imports."""
    root = tmp_path / "store"
    command = ["--only", "ticket-route", "--base", str(other), "--store", str(root)]
    assert make_adapters([*command, "--check"]) == 1
    assert "holds no ready-made ticket-route" in capsys.readouterr().err
    # What lies there, of another base, goes.
    (old,) = store.versions(tiny[1], "mine")
    store.publish(tiny[1] / "mine" / old, root, "ticket-route")
    assert make_adapters([*command, "--check"]) == 1
    assert "was trained on another base" in capsys.readouterr().err
    assert make_adapters([*command, "--max-steps", "2"]) == 0
    assert make_adapters([*command, "--check"]) == 0
    (version,) = store.versions(root, "ticket-route")
    assert version != old
    assert sorted(path.name for path in root.iterdir()) == ["ticket-route"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--only", "pirate"], "--only: no adapter 'pirate'; there are support-summary"),
        (["--max-steps", "0"], "--max-steps must be at least 1, got 0"),
    ],
)
def test_wrong_use(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        make_adapters(arguments)
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err
