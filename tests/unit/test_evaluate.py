"""The job evaluate: what a wrong file leaves behind."""

from pathlib import Path

import pytest

from ray_jobs.evals.exact import Exact, suites
from ray_jobs.evaluate import _samples
from ray_jobs.steps import refuse_changed, run_steps
from ray_jobs.tables import Folder


def test_a_wrong_file_leaves_nothing_that_would_refuse_the_right_one(tmp_path: Path) -> None:
    file, out = tmp_path / "sums.jsonl", Folder(str(tmp_path / "out"))
    file.write_text("", encoding="utf-8")
    step = _samples(suites(Exact(sets={"sums": str(file)}))[0], ())
    with pytest.raises(ValueError, match="no question"):
        run_steps([step], out)
    file.write_text('{"prompt": "1+1", "answer": "2"}\n', encoding="utf-8")
    mended = _samples(suites(Exact(sets={"sums": str(file)}))[0], ())
    refuse_changed([mended], out)
    assert run_steps([mended], out)["exact-sums"].manifest["num_rows"] == 1
