"""Locks that no run wrote, and one that cannot be written for a while."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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


def test_a_heartbeat_that_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ray_jobs.lock.HEARTBEAT_S", 0.02)
    home, aside = tmp_path / "home", tmp_path / "aside"
    home.mkdir()
    with RunLock(Folder(str(home))):
        home.rename(aside)
        home.write_text("a file where the folder was", encoding="utf-8")
        wait_until(lambda: "no sign of life could be written" in caplog.text)
        home.unlink()
        aside.rename(home)
        before = (home / NAME).read_bytes()
        wait_until(lambda: (home / NAME).read_bytes() != before)
    assert not (home / NAME).exists()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
