"""The retry delay of a full queue."""

from server.engine.pace import Pace


def test_delay_is_what_the_queue_takes_at_the_present_pace() -> None:
    pace = Pace()
    pace.begin(1000.0)
    # Four that end together every two seconds.
    for i in range(100):
        for _ in range(4):
            pace.end(1002.0 + 2 * i)
    assert 7.5 < pace.retry_delay_s(16, 1200.0) <= 8.0
    # A pace that has dropped is noticed before the next one ends.
    assert pace.retry_delay_s(16, 1264.0) > 15.0


def test_delay_has_bounds_and_forgets_idle_time() -> None:
    pace = Pace()
    pace.begin(0.0)
    assert pace.retry_delay_s(1000, 0.0) == 0.1
    pace.end(500.0)
    assert pace.retry_delay_s(1000, 500.0) == 30.0
    pace.begin(9000.0)
    pace.end(9001.0)
    pace.end(9002.0)
    assert pace.retry_delay_s(4, 9002.0) == 4.0
