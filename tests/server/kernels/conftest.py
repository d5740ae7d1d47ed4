"""Memory that nobody wrote is poison."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _poisoned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """New tensors hold NaN, and integers their largest, until they are written: outputs and
    scratch of kernels as anything else."""
    # Nothing is asked to be deterministic here; on CUDA torch tells what is not.
    ignored = "ignore:.*deterministic:UserWarning"
    request.node.add_marker(pytest.mark.filterwarnings(ignored))
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
