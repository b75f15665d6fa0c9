"""Locks that no run wrote."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ray_jobs.lock import NAME, STALE_S, RunLock
from ray_jobs.tables import Folder


@pytest.mark.parametrize("text", ["", '{"a": 1}'])
def test_an_unreadable_lock_is_named_while_it_is_fresh_and_taken_over_when_old(
    tmp_path: Path, text: str
) -> None:
    lock = tmp_path / NAME
    lock.write_text(text, encoding="utf-8")
    with (
        pytest.raises(ValueError, match=r"lock\.json: cannot be read as a run's lock; .*remove it"),
        RunLock(Folder(str(tmp_path))),
    ):
        pass
    assert lock.read_text("utf-8") == text
    os.utime(lock, times=(time.time() - STALE_S - 1,) * 2)
    with RunLock(Folder(str(tmp_path))):
        assert lock.read_text("utf-8") != text
    assert not lock.exists()
