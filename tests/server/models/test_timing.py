"""How calls are timed: their own time, and not what is around it."""

import time

import pytest
import torch

from server.models.timing import seconds


def test_on_a_cpu_it_is_the_median_and_the_first_calls_do_not_count() -> None:
    waits = iter((0.05, 0.05, 0.01, 0.03, 0.02))
    took = seconds(lambda: time.sleep(next(waits)), torch.device("cpu"), passes=3)
    assert 0.02 <= took < 0.03
    assert next(waits, None) is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_host_that_launches_does_not_count() -> None:
    device = torch.device("cuda")
    values = torch.zeros(16, device=device)

    def work() -> None:
        # As a launch from Python, of a kernel of some microseconds.
        time.sleep(1e-4)
        values.add_(1)

    assert seconds(work, device) < 5e-5
