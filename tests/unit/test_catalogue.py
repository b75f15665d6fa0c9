"""The catalogue: what it holds, how a recipe takes from it, and what a mistake in it is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from ray_jobs import catalogue, files, formats
from ray_jobs.readers import Source, check
from ray_jobs.schema import Role

CACHE = Path("/cache")
PLACE = {"hub": "huggingface", "id": "owner/set", "revision": "main", "file": "a/rows.json"}
ENTRY = {
    "reader": "generic",
    "role": "general",
    "language": "en",
    "licence": "MIT",
    "duties": "keep the notice",
    "publisher": "https://example.org",
    "file": "rows.json",
    "fields": {"prompt": ["q"], "responses": "a"},
    "places": [PLACE],
}


def written(file: Path, **entries: Any) -> Path:
    file.write_text(yaml.safe_dump({"sources": entries}), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", catalogue.load())
def test_every_entry_is_a_source_that_can_be_read(name: str) -> None:
    told = catalogue.resolve({"from": name}, CACHE)
    made = Source(**told)
    assert made.path == f"/cache/data/{name}/{catalogue.load()[name].file}"
    assert files.suffix(made.path) in formats.FORMATS
    with pytest.raises(ValueError, match=f"{re.escape(made.path)} is not here: python -m ray_jobs"):
        check({name: made})


def test_what_must_not_be_trained_on_is_for_evaluation_only() -> None:
    for name, entry in catalogue.load().items():
        assert entry.role in get_args(Role)
        if name.startswith(("s_eval", "safetybench", "cvalues_responsibility")):
            assert entry.role == "evaluate"
        if "NC" in entry.licence:
            assert "academic" in entry.duties or "commercial" in entry.duties


def test_no_two_places_of_a_file_share_a_checksum_by_mistake() -> None:
    sums: dict[str, str] = {}
    for entry in catalogue.load().values():
        for place in entry.places:
            for told in filter(None, (place.sha256, place.git_blob)):
                assert sums.setdefault(told, str(place)) == str(place)


def test_the_recipes_own_keys_override(tmp_path: Path) -> None:
    file = written(tmp_path / "sources.yaml", rows=ENTRY)
    told = catalogue.resolve({"from": "rows", "role": "train", "fields": {}}, CACHE, file)
    assert told["role"] == "train"
    assert told["fields"] == {}
    assert (told["licence"], told["language"], told["catalogue"]) == ("MIT", "en", "rows")
    assert "from" not in told


def test_a_path_of_the_recipes_own_is_not_to_be_fetched(tmp_path: Path) -> None:
    file = written(tmp_path / "sources.yaml", rows=ENTRY)
    told = catalogue.resolve({"from": "rows", "path": "mine.json"}, CACHE, file)
    assert told["path"] == "mine.json"
    assert "catalogue" not in told


def test_a_source_without_from_stays_as_it_is() -> None:
    plain = {"reader": "generic", "path": "a.json", "role": "train"}
    assert catalogue.resolve(plain, CACHE) == plain


def test_a_data_set_of_the_hub_gets_a_folder_of_its_own() -> None:
    hub = {"reader": "hub", "id": "owner/set", "revision": "a" * 40, "split": "train"}
    told = catalogue.resolve(hub, CACHE)
    assert told == {**hub, "path": f"/cache/data/hub/owner--set/{'a' * 40}/default/train"}
    assert catalogue.resolve({**hub, "path": "/mine"}, CACHE)["path"] == "/mine"


def test_an_unknown_name_is_told_the_likely_one() -> None:
    with pytest.raises(ValueError, match="did you mean 'safety_prompts_typical'"):
        catalogue.resolve({"from": "safty_prompts_typical"}, CACHE)
    with pytest.raises(ValueError, match=r"no source 'x' in conf/sources.yaml; there are safety"):
        catalogue.resolve({"from": "x"}, CACHE)


BROKEN: list[tuple[Any, str]] = [
    ("text", "rows: expected a mapping, found 'text'"),
    ({**ENTRY, "licens": "MIT"}, "rows: unknown key 'licens'; known are reader, role"),
    ({**ENTRY, "duties": ""}, "rows: duties: missing"),
    ({**ENTRY, "file": "../rows.json"}, "rows: file: expected a name without folders"),
    ({**ENTRY, "places": []}, "rows: places: expected at least one, or by_hand"),
    ({**ENTRY, "places": PLACE}, "rows: places: expected a list"),
    ({**ENTRY, "places": [{**PLACE, "hub": "here"}]}, r"rows: places\[0\]: hub: expected hugg"),
    ({**ENTRY, "places": [{**PLACE, "id": "set"}]}, r"places\[0\]: id: expected .*found 'set'"),
    ({**ENTRY, "places": [PLACE, {"hub": "github"}]}, r"places\[1\]: id: missing"),
    ({**ENTRY, "places": [{**PLACE, "sha256": "abc"}]}, r"places\[0\]: sha256: expected"),
    ({**ENTRY, "places": [{**PLACE, "revision": 12}]}, r"places\[0\]: revision: expected"),
]


@pytest.mark.parametrize(("entry", "message"), BROKEN)
def test_a_wrong_entry_is_named_with_its_key(entry: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        catalogue.load(written(tmp_path / "sources.yaml", rows=entry))
    assert str(error.value).startswith(str(tmp_path / "sources.yaml"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["sources: [a]", "a: 1", "sources: {", "", "sources: {}"])
def test_a_file_that_is_no_catalogue_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"sources\.yaml: (expected|cannot be read)"):
        catalogue.load(tmp_path / "sources.yaml")
