"""The command line: what a person has to mend is one line, a slip of ours keeps its traceback."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ray_jobs import __main__ as command
from ray_jobs.tables import Folder

TINY = str(Path(__file__).resolve().parents[2] / "conf" / "tiny.yaml")


def test_a_place_that_cannot_be_written_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command._run("build_data", TINY, ["out=/proc/garrison"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "'/proc/garrison'; mend that place, or give another" in said


@pytest.mark.parametrize("job", ["build_data", "train", "report"])
def test_a_broken_manifest_is_one_line_and_exit_code_2(
    job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in ("collected", "exported"):
        (tmp_path / step).mkdir()
        (tmp_path / step / "manifest.json").write_text("{}", encoding="utf-8")
    assert command._run(job, TINY, [f"out={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "manifest.json: broken" in said


def test_errors_of_the_system_are_a_persons_to_mend_where_they_are_of_a_place(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as by_pyarrow:  # it names no file
        Folder(f"{tmp_path}/file").names()
    assert command._is_about_a_place(by_pyarrow.value)
    with pytest.raises(NotADirectoryError) as refused:
        (tmp_path / "file" / "below").read_text("utf-8")
    assert command._is_about_a_place(refused.value)
    with pytest.raises(FileNotFoundError) as absent:
        (tmp_path / "absent").read_text("utf-8")
    assert not command._is_about_a_place(absent.value)
    with pytest.raises(ConnectionRefusedError) as network:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    assert not command._is_about_a_place(network.value)
