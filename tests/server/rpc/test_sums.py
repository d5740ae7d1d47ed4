"""Several adapters summed for one request, over the wire."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from server.config import AdaptersConfig, LimitsConfig
from tests.server.rpc.conftest import TIMEOUT_S, Artifacts, Server, StartServer, request_for
from tests.tiny import TEMPLATE
from understudy.store import publish
from understudy.v1 import adapter_service_pb2 as apb
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb


@pytest.fixture
def server(start_server: StartServer, artifacts: Artifacts, tmp_path: Path) -> Server:
    publish(artifacts.lora, tmp_path, "pirate")
    publish(artifacts.lora_v2, tmp_path, "poet")
    publish(artifacts.prompt, tmp_path, "polite")
    return start_server(
        adapters=AdaptersConfig(store=tmp_path), limits=LimitsConfig(max_summed_adapters=3)
    )


def _sum(*terms: tuple[str, float | None], **fields: Any) -> gpb.GenerateRequest:
    adapters = [tpb.WeightedAdapter(adapter=name, weight=weight) for name, weight in terms]
    return request_for(adapters=adapters, **fields)


def _tokens(server: Server, request: gpb.GenerateRequest) -> list[int]:
    return list(server.generation.Generate(request, timeout=TIMEOUT_S).generations[0].token_ids)


def test_a_sum_of_one_is_the_adapter(server: Server) -> None:
    alone = list(server.generate(adapter="pirate").token_ids)
    assert _tokens(server, _sum(("pirate", None))) == alone
    assert _tokens(server, _sum(("pirate", 1.0), ("poet", 0.0))) == alone
    both = _tokens(server, _sum(("pirate", 1.0), ("poet", 1.0)))
    assert both not in (alone, list(server.generate(adapter="poet").token_ids))
    assert _tokens(server, _sum(("poet", 1.0), ("pirate", 1.0))) == both
    # No weight at all is the base, with the first one's template.
    prompt = tpb.Input(raw_prompt=TEMPLATE.replace("{{ input }}", "noon"))
    base = list(server.generate(input=prompt).token_ids)
    assert _tokens(server, _sum(("pirate", 0.0), ("poet", 0.0))) == base


def test_the_answer_names_the_members(server: Server) -> None:
    request = _sum(("pirate", 0.5), ("poet@latest", -1.0))
    answer = server.generation.Generate(request, timeout=TIMEOUT_S).adapter
    assert answer.name == "pirate+poet"
    assert answer.version.startswith("sum-")
    listed = server.adapters.ListAdapters(apb.ListAdaptersRequest(), timeout=TIMEOUT_S).adapters
    versions = {adapter.name: adapter.version for adapter in listed}
    assert [(m.adapter, m.weight) for m in answer.members] == [
        (f"pirate@{versions['pirate']}", 0.5),
        (f"poet@{versions['poet']}", -1.0),
    ]
    stream = list(
        server.generation.GenerateStream(
            gpb.GenerateStreamRequest(request=request), timeout=TIMEOUT_S
        )
    )
    assert stream[0].started.adapter == answer
    assert sum(adapter.num_leases for adapter in listed) == 0


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (_sum(("pirate", float("nan"))), grpc.StatusCode.INVALID_ARGUMENT, "adapters[0].weight"),
        (_sum(("pirate", 101.0)), grpc.StatusCode.INVALID_ARGUMENT, "adapters[0].weight"),
        (_sum(("pirate", 1.0), ("", 1.0)), grpc.StatusCode.INVALID_ARGUMENT, "adapters[1].adapter"),
        (_sum(("base", 1.0)), grpc.StatusCode.INVALID_ARGUMENT, "part of every sum"),
        (_sum(("a@b@c", 1.0)), grpc.StatusCode.INVALID_ARGUMENT, "adapters[0].adapter"),
        (_sum(("pirate", 1.0), ("pirate", 2.0)), grpc.StatusCode.INVALID_ARGUMENT, "twice"),
        (_sum(("pirate", 1.0), ("piratte", 1.0)), grpc.StatusCode.NOT_FOUND, "pirate"),
        (_sum(("pirate", 1.0), ("polite", 1.0)), grpc.StatusCode.INVALID_ARGUMENT, "virtual"),
        (_sum(("pirate", 1.0), adapter="poet"), grpc.StatusCode.INVALID_ARGUMENT, "set one"),
        (_sum(*[(f"a{i}", 1.0) for i in range(4)]), grpc.StatusCode.INVALID_ARGUMENT, "at most 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals(
    server: Server, request_: gpb.GenerateRequest, code: grpc.StatusCode, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        server.generation.Generate(request_, timeout=TIMEOUT_S)
    assert error.value.code() is code
    assert message in error.value.details()
    listed = server.adapters.ListAdapters(apb.ListAdaptersRequest(), timeout=TIMEOUT_S).adapters
    assert sum(adapter.num_leases for adapter in listed) == 0


def test_unloading_a_member_frees_the_sum(server: Server) -> None:
    before = _tokens(server, _sum(("pirate", 1.0), ("poet", 1.0)))
    assert server.app.engine is not None
    assert any("pirate+poet" in slot for slot in server.app.engine.stats().slots)
    server.adapters.UnloadAdapter(apb.UnloadAdapterRequest(adapter="pirate"), timeout=TIMEOUT_S)
    # The engine takes the order at its next step.
    server.generate()
    assert not any("pirate" in slot for slot in server.app.engine.stats().slots)
    with pytest.raises(grpc.RpcError) as error:
        _tokens(server, _sum(("pirate", 1.0), ("poet", 1.0)))
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    server.adapters.LoadAdapter(apb.LoadAdapterRequest(name="pirate"), timeout=TIMEOUT_S)
    assert _tokens(server, _sum(("pirate", 1.0), ("poet", 1.0))) == before
