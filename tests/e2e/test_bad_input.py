"""What clients get wrong: each answered with one clear error, the server unharmed."""

import json
import math
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from understudy import (
    AdapterNotFoundError,
    Client,
    FailedPreconditionError,
    InvalidArgumentError,
    SamplingParams,
    StoppingParams,
)
from understudy.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE, Manifest, seal

SHORT = StoppingParams(max_tokens=8, ignore_eos=True)


@pytest.fixture
def client(server) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test sent, the server answers afterwards as it did before."""
    if "client" not in request.fixturenames:
        yield
        return
    client: Client = request.getfixturevalue("client")

    def answers() -> list[str]:
        return [client.generate("noon", adapter=a, stopping=SHORT).text for a in ("", "pirate")]

    before = answers()
    yield
    assert answers() == before


def test_unknown_adapter_names_the_close_ones(client: Client) -> None:
    with pytest.raises(AdapterNotFoundError, match=r"piratte.*pirate"):
        client.generate("noon", adapter="piratte")


def test_prompt_longer_than_the_context_names_both_numbers(client: Client) -> None:
    limit = client.model_info().max_context_tokens
    prompt = "z" * (limit + 500)
    with pytest.raises(InvalidArgumentError) as caught:
        client.generate(prompt)
    numbers = [int(n) for n in re.findall(r"\d+", caught.value.message)]
    assert limit in numbers
    assert max(numbers) > limit


@pytest.mark.parametrize(
    ("field", "sampling"),
    [
        ("temperature", SamplingParams(temperature=-1)),
        ("temperature", SamplingParams(temperature=float("nan"))),
        ("temperature", SamplingParams(temperature=1e6)),
        ("top_p", SamplingParams(temperature=1, top_p=0)),
        ("top_p", SamplingParams(temperature=1, top_p=1.5)),
    ],
)
def test_nonsense_sampling_names_the_field(
    client: Client, field: str, sampling: SamplingParams
) -> None:
    with pytest.raises(InvalidArgumentError, match=field) as caught:
        client.generate("noon", sampling=sampling)
    assert any(field in violation.field for violation in caught.value.violations)


def test_nonsense_stopping_names_the_field(client: Client) -> None:
    with pytest.raises(InvalidArgumentError, match="max_tokens"):
        client.generate("noon", stopping=StoppingParams(max_tokens=0))


def rewrite(artifact: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change an artifact's tensors; without a manifest, as a plain PEFT directory."""
    (artifact / MANIFEST_FILE).unlink()
    tensors = load_file(artifact / TENSORS_FILE)
    change(tensors)
    save_file(tensors, artifact / TENSORS_FILE)


def wrong_shape(artifact: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if "lora_A" in name)
        tensors[name] = torch.zeros(tensors[name].shape[0], tensors[name].shape[1] + 1)

    rewrite(artifact, change)


def not_a_number(artifact: Path) -> None:
    rewrite(artifact, lambda tensors: next(iter(tensors.values())).view(-1)[0].fill_(math.nan))


def other_base(artifact: Path) -> None:
    manifest = json.loads((artifact / MANIFEST_FILE).read_text())
    seal(artifact, Manifest.from_json(json.dumps({**manifest, "base_fingerprint": "0" * 64})))


def pickled(artifact: Path) -> None:
    """PEFT's older format, with a payload that would leave a trace if it were ever unpickled."""

    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return Path.touch, (artifact / "unpickled",)

    (artifact / TENSORS_FILE).unlink()
    (artifact / MANIFEST_FILE).unlink()
    (artifact / "adapter_model.bin").write_bytes(pickle.dumps(Payload()))


def pickle_in_disguise(artifact: Path) -> None:
    pickled(artifact)
    (artifact / "adapter_model.bin").rename(artifact / TENSORS_FILE)


def changed_after_sealing(artifact: Path) -> None:
    config = json.loads((artifact / CONFIG_FILE).read_text())
    (artifact / CONFIG_FILE).write_text(json.dumps({**config, "lora_alpha": 64}))


def unknown_maths(artifact: Path) -> None:
    (artifact / MANIFEST_FILE).unlink()
    config = json.loads((artifact / CONFIG_FILE).read_text())
    (artifact / CONFIG_FILE).write_text(json.dumps({**config, "use_dora": True}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (wrong_shape, r"lora_A.*(shape|65)"),
        (not_a_number, r"(?i)nan|finite"),
        (other_base, r"(?i)base"),
        (pickled, r"(?i)safetensors"),
        (pickle_in_disguise, r"(?i)safetensors"),
        (changed_after_sealing, r"sha256"),
        (unknown_maths, r"(?i)dora"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_adapter_is_refused_at_load(
    client: Client, artifacts, spoil: Callable[[Path], None], reason: str
) -> None:
    upload = artifacts.uploads / spoil.__name__.replace("_", "-")
    shutil.copytree(artifacts.lora, upload)
    spoil(upload)
    with pytest.raises(FailedPreconditionError, match=reason) as caught:
        client.adapters.load(upload.name, source=upload.name)
    assert "\n" not in caught.value.message
    assert str(artifacts.uploads) not in caught.value.message
    assert not (upload / "unpickled").exists()
    with pytest.raises(AdapterNotFoundError):
        client.generate("noon", adapter=upload.name)


def test_a_good_adapter_loads_from_the_same_folder(client: Client, artifacts) -> None:
    """The refusals above are about the artifacts: the folder and the call are right."""
    shutil.copytree(artifacts.lora, artifacts.uploads / "good")
    version = client.adapters.load("good", source="good").adapter.version
    answer = client.generate("noon", adapter="good", stopping=SHORT)
    assert answer.adapter.version == version
    assert answer.text == client.generate("noon", adapter="pirate", stopping=SHORT).text
    client.adapters.unload("good")


@pytest.mark.parametrize("source", ["../lora", "x/../../lora", "/etc", "missing"])
def test_paths_stay_in_the_allowed_folders(client: Client, source: str) -> None:
    with pytest.raises(InvalidArgumentError, match="source"):
        client.adapters.load("stray", source=source)


def test_symlinks_stay_in_the_allowed_folders(client: Client, artifacts) -> None:
    (artifacts.uploads / "link").symlink_to(artifacts.lora)
    with pytest.raises(InvalidArgumentError, match="source"):
        client.adapters.load("link", source="link")


@pytest.mark.parametrize("name", ["../pirate", "a/b", "", "Pirate", "x" * 100])
def test_nonsense_adapter_names(client: Client, name: str) -> None:
    with pytest.raises((InvalidArgumentError, AdapterNotFoundError)):
        client.adapters.load(name)
