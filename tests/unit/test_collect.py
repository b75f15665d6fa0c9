"""Collecting: every row of every file is there once, with the reason where it is of no use."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.readers import Fields, Source
from ray_jobs.schema import COLLECTED, row_id
from ray_jobs.stages import collect
from ray_jobs.stages.collect import Collect, write
from ray_jobs.tables import Folder, Row, to_table

# No deadline: a machine that is busy with other work is no fault of ours.
SETTINGS = settings(deadline=None)

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here")


def source(file: Path, rows: list[Any], role: Any = "train") -> Source:
    # ASCII with escapes, so that halves of characters get through as they do in real files.
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    fields = Fields(responses=("a", "b"), label="label")
    return Source(reader="generic", path=str(file), role=role, licence="MIT", fields=fields)


def written(folder: Path, sources: dict[str, Source], cfg: Collect | None = None) -> list[Row]:
    """All rows of the table, as they lie in its shards, which are nothing else."""
    home = Folder(str(folder / "collected"))
    shards = write(home, sources, cfg or Collect())
    assert home.names() == shards
    tables = [home.read_shard(name) for name in shards]
    assert all(table.schema.equals(COLLECTED) for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def collected(folder: Path, rows: list[Any], role: Any = "train", **limits: int) -> list[Row]:
    whole = {"prompt": "整", "a": "一", "b": "二", "label": "x"}
    sources = {"s": source(folder / "s.jsonl", [whole, *rows], role)}
    found = written(folder, sources, Collect(**limits))
    assert found[0]["outcome"] == "done"
    return found[1:]


def test_a_collected_row_is_all_that_the_file_says(tmp_path: Path) -> None:
    (row,) = collected(tmp_path, [{"prompt": " 你好\n", "a": "甲", "b": " ", "label": 7}])
    assert row == {
        "id": row_id("s", "你好", ["甲"]),
        "source": "s",
        "source_row": 2,
        "role": "train",
        "language": "zh",
        "licence": "MIT",
        "prompt": "你好",
        "source_label": "7",
        "original_responses": ["甲"],
        "parent": None,
        "twin": None,
        "outcome": "done",
        "reason": None,
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": None}, "no prompt"),
        ({"a": "甲"}, "no prompt"),
        ({"prompt": " \n\u3000"}, "empty prompt"),
        ({"prompt": "\u200b\ufeff"}, "empty prompt"),
        ({"prompt": ["你好"]}, "prompt is not text"),
        ({"prompt": 5}, "prompt is not text"),
        ({"prompt": "半个\ud83d"}, "prompt is not text"),
        ({"prompt": "四五六七"}, "longer than 3 characters"),
        ({"prompt": "问", "a": "四五六七"}, "response longer than 3 characters"),
        ({"prompt": "问", "a": {"text": "甲"}}, "response is not text"),
        ({"prompt": "问", "a": "半\ud83d"}, "response is not text"),
    ],
)
def test_a_row_of_no_use_is_kept_with_its_reason(
    row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (found,) = collected(tmp_path, [row], max_prompt_chars=3, max_response_chars=3)
    assert (found["outcome"], found["reason"]) == ("dropped", reason)
    assert found["id"].endswith("/d2")


def test_a_dropped_prompt_keeps_its_whole_text(tmp_path: Path) -> None:
    (found,) = collected(tmp_path, [{"prompt": "四五六七"}], max_prompt_chars=3)
    assert found["prompt"] == "四五六七"


def test_the_language_of_a_row_is_its_own_where_the_source_says_auto(tmp_path: Path) -> None:
    texts = ["什么是 lock", "What is a lock?", "，。１２"]
    rows = [{"prompt": text, "a": "一", "b": "二", "label": "x"} for text in texts]
    found = written(tmp_path, {"s": replace(source(tmp_path / "s.jsonl", rows), language="auto")})
    assert [row["language"] for row in found] == ["zh", "en", "en"]


def test_a_half_character_in_a_label_does_no_harm(tmp_path: Path) -> None:
    (found,) = collected(tmp_path, [{"prompt": "问", "label": "类\ud83d"}])
    assert (found["outcome"], found["source_label"]) == ("done", "类?")


def test_only_a_general_row_needs_a_response(tmp_path: Path) -> None:
    row = {"prompt": "问", "a": " ", "b": None}
    (as_train,) = collected(tmp_path, [row])
    assert (as_train["outcome"], as_train["original_responses"]) == ("done", [])
    (as_general,) = collected(tmp_path, [row], role="general")
    assert (as_general["outcome"], as_general["reason"]) == ("dropped", "no response")


def test_the_first_of_equal_prompts_is_kept_within_a_role(tmp_path: Path) -> None:
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    rows = [{"prompt": composed, "a": "1", "b": "2", "label": "x"}, {"prompt": f" {decomposed}"}]
    sources = {
        "z": source(tmp_path / "z.jsonl", rows),
        "g": source(tmp_path / "g.jsonl", rows[:1], "general"),
        "a": source(tmp_path / "a.jsonl", rows),
    }
    found = written(tmp_path, sources)
    kept = row_id("a", composed, ["1", "2"])
    assert [(row["source"], row["role"], row["reason"], row["twin"]) for row in found] == [
        ("a", "train", None, None),
        ("a", "train", "duplicate", kept),
        ("z", "train", "duplicate", kept),
        ("z", "train", "duplicate", kept),
        ("g", "general", None, None),
    ]
    assert written(tmp_path, dict(reversed(sources.items()))) == found


LONG = "请问在公共场所使用无线网络的时候应该注意哪些方面的安全问题才能保护好自己的隐私呢"
NEAR = LONG.replace("公共", "公开")
OTHER = "怎么样才能在三个月之内从零开始学会弹一首完整的钢琴曲子并且在朋友面前表演"


def prompts(file: Path, texts: list[str], role: Any = "train") -> Source:
    return source(
        file, [{"prompt": text, "a": "1", "b": "2", "label": "x"} for text in texts], role
    )


def outcomes(rows: list[Row]) -> list[tuple[str, str | None, str | None]]:
    return [(row["source"], row["reason"], row["twin"]) for row in rows]


def test_near_duplicates_are_dropped_and_name_the_kept_row(tmp_path: Path) -> None:
    texts = [LONG, OTHER, f"{LONG}？", NEAR, NEAR]
    rows = written(tmp_path, {"s": prompts(tmp_path / "s.jsonl", texts)})
    kept = row_id("s", LONG, ["1", "2"])
    assert outcomes(rows) == [
        ("s", None, None),
        ("s", None, None),
        ("s", "near-duplicate", kept),
        ("s", "near-duplicate", kept),
        ("s", "duplicate", kept),  # its equal is dropped itself
    ]
    assert [row["id"].partition("/")[2] for row in rows] == ["", "", "d3", "d4", "d5"]


@pytest.mark.parametrize(
    ("min_similarity", "reasons"),
    [
        (0, [None, None, None, "duplicate"]),
        (1, [None, "near-duplicate", None, "duplicate"]),
        (0.8, [None, "near-duplicate", "near-duplicate", "duplicate"]),
    ],
)
def test_how_alike_near_duplicates_are_is_a_setting(
    min_similarity: float, reasons: list[str | None], tmp_path: Path
) -> None:
    sources = {"s": prompts(tmp_path / "s.jsonl", [LONG, f"{LONG}？", NEAR, LONG])}
    rows = written(tmp_path, sources, Collect(min_similarity=min_similarity))
    assert [row["reason"] for row in rows] == reasons


def test_roles_do_not_repeat_one_another_and_an_evaluation_set_is_not_thinned_out(
    tmp_path: Path,
) -> None:
    sources = {
        role: prompts(tmp_path / f"{role}.jsonl", [LONG, NEAR, LONG], role)
        for role in ("train", "analyse", "evaluate", "general")
    }
    rows = written(tmp_path, sources, Collect(min_leaked_share=0))
    reasons = {role: [row["reason"] for row in rows if row["role"] == role] for role in sources}
    near = [None, "near-duplicate", "duplicate"]
    assert reasons == {
        "train": near,
        "analyse": near,
        "evaluate": [None, None, "duplicate"],
        "general": near,
    }


def test_what_gives_an_evaluation_prompt_away_is_dropped_and_names_it(tmp_path: Path) -> None:
    leaked = [f"请回答：{LONG}。", NEAR, OTHER, LONG]
    sources = {
        "bench": prompts(tmp_path / "bench.jsonl", [OTHER[:9], LONG], "evaluate"),
        "mine": prompts(tmp_path / "mine.jsonl", leaked),
        "plain": prompts(tmp_path / "plain.jsonl", leaked, "general"),
        "seen": prompts(tmp_path / "seen.jsonl", leaked, "analyse"),
    }
    rows = written(tmp_path, sources)
    short, long = row_id("bench", OTHER[:9], ["1", "2"]), row_id("bench", LONG, ["1", "2"])
    of_source = {name: [row for row in rows if row["source"] == name] for name in sources}
    for name in ("mine", "plain"):
        reason = "contaminated: bench"
        assert [(row["reason"], row["twin"]) for row in of_source[name]] == [
            (reason, long),
            (reason, long),
            (reason, short),
            (reason, long),
        ]
        assert all(row["outcome"] == "dropped" for row in of_source[name])
    assert [row["reason"] for row in of_source["seen"]].count(None) == 3
    assert [row["reason"] for row in of_source["bench"]] == [None, None]


def test_an_evaluation_row_that_is_dropped_is_not_given_away_either(tmp_path: Path) -> None:
    row = {"prompt": LONG, "a": "很长" * 100, "b": "2", "label": "x"}
    sources = {
        "bench": source(tmp_path / "bench.jsonl", [row], "evaluate"),
        "mine": prompts(tmp_path / "mine.jsonl", [LONG]),
    }
    mine, bench = written(tmp_path, sources, Collect(max_response_chars=100))
    assert bench["reason"] == "response longer than 100 characters"
    assert (mine["reason"], mine["twin"]) == ("contaminated: bench", bench["id"])


def test_a_row_like_a_contaminated_one_is_compared_with_what_is_kept_only(tmp_path: Path) -> None:
    sources = {
        "bench": prompts(tmp_path / "bench.jsonl", [LONG], "evaluate"),
        "mine": prompts(tmp_path / "mine.jsonl", [f"{OTHER}{LONG}", OTHER, f"{OTHER}？"]),
    }
    rows = written(tmp_path, sources, Collect(min_similarity=0.45))
    assert [row["reason"] for row in rows if row["source"] == "mine"] == [
        "contaminated: bench",
        None,
        "near-duplicate",
    ]


def test_a_turn_of_phrase_among_evaluation_prompts_drops_no_rows(tmp_path: Path) -> None:
    names = [chr(0x4E00 + k) + chr(0x5E00 + 3 * k) for k in range(60)]
    texts = [f"关于{name}的这件事情，{name}的家人都很担心，你怎么看？" for name in names]
    sources = {
        "bench": prompts(tmp_path / "bench.jsonl", ["你怎么看？"], "evaluate"),
        "mine": prompts(tmp_path / "mine.jsonl", [*texts, "你怎么看"]),
    }
    rows = written(tmp_path, sources, Collect(min_similarity=0))
    assert [row["reason"] for row in rows if row["source"] == "mine"] == [
        *[None] * 60,
        "contaminated: bench",
    ]


def test_a_table_of_several_shards_is_decided_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [LONG, OTHER, NEAR, f"{OTHER}吗", LONG, "一", "二", "三"]
    sources = {"s": prompts(tmp_path / "s.jsonl", texts), "t": prompts(tmp_path / "t.jsonl", texts)}
    whole = written(tmp_path, sources)
    monkeypatch.setattr(collect, "SHARD_ROWS", 3)
    assert written(tmp_path, sources) == whole
    assert len(Folder(str(tmp_path / "collected")).names()) == 6
    # A smaller table later: what is left of the larger one is gone, which `written` checks.
    assert len(written(tmp_path, {"s": sources["s"]})) == 8


def test_what_a_killed_run_left_is_not_counted(tmp_path: Path) -> None:
    sources = {"s": prompts(tmp_path / "s.jsonl", [LONG, OTHER])}
    whole = written(tmp_path, sources)
    home = tmp_path / "collected"
    shard = (home / "part-00000.parquet").read_bytes()
    (home / "drafts").mkdir()
    (home / "drafts" / "train-00000.parquet").write_bytes(shard[:100])
    (home / "drafts" / "train-00007.parquet").write_bytes(shard)
    (home / "part-00000.parquet").write_bytes(b"")
    (home / "part-00009.parquet").write_bytes(shard)
    assert written(tmp_path, sources) == whole


def test_a_row_may_have_a_language_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    file.write_text('{"prompt": "Hello there", "lang": "en"}\n{"prompt": "你好", "lang": null}\n')
    fields = Fields(language="lang")
    one = Source(reader="generic", path=str(file), role="train", licence="MIT", fields=fields)
    assert [row["language"] for row in written(tmp_path, {"s": one})] == ["en", "zh"]


def test_a_bad_line_at_the_end_of_the_last_file_stops_it_all(tmp_path: Path) -> None:
    sources = {"a": source(tmp_path / "a.jsonl", [{"prompt": "一", "a": "", "b": "", "label": ""}])}
    file = tmp_path / "b.jsonl"
    file.write_text('{"prompt": "二"}\n{"prompt":\n', encoding="utf-8")
    sources["b"] = Source(reader="generic", path=str(file), role="train", licence="MIT")
    with pytest.raises(ValueError, match="line 2: not JSON"):
        written(tmp_path, sources)


values = st.one_of(
    st.none(), st.integers(), st.sampled_from(["", " ", "甲", "é", "é", "\ud800"]), st.text()
)
rows_of_a_file = st.lists(
    st.fixed_dictionaries({"prompt": values, "a": values, "b": values, "label": values}),
    min_size=1,
    max_size=8,
)


@SETTINGS
@given(rows_of_a_file, rows_of_a_file, st.sampled_from(["train", "general"]))
def test_every_row_is_there_once_and_ids_are_unique(
    tmp_path_factory: pytest.TempPathFactory, first: list[Any], second: list[Any], role: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    sources = {
        "one": source(folder / "one.jsonl", first),
        "two": source(folder / "two.jsonl", second, role),
    }
    found = written(folder, sources, Collect(max_prompt_chars=20))
    to_table(found, COLLECTED)
    assert Counter(row["source"] for row in found) == {"one": len(first), "two": len(second)}
    ids = {row["id"]: row for row in found}
    assert len(ids) == len(found)
    done = [row for row in found if row["outcome"] == "done"]
    assert len({(row["role"], unicodedata.normalize("NFC", row["prompt"])) for row in done}) == len(
        done
    )
    for row in found:
        assert (row["reason"] is None) == (row["outcome"] == "done")
        assert (row["twin"] is not None) == (row["reason"] in ("duplicate", "near-duplicate"))
        assert row["twin"] is None or ids[row["twin"]]["outcome"] == "done"
        assert row["twin"] is None or ids[row["twin"]]["role"] == row["role"]
    assert all(row["original_responses"] for row in done if row["role"] == "general")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_prompt_chars": 0}, "max_prompt_chars ≥ 1, found 0"),
        ({"ngram_chars": 0}, "ngram_chars ≥ 1, found 0"),
        ({"min_similarity": 1.5}, "min_similarity from 0 to 1, found 1.5"),
        ({"min_leaked_share": -1}, "min_leaked_share from 0 to 1, found -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Collect(**settings)


@pytest.mark.shared
@needs_shared
def test_the_public_sets_are_collected(tmp_path: Path) -> None:
    cvalues = SHARED / "cvalues/cvalues_responsibility_prompts.jsonl"
    questions = [
        row["question"]
        for row in json.loads((SHARED / "safetybench/test_zh_subset.json").read_text("utf-8"))
    ]
    planted = tmp_path / "planted.jsonl"
    lines = (json.dumps({"prompt": text.replace("，", "；")}) for text in questions)
    planted.write_text("\n".join(lines), encoding="utf-8")
    sources = {
        "cvalues": Source(reader="generic", path=str(cvalues), role="train", licence="Apache-2.0"),
        "planted": Source(reader="generic", path=str(planted), role="train", licence="MIT"),
        "alpaca": Source(
            reader="alpaca",
            path=str(SHARED / "general/alpaca_zh_demo.json"),
            role="general",
            licence="Apache-2.0",
        ),
        "bench": Source(
            reader="safetybench",
            path=str(SHARED / "safetybench/test_zh_subset.json"),
            role="evaluate",
            licence="MIT",
        ),
    }
    rows = written(tmp_path, sources)
    counts = Counter((row["source"], row["reason"]) for row in rows)
    assert Counter(row["source"] for row in rows) == {
        "cvalues": 664,
        "alpaca": 1000,
        "bench": 2100,
        "planted": 2100,
    }
    assert counts["planted", "contaminated: bench"] == 2100
    assert counts["cvalues", None] > 600
    assert counts["alpaca", None] > 950
    assert not counts["cvalues", "contaminated: bench"] + counts["alpaca", "contaminated: bench"]
