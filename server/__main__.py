"""`python -m server`: serves one base model and its adapters over gRPC."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from server.config import ServerConfig, read_config
from server.errors import StartupError

_EXAMPLES = """\
examples:
  python -m server --base models/my-model --store store
  python -m server --config server.yaml --port 0 --ready-file ready.json
  python -m server --base models/my-model --quantization int8 --device cuda \\
      --store store --preload summarize,translate@stable
  python -m server --config server.yaml --set engine.block_size=32

A configuration file holds the sections base, engine, adapters, listen, limits and metrics:
  base: {directory: models/my-model, quantization: nf4}
  adapters: {store: store, preload: [summarize]}
  engine: {max_batch_size: 64}

Exit code 0 after SIGTERM or Ctrl-C, 2 for a wrong configuration, base or port.
"""

# Flag -> key of the configuration.
_KEYS = {
    "base": "base.directory",
    "name": "base.name",
    "quantization": "base.quantization",
    "dtype": "base.dtype",
    "device": "base.device",
    "weight_form": "base.weight_form",
    "kernels": "base.kernels",
    "store": "adapters.store",
    "watch_store_s": "adapters.watch_store_s",
    "adapter_root": "adapters.roots",
    "preload": "adapters.preload",
    "host": "listen.host",
    "port": "listen.port",
    "metrics_port": "listen.metrics_port",
    "drain_s": "listen.drain_s",
    "max_batch_size": "engine.max_batch_size",
    "max_queue_size": "engine.max_queue_size",
    "max_wait_s": "engine.max_wait_s",
    "num_threads": "engine.num_threads",
    "deterministic": "engine.deterministic",
    "ready_file": "ready_file",
    "log_level": "log_level",
}


def build_parser() -> argparse.ArgumentParser:
    """The command line. Flags override the file; what is not given keeps its default."""
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Serves one base model and its adapters over gRPC.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="YAML file with the configuration")
    add("--base", metavar="DIR", help="Hugging Face model directory")
    add("--name", help="name that GetModelInfo reports (default: the directory's)")
    add("--quantization", metavar="nf4|int8|none", help="how weights are held (default: nf4)")
    add("--dtype", metavar="auto|float32|bfloat16|float16", help="compute type (default: auto)")
    add("--device", metavar="auto|cpu|cuda", help="(default: auto)")
    add("--weight-form", metavar="auto|nf4_held|nf4_packed", help="(default: auto)")
    add(
        "--kernels",
        metavar="auto|native|triton|torch",
        help="what runs beside torch (default: auto)",
    )
    add("--store", metavar="DIR", help="adapter store; its adapters load on demand")
    add(
        "--watch-store-s",
        metavar="S",
        help="seconds between two looks at the store for new versions (default: 0, none)",
    )
    add(
        "--adapter-root",
        action="append",
        metavar="DIR",
        help="folder from which LoadAdapter may read; may be given more than once",
    )
    add("--preload", metavar="A,B", help="adapters to load before taking requests")
    add("--host", help="address to bind (default: 127.0.0.1)")
    add("--port", metavar="N", help="gRPC port, 0 for a free one (default: 50051)")
    add("--metrics-port", metavar="N", help="Prometheus port, 0 for a free one (default: 9464)")
    add("--drain-s", metavar="S", help="seconds for running requests on SIGTERM (default: 30)")
    add("--max-batch-size", metavar="N", help="sequences in one step (default: 32)")
    add("--max-queue-size", metavar="N", help="requests that may wait (default: 1024)")
    add(
        "--max-wait-s",
        metavar="S",
        help="seconds after which a waiting request gets every second place (default: 60)",
    )
    add(
        "--num-threads",
        metavar="N",
        help="threads of a step on CPU (default: OMP_NUM_THREADS, or the physical cores)",
    )
    add(
        "--deterministic",
        action="store_true",
        default=None,
        help="answers do not depend on the other requests of the batch, to the last bit",
    )
    add("--ready-file", metavar="FILE", help="JSON with the addresses, written when ready")
    add("--log-level", metavar="debug|info|warning|error", help="(default: info)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of the configuration, such as engine.block_size=32",
    )
    return parser


def parse_config(arguments: Sequence[str] | None = None) -> ServerConfig:
    """The configuration that the command line asks for. Raises StartupError."""
    options = build_parser().parse_args(arguments)
    overrides: dict[str, Any] = {}
    for flag, key in _KEYS.items():
        value = getattr(options, flag)
        if value is not None:
            overrides[key] = value
    if options.preload is not None:
        overrides[_KEYS["preload"]] = [name for name in options.preload.split(",") if name]
    for assignment in options.set:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise StartupError(f"--set {assignment!r}: give KEY=VALUE")
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise StartupError(f"--set {assignment!r}: the value is not YAML") from error
    return read_config(options.config, overrides)


def main() -> int:
    """Runs the server; returns the exit code."""
    try:
        config = parse_config()
        logging.basicConfig(
            level=config.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        # It warns that it could fetch a kernel of its own; ours do not need it.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        # Read when torch loads. Threads wait for each other at every operation of a step: to sleep
        # there halves the speed; to spin as long as OpenMP does by default takes the processor
        # from whoever else needs it. About 0.2 ms bridges the gaps within a step.
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "20000")
        # Late, so that --help and wrong configurations answer without loading torch.
        from server.app import run

        return run(config)
    except StartupError as error:
        print(f"understudy server: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
