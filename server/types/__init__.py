"""Shared nouns of the server: what the wire asks, what the engine answers.

Plain frozen data without torch or grpc. A request comes in as `Request`; the engine answers it
through `Request.emit` with any number of `Delta` events, then exactly one terminal event:
`Finished`, `Scored`, `Classified` or `Failed`.
"""

from server.types.adapters import (
    AdapterChange,
    AdapterEvent,
    AdapterObserver,
    AdapterStats,
    Residency,
    ResidentAdapter,
    Tier,
    unobserved,
)
from server.types.base import (
    BaseInfo,
    EmbeddingInfo,
    NormInfo,
)
from server.types.engine import (
    EngineMetrics,
    EngineStats,
    StepRecord,
)
from server.types.events import (
    Classified,
    ContinuationScore,
    Delta,
    Event,
    Failed,
    Finished,
    FinishedSample,
    FinishReason,
    LabelScore,
    Scored,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from server.types.request import (
    Constraint,
    Lease,
    Request,
    SamplingParams,
    StoppingParams,
    TokenMatcher,
)

__all__ = [
    "AdapterChange",
    "AdapterEvent",
    "AdapterObserver",
    "AdapterStats",
    "BaseInfo",
    "Classified",
    "Constraint",
    "ContinuationScore",
    "Delta",
    "EmbeddingInfo",
    "EngineMetrics",
    "EngineStats",
    "Event",
    "Failed",
    "FinishReason",
    "Finished",
    "FinishedSample",
    "LabelScore",
    "Lease",
    "NormInfo",
    "Request",
    "Residency",
    "ResidentAdapter",
    "SamplingParams",
    "Scored",
    "StepRecord",
    "StoppingParams",
    "Tier",
    "TokenLogprob",
    "TokenMatcher",
    "TopLogprob",
    "Usage",
    "unobserved",
]
