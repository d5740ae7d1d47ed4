"""When a run's validations say that it is enough."""

from collections.abc import Iterable


def num_without_gain(scores: Iterable[float], min_delta: float) -> int:
    """Validations since the score last rose by more than `min_delta` over the last one that did.

    Small rises add up: each is compared with the score that counted last. Larger is better.
    """
    counted: float | None = None
    num = 0
    for score in scores:
        if counted is None or score > counted + min_delta:
            counted, num = score, 0
        else:
            num += 1
    return num
