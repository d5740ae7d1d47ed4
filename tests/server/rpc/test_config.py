"""The configuration: files, flags, what is wrong with them, what the hardware decides."""

import subprocess
import sys
from pathlib import Path

import pytest

from server.__main__ import parse_config
from server.config import BaseConfig, EngineConfig, Hardware, ServerConfig, resolve
from server.errors import StartupError

LAPTOP = Hardware(
    has_cuda=False,
    cuda_has_bfloat16=False,
    cuda_memory_bytes=0,
    host_memory_bytes=16 << 30,
    num_cores=4,
)
GPU = Hardware(
    has_cuda=True,
    cuda_has_bfloat16=True,
    cuda_memory_bytes=80 << 30,
    host_memory_bytes=64 << 30,
    num_cores=32,
)


def error_of(*arguments: str) -> str:
    with pytest.raises(StartupError) as caught:
        parse_config(arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "server.yaml"
    path.write_text(text)
    return str(path)


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "base: {directory: models/a, quantization: int8}\n"
        "engine: {max_batch_size: 4, block_size: 8}\n"
        "adapters: {preload: [x]}\n",
    )
    config = parse_config(
        f"--config {file} --base models/b --max-batch-size 5 --port 0 --preload one,two@stable "
        "--adapter-root p --adapter-root q --set limits.max_continuations=9 "
        "--num-threads 3 --max-wait-s 2.5 --deterministic --kernels torch".split()
    )
    assert config.base == BaseConfig(
        directory=Path("models/b"), quantization="int8", kernels="torch"
    )
    assert config.engine == EngineConfig(
        max_batch_size=5, block_size=8, num_threads=3, max_wait_s=2.5, deterministic=True
    )
    assert config.listen.port == 0
    assert config.adapters.preload == ("one", "two@stable")
    assert config.adapters.roots == (Path("p"), Path("q"))
    assert config.limits.max_continuations == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "base: {directory: x}\nengine: {blok_size: 3}",
            "server.yaml: unknown key 'engine.blok_size'; did you mean 'engine.block_size'?",
        ),
        (
            "base: {directory: x}\nmax_batch_size: 3",
            "server.yaml: unknown key 'max_batch_size'; did you mean 'engine.max_batch_size'?",
        ),
        (
            "base: {directory: x}\nadapter: {store: y}",
            "server.yaml: unknown key 'adapter'; did you mean 'adapters'?",
        ),
        (
            "base: {directory: x, quantization: nf5}",
            "server.yaml: base.quantization: 'nf5' should be 'nf4', 'int8' or 'none'",
        ),
        ("base: {quantization: nf4}", "server.yaml: base.directory: missing"),
        (
            "base: {directory: x}\nengine: {block_size: 0}",
            "server.yaml: engine.block_size: 0 should be greater than or equal to 1",
        ),
        (
            "base: {directory: x}\nengine: {max_batch_size: true}",
            "server.yaml: engine.max_batch_size: True should be a number",
        ),
        (
            "base: {directory: x}\nlisten: {drain_s: yes}",
            "server.yaml: listen.drain_s: True should be a number",
        ),
        (
            "base: {directory: x}\nengine: {num_threads: 0}",
            "server.yaml: engine.num_threads: 0 should be greater than or equal to 1",
        ),
        ("[1, 2]", "server.yaml: must hold keys and values, such as `base:`"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    assert error_of("--config", write(tmp_path, text)) == message


def test_broken_yaml(tmp_path: Path) -> None:
    message = error_of("--config", write(tmp_path, "base: {directory: x\n"))
    assert message.startswith("server.yaml: not YAML: ")
    assert "line 2" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no base model: give --base DIR, or base.directory in the --config file"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory"),
        (
            ["--base", "x", "--port", "70000"],
            "command line: listen.port: '70000' should be less than or equal to 65535",
        ),
        (
            ["--base", "x", "--set", "engine.blok_size=3"],
            "command line: unknown key 'engine.blok_size'; did you mean 'engine.block_size'?",
        ),
        (["--base", "x", "--set", "engine"], "--set 'engine': give KEY=VALUE"),
    ],
)
def test_wrong_flags(arguments: list[str], message: str) -> None:
    assert error_of(*arguments) == message


def test_hardware_fills_in_what_is_not_said() -> None:
    config = ServerConfig(base=BaseConfig(directory=Path("x")))
    laptop, gpu = resolve(config, LAPTOP), resolve(config, GPU)
    assert (laptop.base.device, laptop.base.dtype) == ("cpu", "float32")
    assert (gpu.base.device, gpu.base.dtype) == ("cuda", "bfloat16")
    assert gpu.engine.cache_bytes > laptop.engine.cache_bytes > 0
    assert (laptop.engine.num_threads, gpu.engine.num_threads) == (4, 32)
    assert laptop.adapters.max_host_bytes < LAPTOP.host_memory_bytes


def test_hardware_does_not_overrule() -> None:
    config = ServerConfig(
        base=BaseConfig(directory=Path("x"), device="cpu", dtype="bfloat16"),
        engine=EngineConfig(cache_bytes=1 << 20, num_threads=7),
    )
    resolved = resolve(config, GPU)
    assert (resolved.base.device, resolved.base.dtype) == ("cpu", "bfloat16")
    assert resolved.engine.cache_bytes == 1 << 20
    assert resolved.engine.num_threads == 7
    assert resolve(resolved, LAPTOP) == resolved


def test_a_wrong_configuration_ends_the_process(tmp_path: Path) -> None:
    file = write(tmp_path, "base: {directory: x}\nengine: {max_bach_size: 3}")
    done = subprocess.run(
        [sys.executable, "-m", "server", "--config", file], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "understudy server: server.yaml: unknown key 'engine.max_bach_size'; "
        "did you mean 'engine.max_batch_size'?\n"
    )
