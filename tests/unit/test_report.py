"""The report: what there is to tell of, and what is said to those who cannot see its pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ray_jobs import config
from ray_jobs.report import FILE, report
from ray_jobs.report_page import picture, table
from ray_jobs.tables import Folder

TINY = str(Path(__file__).resolve().parents[2] / "conf/tiny.yaml")


def test_a_model_that_was_trained_is_enough_for_a_report(tmp_path: Path) -> None:
    recipe = config.load(TINY, [f"out={tmp_path}"])
    home = Folder(str(tmp_path / "trained"))
    home.write("f00d/decides.json", b"{}")
    with pytest.raises(ValueError, match=r"nothing in .* to report yet; run build_data, train or"):
        report(recipe)  # it has only begun
    told = {"fingerprint": "f00d", "base": "garrison/tiny-base", "num_steps": 7}
    home.write("manifest.json", json.dumps(told).encode())
    report(recipe)
    page = (tmp_path / FILE).read_text(encoding="utf-8")
    assert "garrison/tiny-base" in page
    assert '<a href="#trained">Training</a>' in page


def test_a_picture_has_a_name_for_those_who_cannot_see_it() -> None:
    svg = b'<?xml version="1.0"?><svg width="9"><g id="a"/></svg>'
    found = picture(svg, "one", label='"<a>" & b').text
    name = "&quot;&lt;a&gt;&quot; &amp; b"
    assert f'<svg role="img" aria-label="{name}" width="9"><g id="one-a"/>' in found
    assert 'aria-label="Loss"' in picture(svg, "one", "Loss").text
    with pytest.raises(AssertionError, match="no name"):
        picture(svg, "one")


def test_every_heading_of_a_table_says_that_it_is_of_a_column() -> None:
    found = table(["", "n"], [["a", 1]]).text
    assert re.findall("<th .*?>", found) == [
        '<th scope="col" class="">',
        '<th scope="col" class="num">',
    ]
