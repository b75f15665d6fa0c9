"""The job run: what any of its jobs would refuse is said before the first begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_jobs import config
from ray_jobs.run import run

TINY = str(Path(__file__).resolve().parents[2] / "conf/tiny.yaml")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("sources.samples.path=/nope.json", "/nope.json"),
        ("train=null", "train: missing"),
        ("train.base=/nope", "train.base: there is no folder /nope"),
        ("train.data=/nope.json", "train.data: there is no file /nope.json"),
        ("evaluate=null", "evaluate: missing"),
        ("evaluate.judge=teacher", "evaluate.judge: teacher is not of kind judge"),
        ("models.base=/nope", "models.base: there is no folder /nope"),
        ("evaluate.suites.exact.sets.general=/nope.jsonl", "/nope.jsonl"),
        ("evaluate.annotation.import_from=/nope.csv", "/nope.csv"),
    ],
)
def test_nothing_is_begun_where_a_later_job_would_refuse(
    key: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GARRISON_CACHE", str(tmp_path / "cache"))
    light = "evaluate.suites.harness=null"
    with pytest.raises(ValueError, match=said):
        run(config.load(TINY, [f"out={tmp_path / 'out'}", light, key]))
    assert not list(tmp_path.iterdir())
