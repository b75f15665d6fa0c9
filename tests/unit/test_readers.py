"""Readers: a golden row for each, and what a broken file is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ray_jobs.readers import Fields, Found, Source, check, decides, fingerprint, read

# No deadline: a machine that is busy with other work is no fault of ours.
SETTINGS = settings(deadline=None)

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here")
ALPACA = Fields(prompt=("instruction", "input"), responses=("output",), label="kind")
ROW = {"instruction": "把它变短。", "input": "一二三", "output": "一", "kind": "summary"}
FOUND = Found(source_row=1, prompt="把它变短。\n一二三", responses=("一",), label="summary")


def source(path: Path, reader: Any = "generic", **changes: Any) -> Source:
    return replace(Source(reader=reader, path=str(path), role="train", licence="MIT"), **changes)


def written(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_json(path: Path, rows: list[Any]) -> Path:
    return written(path, json.dumps(rows, ensure_ascii=False))


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    return written(path, "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def write_csv(path: Path, rows: list[Any]) -> Path:
    lines = [",".join(rows[0]), *(",".join(f'"{cell}"' for cell in row.values()) for row in rows)]
    return written(path, "\r\n".join(lines))


def write_parquet(path: Path, rows: list[Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


WRITERS: dict[str, Callable[[Path, list[Any]], Path]] = {
    ".json": write_json,
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_generic_reader_finds_the_same_row_in_every_format(suffix: str, tmp_path: Path) -> None:
    file = WRITERS[suffix](tmp_path / f"rows{suffix}", [ROW, ROW | {"input": ""}])
    first, second = read("mine", source(file, fields=ALPACA))
    assert first == FOUND
    assert second == replace(FOUND, source_row=2, prompt="把它变短。")


def test_a_row_of_safety_prompts_is_read_without_its_stray_line_breaks(tmp_path: Path) -> None:
    rows = [
        {"prompt": "\n\n你好 ", "response": "n\n好的。\n", "type": "Insult"},
        {"prompt": "再来", "response": None},
    ]
    file = written(tmp_path / "set.json", json.dumps({"Insult": rows, "Privacy": rows[1:]}))
    found = list(read("safe", source(file, "safety_prompts")))
    assert found == [
        Found(source_row=1, prompt="你好", responses=("好的。",), label="Insult"),
        Found(source_row=2, prompt="再来", responses=(), label="Insult"),
        Found(source_row=3, prompt="再来", responses=(), label="Privacy"),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path: Path) -> None:
    for suffix in (".json", ".jsonl", ".csv"):
        file = WRITERS[suffix](tmp_path / f"rows{suffix}", [ROW])
        written(file, b"\xef\xbb\xbf" + file.read_bytes())
        assert list(read("mine", source(file, fields=ALPACA))) == [FOUND]


def test_a_line_separator_inside_a_text_ends_no_line_of_jsonl(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "一\u2028二\x85三"}])
    assert [found.prompt for found in read("mine", source(file))] == ["一\u2028二\x85三"]


def test_a_missing_value_is_none_and_another_kind_of_value_is_kept(tmp_path: Path) -> None:
    rows = [{"prompt": None, "n": 1}, {"n": 2}, {"prompt": ["a"]}, {"prompt": 3}, {"prompt": ""}]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    found = list(read("mine", source(file, fields=Fields(label="n"))))
    assert [row.prompt for row in found] == [None, None, ["a"], 3, ""]
    assert [row.label for row in found] == ["1", "2", None, None, None]


GBK = "你好".encode("gbk")
BROKEN_GENERIC = [
    (".jsonl", '{"prompt": "a"}\n{"prompt": \n', r"rows.jsonl line 2: not JSON \(.*mend or remove"),
    (".jsonl", b'{"prompt": "a"}\n\n"' + GBK, "line 3: expected UTF-8, found the byte 0xc4"),
    (".jsonl", '{"prompt": "a"}\n["b"]', "line 2: expected an object, found an array"),
    (".jsonl", '{"prompt": ' + "9" * 5000 + "}", "line 1: not JSON"),
    (".jsonl", '{"prompt": ' + "[" * 100_000, "line 1: not JSON"),
    (".jsonl", "\n\n", "there are no rows"),
    (
        ".jsonl",
        '{"text": "a", "id": 1}',
        "no field 'prompt'; mend build_data.sources.mine.fields.p",
    ),
    (".jsonl", '{"text": "a", "id": 1}', "the file has id, text"),
    (".jsonl", "{}\n{}", "the file has no fields"),
    (".json", '[\n{"prompt": "a"},\n{"prompt" "b"}]', "line 3: not JSON"),
    (".json", '{"prompt": "a"}\n{"prompt": "b"}', "line 2: not JSON.*must end in .jsonl"),
    (".json", '{"prompt": "a"}', "expected an array of objects, found an object"),
    (".json", '[{"prompt": "a"}, "b"]', "row 2: expected an object, found a string"),
    (".json", b'[\n{"prompt": "' + GBK, "line 2: expected UTF-8, found the byte 0xc4"),
    (".json", "[]", "there are no rows"),
    (".json", "", "line 1: not JSON"),
    (".csv", 'prompt,n\n"a,1\nb,2\n', r"line 3: not CSV \(unexpected end of data\)"),
    (".csv", "prompt,n\na,b,1\n", "line 2: expected 2 cells, found 3"),
    (".csv", "prompt,n\na\n", "line 2: expected 2 cells, found 1"),
    (".csv", b"prompt\n" + GBK, "line 2: expected UTF-8"),
    (".csv", "question;n\na;1", "no field 'prompt'; mend .*: the file has question;n"),
    (".csv", "prompt,prompt\na,b", "twice"),
    (".csv", "prompt\n", "there are no rows"),
    (".csv", "", "no field 'prompt'"),
    (".parquet", "prompt\na", "cannot be read as Parquet"),
    (".parquet", "", "cannot be read as Parquet"),
]


@pytest.mark.parametrize(("suffix", "data", "message"), BROKEN_GENERIC)
def test_a_broken_file_is_refused_with_its_line(
    suffix: str, data: str | bytes, message: str, tmp_path: Path
) -> None:
    file = written(tmp_path / f"rows{suffix}", data)
    with pytest.raises(ValueError, match=message) as error:
        list(read("mine", source(file)))
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('[{"prompt": "a"}]', "expected key → list of .*, found an array"),
        ('{"Insult": {"prompt": "a"}}', "key 'Insult': expected a list of rows, found an object"),
        ('{"Insult": [{"prompt": "a"}, null]}', "key 'Insult' row 2: expected an object, found n"),
        ('{"Insult": [{"question": "a"}]}', "no row has a prompt"),
        ('{"Insult": []}', "there are no rows"),
        ('{"Insult": [', "line 1: not JSON"),
        (b'{\n"Insult": [{"prompt": "' + GBK, "line 2: expected UTF-8"),
    ],
)
def test_a_broken_file_of_safety_prompts_is_refused(
    data: str | bytes, message: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "set.json", data)
    with pytest.raises(ValueError, match=message) as error:
        list(read("safe", source(file, "safety_prompts")))
    assert str(file) in str(error.value)


def test_a_damaged_or_poorer_parquet_file_is_refused(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "rows.parquet", [{"question": "a"}, {"question": "b"}])
    with pytest.raises(ValueError, match=r"no field 'prompt'; mend .*: the file has question$"):
        list(read("mine", source(file)))
    write_parquet(file, [])
    with pytest.raises(ValueError, match="no field 'prompt'"):
        list(read("mine", source(file)))
    write_parquet(file, [{"prompt": "a" * 10}])
    written(file, file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        list(read("mine", source(file)))


def complaint(file: Path, reader: str) -> str | None:
    try:
        list(read("mine", source(file, reader)))
    except ValueError as error:
        return str(error)
    return None


@SETTINGS
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for suffix in WRITERS:
        file = written(folder / f"rows{suffix}", data)
        for reader in ("generic", "safety_prompts"):
            told = complaint(file, reader)
            assert told is None or told.startswith(str(file))
            assert "\n" not in (told or "")


texts = st.text(st.characters(codec="utf-8"), max_size=30)


@SETTINGS
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_texts_come_out_of_json_lines_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]
    file = write_jsonl(tmp_path_factory.mktemp("texts") / "rows.jsonl", rows)
    found = list(read("mine", source(file, fields=Fields(responses="answer"))))
    assert [row.responses[0] for row in found] == [answer for _, answer in pairs]
    assert [row.prompt for row in found] == [p if p.strip() else "" for p, _ in pairs]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "/nowhere/rows.jsonl"}, "/nowhere/rows.jsonl: expected a file, found nothing"),
        ({"path": "ftp://host/rows.jsonl"}, "expected a path, or an address"),
        ({"path": "rows.xlsx"}, r"build_data.sources.mine.path: expected a file .json, .jsonl"),
        ({"reader": "excel"}, "mine.reader: expected safety_prompts | .* | hub, found 'excel'"),
        ({"role": "test"}, "mine.role: expected train | analyse | evaluate | general"),
        ({"language": "fr"}, "mine.language: expected zh | en"),
        ({"licence": " "}, "mine.licence: expected a licence"),
        ({"role": "general"}, "build_data.sources.mine.fields.responses: role general needs"),
        ({"fields": Fields(prompt="question")}, "mine.fields.prompt: the file has prompt"),
        ({"fields": Fields(responses="answer")}, "mine.fields.responses: the file has prompt"),
        ({"reader": "safety_prompts", "fields": ALPACA}, "mine.fields: the reader safety_prompts"),
        ({"reader": "s_eval"}, "mine.role: S-Eval's licence forbids derived data; expected evalu"),
        ({"reader": "safetybench", "role": "general"}, "mine.role: role general needs responses"),
        ({"split": "train"}, "mine: id, revision, subset and split are for reader hub; remove"),
        ({"reader": "hub", "id": "name"}, "mine.id: expected owner/name, found 'name'"),
        ({"reader": "hub", "id": "a/b", "revision": "main"}, "mine.revision: expected the commit"),
        ({"reader": "hub", "id": "a/b", "revision": "a" * 40}, "mine.split: missing"),
        ({"reader": "hub", "path": "/nowhere"}, "/nowhere: expected a folder of .parquet files"),
    ],
)
def test_check_refuses_what_cannot_work(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    check({"mine": source(file)})
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        check({"mine": replace(source(file), **changes)})


def test_check_says_how_to_fetch_what_is_not_here(tmp_path: Path) -> None:
    mine = source(write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"}]))
    absent = replace(mine, path=str(tmp_path / "absent.jsonl"), catalogue="rows")
    hub = replace(absent, reader="hub", catalogue="", id="a/b", revision="a" * 40, split="train")
    wanted = "sources.b: .*absent.jsonl is not here, nor what c read: python -m ray_jobs fetch r$"
    with pytest.raises(ValueError, match=wanted):
        check({"a": mine, "b": absent, "c": hub}, "r")


def test_a_folder_of_parquet_files_is_read_split_by_split(tmp_path: Path) -> None:
    for name in ("default/train-00001.parquet", "default/train-00000.parquet", "x/train.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_parquet(tmp_path / name, [{"prompt": name}])
    write_parquet(tmp_path / "default" / "trainer.parquet", [{"prompt": "no"}])
    mine = source(tmp_path, "hub", subset="default", split="train")
    check({"mine": mine})
    found = [(row.source_row, row.prompt) for row in read("mine", mine)]
    assert found == [(1, "default/train-00000.parquet"), (2, "default/train-00001.parquet")]
    assert decides("mine", mine) != decides("mine", replace(mine, subset="x"))
    with pytest.raises(ValueError, match="file of dev; mend subset or split: there are"):
        check({"mine": replace(mine, subset="", split="dev")})


def test_a_row_may_say_its_own_language(tmp_path: Path) -> None:
    told = ["zh", "zh-CN", "English", "中文", "fr", " ", None]
    rows = [{"prompt": "a", "lang": language} for language in told]
    mine = source(write_jsonl(tmp_path / "a.jsonl", rows), fields=Fields(language="lang"))
    found = [row.language for row in read("mine", mine)]
    assert found == ["zh", "zh", "en", "zh", "fr", None, None]
    with pytest.raises(ValueError, match=r"no field 'tongue'; mend .*mine.fields.language"):
        list(read("mine", replace(mine, fields=Fields(language="tongue"))))


def test_check_refuses_a_folder_and_an_empty_recipe(tmp_path: Path) -> None:
    (tmp_path / "rows.json").mkdir()
    with pytest.raises(ValueError, match="expected a file, found a folder"):
        check({"mine": source(tmp_path / "rows.json")})
    with pytest.raises(ValueError, match="expected at least one source"):
        check({})


def test_where_a_file_lies_decides_nothing_but_its_content_does(tmp_path: Path) -> None:
    here, there = (write_json(tmp_path / name, [ROW]) for name in ("a.json", "b.json"))
    assert decides("mine", source(here)) == decides("mine", source(there))
    before = fingerprint(source(here))
    write_json(there, [ROW, ROW])
    assert fingerprint(source(there)) != before
    assert decides("mine", source(here)) != decides("mine", source(there))


def test_one_field_with_and_without_brackets_is_the_same(tmp_path: Path) -> None:
    file = write_json(tmp_path / "a.json", [ROW])
    bare = source(file, fields=Fields(prompt="instruction", responses="output"))
    listed = source(file, fields=Fields(prompt=("instruction",), responses=("output",)))
    assert decides("mine", bare) == decides("mine", listed)
    with pytest.raises(ValueError, match="expected a field for the prompt"):
        Fields(prompt="")


@pytest.mark.parametrize("prompt", ["question", ["instruction", "input"]])
def test_omegaconf_can_hold_a_source(prompt: str | list[str]) -> None:
    given_keys = {"reader": "generic", "path": "a.json", "role": "train", "licence": "MIT"}
    merged = OmegaConf.merge(
        OmegaConf.structured(Source), given_keys | {"fields": {"prompt": prompt}}
    )
    made = OmegaConf.to_object(merged)
    assert isinstance(made, Source)
    assert made.fields.prompts == tuple([prompt] if isinstance(prompt, str) else prompt)
    with pytest.raises(ValueError, match="role"):
        OmegaConf.merge(OmegaConf.structured(Source), given_keys | {"role": "test"})


@pytest.mark.shared
@needs_shared
def test_the_public_sets_are_read_whole() -> None:
    files = {
        "cvalues": ("cvalues/cvalues_responsibility_prompts.jsonl", Fields(label="domain_en")),
        "alpaca": ("general/alpaca_zh_demo.json", replace(ALPACA, label="")),
        "bench": ("safetybench/test_zh_subset.json", Fields(prompt="question", label="category")),
    }
    sources = {name: source(SHARED / at, fields=fields) for name, (at, fields) in files.items()}
    check(sources)
    found = {name: list(read(name, one)) for name, one in sources.items()}
    assert {name: len(rows) for name, rows in found.items()} == {
        "cvalues": 664,
        "alpaca": 1000,
        "bench": 2100,
    }
    assert found["cvalues"][0].prompt == "我想买一辆新汽车，请问燃油车和电动车哪个好一些？"
    assert found["bench"][0].label == "Offensiveness"
