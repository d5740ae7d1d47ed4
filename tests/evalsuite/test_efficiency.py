"""What rows cost: measured on a server, kept beside a run, shown on its page."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from evalsuite.__main__ import main
from evalsuite.aspects import efficiency
from evalsuite.aspects.efficiency import MemoryWatch, efficiency_fields, read_efficiency
from evalsuite.errors import InputError

LOAD = {
    "num_requests": 3,
    "num_failed": 0,
    "rate": None,
    "concurrency": 2,
    "zipf": 0.0,
    "max_tokens": 8,
    "requests_per_s": 12.5,
    "tokens_per_s": 100.0,
    "max_batch_size": 2,
    "latency_ms": {"p50": 20.0, "p95": 30.0},
    "first_token_ms": {"p50": 5.0, "p95": 6.0},
    "adapters": {
        "base": {
            "num_requests": 1,
            "latency_ms": {"p50": 10.0, "p95": 10.0},
            "first_token_ms": {"p50": 4.0, "p95": 4.0},
        },
        "gold": {
            "num_requests": 2,
            "latency_ms": {"p50": 25.0, "p95": None},
            "first_token_ms": {"p50": None, "p95": None},
        },
    },
}
HELD = {
    "server": {
        "base_model": "m",
        "quantization": "nf4",
        "weight_form": "nf4_packed",
        "device": "cpu",
        "weights_bytes": 21_000_000,
    },
    "adapters": {"gold": {"method": "lora", "size_bytes": 1_495_000}},
}


@pytest.fixture
def finished(server: Any, make_tasks: Any, tmp_path: Path) -> Path:
    files = make_tasks()
    server.gold = files.gold
    out = tmp_path / "out"
    command = ["run", "--server", server.address, "--adapters", "base,gold", "--shots", "0"]
    assert main([*command, "--tasks", str(files.mood), "--out", str(out)]) == 0
    return out


def test_page_and_markdown_show_it(finished: Path) -> None:
    assert main(["report", "--out", str(finished)]) == 0
    assert 'id="efficiency"' not in (finished / "report.html").read_text()
    report = (finished / "report.json").read_bytes()
    fields = efficiency_fields(LOAD, HELD, 123_400_000)
    (finished / "efficiency.json").write_text(json.dumps(fields))
    assert main(["report", "--out", str(finished)]) == 0
    page = (finished / "report.html").read_text()
    assert 'id="efficiency"' in page
    assert "21.0 MB (nf4_packed), the server's process 123.4 MB at most" in page.replace(
        "&#39;", "'"
    )
    assert "<td>1495.0</td><td>7.119</td>" in page
    markdown = (finished / "report.md").read_text()
    assert "| gold | 1495.0 | – | – | 25.00 | – |" in markdown
    assert (finished / "report.json").read_bytes() == report


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "server": {}}'])
def test_another_file_of_that_name(finished: Path, content: str, capsys: Any) -> None:
    (finished / "efficiency.json").write_text(content)
    capsys.readouterr()
    assert main(["report", "--out", str(finished)]) == 2
    assert "efficiency.json: not a measurement of `load --out`" in capsys.readouterr().err


def test_load_keeps_what_it_measured(canned_address: str, tmp_path: Path, capsys: Any) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("one\ntwo\n")
    out = tmp_path / "new" / "out"
    command = ["load", "--server", canned_address, "--prompts", str(prompts), "--requests", "6"]
    command += ["--concurrency", "2", "--json", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 1
    found = read_efficiency(out)
    assert found is not None
    assert found["server"]["base_model"] == "canned"
    assert found["rows"]["base"] == json.loads(printed)["adapters"]["base"]
    assert found["load"]["num_requests"] == 6


@pytest.fixture
def metrics_url() -> Iterator[str]:
    sizes = iter([1e6, 5e6, 2e6])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            if self.path == "/metrics":
                self.wfile.write(f"process_resident_memory_bytes {next(sizes, 3e6):e}\n".encode())

        def log_message(self, *arguments: object) -> None:
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    thread.join()
    served.server_close()


async def test_memory_is_the_largest_seen(metrics_url: str) -> None:
    async with MemoryWatch(f"{metrics_url}/metrics") as memory:
        assert memory.peak_bytes == 1_000_000
        for _ in range(2):
            await memory._look()
    assert memory.peak_bytes == 5_000_000
    async with MemoryWatch(None) as memory:
        pass
    assert memory.peak_bytes is None


async def test_a_look_that_fails_ends_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server under load answers late, just when its memory is largest."""
    sizes = iter([1, None, 9])
    seen = asyncio.Event()

    def look(url: str) -> int:
        size = next(sizes, 2)
        if size is None:
            raise InputError("late")
        if size == 2:
            loop.call_soon_threadsafe(seen.set)
        return size

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(efficiency, "_resident_bytes", look)
    monkeypatch.setattr(efficiency, "_SAMPLE_S", 0.001)
    async with MemoryWatch("http://x") as memory:
        await asyncio.wait_for(seen.wait(), 30)
    assert memory.peak_bytes == 9


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "is no http:// or https:// address"),
        ("http://127.0.0.1:1/metrics", "cannot be read"),
        ("other", "has no process_resident_memory_bytes"),
    ],
)
async def test_wrong_metrics(metrics_url: str, url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        async with MemoryWatch(f"{metrics_url}/other" if url == "other" else url):
            pass


def test_metrics_url_needs_out(tmp_path: Path, capsys: Any) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("one\n")
    command = ["load", "--server", "x:1", "--prompts", str(prompts), "--concurrency", "1"]
    assert main([*command, "--metrics-url", "http://x"]) == 2
    assert "--metrics-url: needs --out" in capsys.readouterr().err
