import os
import signal

import pytest

from ray_jobs.training.follow import follow


def test_a_first_signal_waits_for_a_good_moment_and_a_second_does_not() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    reached = []

    def start() -> None:  # nothing of it may be left half done
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("after the first")
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        follow([start], 1, None)  # type: ignore[list-item]
    assert reached == ["after the first"]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
