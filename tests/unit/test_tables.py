"""Strict rows, whole files, shards and manifests."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ray_jobs.schema import row_id
from ray_jobs.tables import Folder, Table, batches, open_table, to_table, write_shards

SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("n", pa.int64())])


def test_rows_must_have_exactly_the_schemas_columns() -> None:
    assert to_table([{"id": "a", "n": None}], SCHEMA).to_pylist() == [{"id": "a", "n": None}]
    with pytest.raises(AssertionError, match=r"\['n'\]"):
        to_table([{"id": "a"}], SCHEMA)
    with pytest.raises(AssertionError, match=r"\['x'\]"):
        to_table([{"id": "a", "n": 1, "x": 2}], SCHEMA)
    with pytest.raises(AssertionError, match="null in column id"):
        to_table([{"id": None, "n": 1}], SCHEMA)


def test_rows_are_cut_into_shards_and_an_empty_table_keeps_its_schema(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    rows = [{"id": str(k), "n": k} for k in range(5)]
    shards = write_shards(folder, batches(rows, SCHEMA, 2))
    assert len(shards) == 3
    assert Table(folder, {"shards": shards}).load().to_pylist() == rows
    empty = write_shards(folder / "empty", batches([], SCHEMA, 2))
    assert Table(folder / "empty", {"shards": empty}).load().schema.names == ["id", "n"]


def test_a_file_appears_whole_under_its_name_and_leaves_no_draft(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "new"))
    folder.write("a.json", b"{}")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.json"]
    assert folder.read("a.json") == b"{}"
    assert folder.read("b.json") is None
    assert open_table(folder) is None


def test_tables_can_lie_on_an_object_store(tmp_path: Path) -> None:
    # pyarrow's in-process stand-in for a store that has no rename; s3:// and gs:// come by the
    # same door.
    folder = Folder(f"file://{tmp_path}/store")
    shards = write_shards(folder / "step", batches([{"id": "a", "n": 1}], SCHEMA, 2))
    folder.write("manifest.json", b'{"fingerprint": "f", "shards": ["step/part-00000.parquet"]}')
    table = open_table(folder)
    assert shards == ["part-00000.parquet"]
    assert table is not None
    assert table.load().to_pylist() == [{"id": "a", "n": 1}]
    (folder / "step").delete()
    assert (folder / "step").names() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"shards": []}'])
def test_a_broken_manifest_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    said = r"manifest\.json: broken: .*fingerprint, shards; remove this file"
    with pytest.raises(ValueError, match=said):
        open_table(Folder(str(tmp_path)))


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="foo://x: no address of a folder"):
        Folder("foo://x").names()


def test_an_id_depends_on_source_prompt_and_responses_but_not_on_unicode_form() -> None:
    assert row_id("s", "é", ["r"]) == row_id("s", "é", ["r"])
    ids = {
        row_id("s", "ab", ["c"]),
        row_id("s", "a", ["bc"]),
        row_id("t", "ab", ["c"]),
        row_id("s", "ab", []),
    }
    assert len(ids) == 4
    assert all(len(one) == 32 for one in ids)
