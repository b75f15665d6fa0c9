"""The only `ray.init`: the cluster this process was submitted to, the one `ray start` began here,
or one of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

LOCAL_CPUS = 8
"""Ray's CPUs are bookkeeping: with two, an engine, a judge and a small task would wait for ever."""
STARTED_HERE = Path("/tmp/ray/ray_current_cluster")  # written by `ray start`, removed by `ray stop`


def connect() -> None:
    """Connect to Ray, with token authentication. Workers' output stays in Ray's log folder."""
    _take_up_token_mode()
    import ray

    if ray.is_initialized():
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if not _join():
        # Not `auto`: it would also join the private cluster of another run, and end with it.
        ray.init(
            address="local",
            num_cpus=max(LOCAL_CPUS, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    if threading.current_thread() is threading.main_thread():
        # ray.init puts its own in place, which exits at once.
        signal.signal(signal.SIGTERM, on_sigterm)
    _quieten()


def _take_up_token_mode() -> None:
    imported = "ray" in sys.modules
    if os.environ.setdefault("RAY_AUTH_MODE", "token") and imported:
        # Ray read the mode when it was imported (by `serve run`, for one), and this driver would
        # come without the token that the cluster asks for.
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def _join() -> bool:
    import ray

    address = os.environ.get("RAY_ADDRESS")
    started_here = not address and STARTED_HERE.exists()
    if started_here:
        address = STARTED_HERE.read_text().strip()
    if not address:
        return False
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        if not started_here:
            raise
        return False  # that cluster was killed, and its file is left over
    return True


def _quieten() -> None:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # These say at length what also comes back as an exception, or that the progress bars are ours.
    for name in (
        "_internal.progress",
        "_internal.execution.streaming_executor_state",
        "exceptions",
    ):
        logging.getLogger(f"ray.data.{name}").setLevel(logging.CRITICAL)
