"""The server's configuration: frozen dataclasses, one per component, parsed once at the edge.

Durations are seconds, sizes bytes. `None` means that `resolve` chooses from the hardware. Relative
paths are relative to the working directory.
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, PydanticCustomError

from server.errors import StartupError


def _reject_bool(value: Any) -> Any:
    # Python counts True as 1.
    if isinstance(value, bool):
        raise PydanticCustomError("number", "should be a number")
    return value


Number = BeforeValidator(_reject_bool)
AtLeastOne = Annotated[int, Number, Field(ge=1)]
Port = Annotated[int, Number, Field(ge=0, le=65535)]
Seconds = Annotated[float, Number, Field(ge=0, le=86_400, allow_inf_nan=False)]

_STRICT = ConfigDict(extra="forbid")

# Where neither the configuration nor the hardware says: fits any machine.
DEFAULT_CACHE_BYTES = 256 << 20
# The rest of a device's memory is for weights and activations.
_CUDA_CACHE_SHARE = 0.3
_HOST_CACHE_SHARE = 0.05
_HOST_ADAPTER_SHARE = 0.1
_CUDA_SLOT_SHARE = 0.1
_MIN_CALLS = 64


@dataclass(frozen=True, slots=True, config=_STRICT)
class BaseConfig:
    """The base model."""

    directory: Path
    """A Hugging Face model directory with safetensors weights."""
    name: str = ""
    """What GetModelInfo reports. Empty: the directory's name."""
    quantization: Literal["nf4", "int8", "none"] = "nf4"
    """How linears are held. nf4 is the smallest; adapters trained on another one only warn."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute type. auto: float32 on CPU; on CUDA bfloat16 where the device has it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a device."""
    weight_form: Literal["auto", "nf4_held", "nf4_packed"] = "auto"
    """How nf4 weights lie in memory: packed is small, held is dequantized once. auto: packed where
    the native kernels multiply it (bfloat16 on a CPU with AMX), there the faster form too; else
    held where memory allows."""
    kernels: Literal["auto", "native", "triton", "torch"] = "auto"
    """What runs in the place of torch: native kernels on a CPU, compiled at installation; Triton's
    on CUDA, which no GPU has tried yet. auto: native where they were compiled and the CPU has
    AVX-512 with BF16; torch everywhere else and in deterministic mode, with which the others are
    refused."""
    nf4_table: Literal["measure"] | Path | None = None
    """Which of two products with packed nf4 weights is the faster one for each shape and number of
    rows, Triton's or bitsandbytes': `measure` times both at start, a file holds what `python -m
    tests.bench.gpu` has measured. None: Triton's up to 256 rows."""
    attention: Literal["auto", "flashinfer"] = "auto"
    """auto: as `kernels` say. flashinfer: FlashInfer, where it is installed, on CUDA in half
    precision; no GPU has tried it yet."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class EngineConfig:
    """Budgets of the engine."""

    max_batch_size: AtLeastOne = 32
    """Sequences in one step. More raises throughput and the time between tokens."""
    max_queue_size: AtLeastOne = 1024
    """Requests waiting to start; beyond it `submit` refuses, so that memory stays bounded."""
    max_wait_s: Seconds = 60.0
    """Whoever has waited longer gets every second free place, oldest first, whatever its priority,
    tenant and adapter: bounds how long anyone waits."""
    max_step_tokens: AtLeastOne = 512
    """Rows of one step, decode and prefill together: bounds how long a long prompt holds up the
    others."""
    block_size: AtLeastOne = 16
    """Tokens per cache block."""
    num_blocks: AtLeastOne | None = None
    """Cache blocks. None: as many as `cache_bytes` holds."""
    cache_bytes: AtLeastOne | None = None
    """Memory for keys and values, where `num_blocks` is None. None: a share of the device's."""
    prefix_cache: bool = True
    """Requests that begin with the same tokens, under the same adapter version, share the states of
    them. Costs no memory that is needed otherwise. Clients can tell from the time to the first
    token what others sent."""
    num_adapter_slots: AtLeastOne = 32
    """Adapters on the device at a time. At least `max_batch_size` never delays a request."""
    adapter_slot_bytes: AtLeastOne | None = None
    """Memory of the device for adapters, each with the bytes of its own ranks. None: a share of the
    device's."""
    max_lora_rank: AtLeastOne = 256
    """Largest LoRA rank a request may bring."""
    num_threads: AtLeastOne | None = None
    """Threads of a step's products on CPU. None: OMP_NUM_THREADS where it is set, otherwise the
    physical cores this process may use. Belongs to the process: set by `python -m server`."""
    cuda_graphs: bool = False
    """Steps that only decode are captured by their shape and replayed, on CUDA: for adapters with
    Triton's kernels, and with what linears they change by low-rank updates. No GPU has tried it
    yet."""
    deterministic: bool = False
    """A request's greedy tokens and log-probabilities are the same bits alone and in any batch, on
    CPU: int8 at threshold 0, rows and keys padded to fixed sizes, one product per adapter. About a
    fifth slower."""

    def num_cache_blocks(self, block_bytes: int) -> int:
        """Cache blocks to allocate, where one takes `block_bytes` over all layers. At least 1."""
        if self.num_blocks is not None:
            return self.num_blocks
        return max(1, (self.cache_bytes or DEFAULT_CACHE_BYTES) // block_bytes)


@dataclass(frozen=True, slots=True, config=_STRICT)
class AdaptersConfig:
    """Where adapters come from and how much memory they may take."""

    store: Path | None = None
    """The adapter store. Its adapters load when a request names them. None: no store."""
    watch_store_s: Seconds = 0.0
    """Seconds between two looks at the store for new versions of the names in service, which new
    requests then get. 0: none; a name keeps its version until LoadAdapter or SetAlias moves it."""
    roots: tuple[Path, ...] = ()
    """Folders from which LoadAdapter may read, beside the store: a request must not be able to
    open any other file of this machine."""
    remote_sources: tuple[str, ...] = ()
    """Places from which LoadAdapter may fetch, with all below them: hf://ORG[/REPO[@REVISION]],
    s3://BUCKET[/PATH], gs://BUCKET[/PATH], https://HOST[/PATH]. None by default: a request must not
    be able to make this machine call any other."""
    cache: Path | None = None
    """Folder for what is being fetched. None: `.downloads` in the store, or the system's temporary
    folder where there is no store."""
    download_timeout_s: Seconds = 600.0
    """Longest time to fetch one adapter."""
    preload: tuple[str, ...] = ()
    """Adapters (`name`, `name@version` or `name@alias`) loaded before the server takes requests,
    so that their first request is as fast as the others."""
    max_host_bytes: AtLeastOne | None = None
    """Host memory for adapters; beyond it the least recently used leave. None: a tenth of the
    machine's memory."""
    load_share: Annotated[float, Number, Field(gt=0, le=1)] = 0.05
    """Share of one processor's time that loading may take while requests run. Less lets adapters
    that load disturb them less, and take longer."""
    max_adapter_bytes: AtLeastOne = 4 << 30
    """Largest tensor file that is read."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class ListenConfig:
    """Doors of the process."""

    host: str = "127.0.0.1"
    """Address to bind. Local by default: there is no authentication."""
    port: Port = 50051
    """gRPC port. 0: a free one."""
    metrics_port: Port = 9464
    """Prometheus port. 0: a free one."""
    drain_s: Seconds = 30.0
    """How long running requests may finish after SIGTERM. Kubernetes kills after 30 s unless
    told otherwise."""
    max_concurrent_calls: AtLeastOne | None = None
    """Calls open at a time: beyond it new ones are refused unread, so that a flood cannot fill the
    memory. None: twice what the engine's queue and batch hold, as requests that load their adapter
    or are being refused are calls too."""
    max_message_bytes: Annotated[int, Number, Field(ge=1024, le=2**31 - 1)] = 16 << 20
    """Largest request message: bounds what one client can make the server hold."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class LimitsConfig:
    """What one request may ask."""

    default_max_tokens: AtLeastOne = 256
    """Tokens to generate where a request does not say."""
    max_stop_strings: AtLeastOne = 16
    """Stop strings: each is looked for after every token."""
    max_stop_chars: AtLeastOne = 256
    """Characters of a stop string: as many may be held back from a stream."""
    max_samples: AtLeastOne = 128
    """Samples of one prompt: each takes a place in the batch."""
    max_logprobs: AtLeastOne = 1 << 21
    """Log-probabilities that one answer may hold, alternatives included. One takes about 100 bytes
    of memory until the request ends."""
    max_continuations: AtLeastOne = 256
    """Continuations of one Score request."""
    max_summed_adapters: AtLeastOne = 8
    """Adapters that one request may sum; their ranks together are at most max_lora_rank."""
    max_constraint_bytes: AtLeastOne = 64 << 10
    """Size of a schema, a regular expression, a grammar or all choices together."""
    max_constraint_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Processor time to compile one; beyond it the request is refused. Compiling is done beside
    the engine, one at a time."""
    max_watch_events: AtLeastOne = 4096
    """Changes of adapters that are kept for a watcher that does not read; one more ends its watch.
    One takes about 200 bytes."""
    max_batch_in_flight: AtLeastOne = 64
    """Requests of one BatchGenerate stream that run or wait at a time: beyond it the stream is
    not read, so that a client is slowed down rather than refused."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class MetricsConfig:
    """What Prometheus gets."""

    max_adapter_labels: AtLeastOne = 100
    """Adapters that have series of their own, those used most of late; the others are counted
    together as `other`. Each takes about 50 series."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class ServerConfig:
    """Everything a server is told."""

    base: BaseConfig
    engine: EngineConfig = EngineConfig()
    adapters: AdaptersConfig = AdaptersConfig()
    listen: ListenConfig = ListenConfig()
    limits: LimitsConfig = LimitsConfig()
    metrics: MetricsConfig = MetricsConfig()
    ready_file: Path | None = None
    """Written once requests are taken: JSON with `address` and `metrics`, for scripts."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What goes to standard error."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What `resolve` needs to know of the machine."""

    has_cuda: bool
    cuda_has_bfloat16: bool
    cuda_memory_bytes: int
    """Of the first device. 0 without CUDA."""
    host_memory_bytes: int
    num_cores: int
    """For the products of a step: physical cores, or as many as the environment asks for."""


def resolve(config: ServerConfig, hardware: Hardware) -> ServerConfig:
    """`config` with every value that depends on the hardware filled in. Pure.

    A device that is asked for is not second-guessed: loading fails if it is not there.
    """
    device = config.base.device
    if device == "auto":
        device = "cuda" if hardware.has_cuda else "cpu"
    dtype = config.base.dtype
    if dtype == "auto":
        half: Literal["bfloat16", "float16"] = (
            "bfloat16" if hardware.cuda_has_bfloat16 else "float16"
        )
        dtype = half if device == "cuda" else "float32"
    cache_bytes = config.engine.cache_bytes
    if cache_bytes is None:
        cache_bytes = (
            int(hardware.cuda_memory_bytes * _CUDA_CACHE_SHARE)
            if device == "cuda"
            else int(hardware.host_memory_bytes * _HOST_CACHE_SHARE)
        )
    max_calls = config.listen.max_concurrent_calls
    if max_calls is None:
        in_engine = config.engine.max_queue_size + config.engine.max_batch_size
        max_calls = max(_MIN_CALLS, 2 * in_engine)
    max_host_bytes = config.adapters.max_host_bytes
    if max_host_bytes is None:
        max_host_bytes = max(1 << 28, int(hardware.host_memory_bytes * _HOST_ADAPTER_SHARE))
    slot_bytes = config.engine.adapter_slot_bytes
    if slot_bytes is None:
        slot_bytes = (
            int(hardware.cuda_memory_bytes * _CUDA_SLOT_SHARE)
            if device == "cuda"
            else max_host_bytes
        )
    return replace(
        config,
        base=replace(config.base, device=device, dtype=dtype),
        engine=replace(
            config.engine,
            cache_bytes=max(1, cache_bytes),
            adapter_slot_bytes=max(1, slot_bytes),
            num_threads=config.engine.num_threads or hardware.num_cores,
        ),
        adapters=replace(config.adapters, max_host_bytes=max_host_bytes),
        listen=replace(config.listen, max_concurrent_calls=max_calls),
    )


def read_config(file: Path | None, overrides: Mapping[str, Any]) -> ServerConfig:
    """The configuration in a YAML file, with `overrides` (`engine.block_size` -> value) on top.

    Raises StartupError with one line: the file or flag, the key, the fault, the nearest valid key.
    """
    where = file.name if file else "command line"
    data = _read_yaml(file) if file else {}
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        section = data
        for part in path:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise StartupError(f"{where}: {part}: must hold keys, not {section!r}")
        section[last] = value
    if not data.get("base"):
        raise StartupError("no base model: give --base DIR, or base.directory in the --config file")
    try:
        return TypeAdapter(ServerConfig).validate_python(data)
    except ValidationError as error:
        fault = _first(error)
        dotted = ".".join(str(part) for part in fault["loc"])
        if any(dotted.startswith(key) for key in overrides):
            where = "command line"
        raise StartupError(f"{where}: {_describe(dotted, fault)}") from error


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartupError(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StartupError(f"{file.name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise StartupError(f"{file.name}: must hold keys and values, such as `base:`")
    return data


def _first(error: ValidationError) -> ErrorDetails:
    """The fault to tell: unknown keys first, as they explain missing ones."""
    faults = error.errors(include_url=False)
    return min(faults, key=lambda fault: fault["type"] != "unexpected_keyword_argument")


def _describe(dotted: str, fault: ErrorDetails) -> str:
    if fault["type"] == "unexpected_keyword_argument":
        return f"unknown key {dotted!r}{_nearest(dotted)}"
    if fault["type"] in ("missing", "missing_argument"):
        return f"{dotted}: missing"
    message = fault["msg"].removeprefix("Input ")
    return f"{dotted}: {fault['input']!r} {message}"


def _nearest(dotted: str) -> str:
    keys = _keys(ServerConfig)
    section, _, last = dotted.rpartition(".")
    beside = [key for key in keys if key.rpartition(".")[0] == section]
    close = difflib.get_close_matches(dotted, beside, n=1)
    if not close:
        # The right key in the wrong section.
        names = {key.rpartition(".")[2]: key for key in reversed(keys)}
        close = [names[name] for name in difflib.get_close_matches(last, names, n=1)]
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(beside)}"


def _keys(component: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    for field in fields(component):
        found.append(prefix + field.name)
        if is_dataclass(field.type):
            found += _keys(field.type, f"{prefix}{field.name}.")
    return found
