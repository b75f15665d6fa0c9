"""Several steps asked as one: each row as its own step asks, written to its own folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ray_jobs.engines.seam import Reply, Request, Sampling
from ray_jobs.ledger import Ledger
from ray_jobs.question import Question, itself
from ray_jobs.sheets import Folders, together
from ray_jobs.tables import Folder

SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("said", pa.string())])


def folders(home: Path) -> Folders:
    return Folders("", {name: Folder(str(home / name)) for name in ("a-base", "b-base")})


def rows(*ids: str) -> pa.Table:
    return pa.table({"id": ids, "said": ["x"] * len(ids)}, schema=SCHEMA)


def test_each_rows_shard_is_in_its_own_steps_folder_under_its_own_id(tmp_path: Path) -> None:
    both = folders(tmp_path)
    both.write_shard("part-r-1.parquet", rows("a-base/1", "b-base/1", "a-base/x/2"))
    both.write_shard("part-r-2.parquet", rows("b-base/2"))
    own = both.homes["a-base"].read_shard("part-r-1.parquet")
    assert own.schema.equals(SCHEMA)
    assert own["id"].to_pylist() == ["1", "x/2"]
    assert both.homes["b-base"].names() == ["part-r-1.parquet", "part-r-2.parquet"]
    assert both.of_steps(both.names()) == {
        "a-base": ["part-r-1.parquet"],
        "b-base": ["part-r-1.parquet", "part-r-2.parquet"],
    }


def test_a_ledger_over_several_folders_knows_what_is_answered_and_drops_what_failed(
    tmp_path: Path,
) -> None:
    both = folders(tmp_path)
    both.write_shard("part-r-1.parquet", rows("a-base/1", "b-base/1"))
    both.write_shard("failed-r-1.parquet", rows("b-base/2"))
    both.homes["a-base"].write("decides.json", b"{}")
    book = Ledger(both, "id")
    assert sorted(book.answered().to_pylist()) == ["a-base/1", "b-base/1"]
    assert both.homes["b-base"].names() == ["part-r-1.parquet"]
    book.check(pa.array(["a-base/1", "b-base/1"]))


def test_each_row_is_asked_and_read_by_its_own_steps_question() -> None:
    def question(name: str, num: int) -> Question:
        return Question(
            name=name,
            render=lambda row: [{"role": "user", "content": f"{num} {row['id']}"}],
            parse=lambda text, row: {"said": f"{text} {num} {row['id']}"},
            children=itself,
            schema=SCHEMA,
            sampling=Sampling(max_tokens=num),
            stop=("x",) * num,
        )

    asked = together([question("a-base", 1), question("b-base", 2)])
    row = {"id": "b-base/7/8"}
    request = Request(chat=asked.render(row), sampling=asked.sampling, seed=3)
    assert asked.shape is not None
    assert asked.read is not None
    shaped = asked.shape(row, request)
    assert shaped.chat[0]["content"] == "2 7/8"
    assert (shaped.sampling.max_tokens, shaped.stop, shaped.seed) == (2, ("x", "x"), 3)
    assert shaped.purpose == "b-base"
    reply = Reply(text="yes", prompt_tokens=1, output_tokens=1, finish_reason="stop")
    assert asked.read(reply, row) == {"said": "yes 2 7/8"}
