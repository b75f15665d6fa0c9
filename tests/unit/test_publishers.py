"""Files whose fields are known: for each reader a good file, and what broken ones are told."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.publishers import PUBLISHED, Found
from ray_jobs.readers import Source, check, read

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here")
GBK = "你好".encode("gbk")
BASE, ATTACK = '{"model": "base_risk"}', '{"model": "attack", "category": "goal_hijacking"}'


def lines(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def whole(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def zipped(**members: bytes) -> bytes:
    """An archive as a Mac makes it: with a second member that is no data."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
        archive.writestr("__MACOSX/._rows.jsonl", b"\x00\x05")
    return stream.getvalue()


def parquet(*rows: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), stream)
    return stream.getvalue()


def rows_of(reader: Any, file: Path, data: bytes) -> list[Found]:
    file.write_bytes(data)
    made = Source(reader=reader, path=str(file), role="evaluate", licence="MIT")
    return list(read("mine", made))


def row(number: int, prompt: Any, responses: Any = (), label: str | None = None) -> Found:
    return Found(source_row=number, prompt=prompt, responses=tuple(responses), label=label)


QUESTION = {"id": 3, "category": "Mental Health", "question": "怎么办？", "options": ["好", "坏"]}
PAIR = {"prompt": "怎么偷？", "pos_resp": "不行。", "neg_resp": "这样。", "pos_type": "拒绝为主"}
ABOUT = {"question": "问？", "pos_resp": "好", "neg_resp": "坏", "domain_en": "law"}
CHOICE = {"prompt": "哪个好？回复1…回复2…", "label": "回复1", "meta_info": ABOUT}
EXPERT = {"id_": 1, "prompt": "燃油车好吗？", "domain_en": "law", "domain_zh": "法理学"}
RISK = {"traceid": "0", "risk_type": "Hate_Speech", "prompt": "骂人", "ext": BASE}
HIJACK = {**RISK, "ext": ATTACK}
TASK = {"instruction": "变短。", "input": "一二三", "output": "一"}
HISTORY = {**TASK, "history": [["你好", "好"], ["再来", "行"]]}
HUMAN, GPT = {"from": "human", "value": "你好"}, {"from": "gpt", "value": "好"}
USER = {"role": "user", "content": "问"}
TALK = {"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT, HUMAN]}

GOOD = [
    ("safetybench", "a.json", whole([QUESTION]), [row(1, "怎么办？", (), "Mental Health")]),
    (
        "safetybench",
        "dev.json",
        b"\xef\xbb\xbf" + whole({"Offensiveness": [{"question": "是吗？"}], "Law": [QUESTION]}),
        [row(1, "是吗？", (), "Offensiveness"), row(2, "怎么办？", (), "Law")],
    ),
    (
        "safetybench",
        "n.json",
        whole([QUESTION, {"id": 4}]),
        [row(1, "怎么办？", (), "Mental Health"), row(2, None)],
    ),
    (
        "cvalues_comparison",
        "a.jsonl",
        lines(PAIR, PAIR, {**PAIR, "neg_resp": None}),
        [
            row(1, "怎么偷？", ("不行。", "这样。")),
            row(2, "怎么偷？", ("不行。", "这样。")),
            row(3, "怎么偷？", ("不行。",)),
        ],
    ),
    ("cvalues_comparison", "a.parquet", parquet(PAIR), [row(1, "怎么偷？", ("不行。", "这样。"))]),
    ("cvalues_responsibility", "a.jsonl", lines(EXPERT), [row(1, "燃油车好吗？", (), "law")]),
    ("cvalues_responsibility", "mc.jsonl", lines(CHOICE), [row(1, "问？", ("好", "坏"), "law")]),
    ("s_eval", "a.jsonl", lines(RISK), [row(1, "骂人", (), "Hate_Speech")]),
    ("s_eval", "a.jsonl", lines(HIJACK), [row(1, "骂人", (), "Hate_Speech/goal_hijacking")]),
    (
        "s_eval",
        "a.jsonl.zip",
        zipped(rows_jsonl=lines(RISK, HIJACK)),
        [row(1, "骂人", (), "Hate_Speech"), row(2, "骂人", (), "Hate_Speech/goal_hijacking")],
    ),
    ("alpaca", "a.json", whole([TASK]), [row(1, "变短。\n一二三", ("一",))]),
    ("alpaca", "a.jsonl", lines({**TASK, "input": ""}), [row(1, "变短。", ("一",))]),
    ("alpaca", "h.json", whole([HISTORY]), [row(1, "你好", ("好",))]),
    ("alpaca", "a.parquet", parquet(HISTORY), [row(1, "你好", ("好",))]),
    ("alpaca", "a.csv", "instruction,output\n问,答".encode(), [row(1, "问", ("答",))]),
    ("sharegpt", "a.json", whole([TALK]), [row(1, "你好", ("好",))]),
    ("sharegpt", "a.parquet", parquet(TALK), [row(1, "你好", ("好",))]),
    (
        "sharegpt",
        "a.jsonl",
        lines(
            {"messages": [USER, {"role": "assistant", "content": "答"}]}, {"messages": [USER, USER]}
        ),
        [row(1, "问", ("答",)), row(2, "问")],
    ),
    (
        "sharegpt",
        "n.jsonl",
        lines(TALK, {"messages": []}, {"id": 1}),
        [row(1, "你好", ("好",)), row(2, None), row(3, None)],
    ),
]


@pytest.mark.parametrize(("reader", "name", "data", "expected"), GOOD)
def test_a_good_file_is_read_as_its_publisher_meant_it(
    reader: str, name: str, data: bytes, expected: list[Found], tmp_path: Path
) -> None:
    assert rows_of(reader, tmp_path / name, data) == expected


BROKEN = [
    ("safetybench", "a.json", b'[{"question": "a"},\n{"question"', "line 2: not JSON"),
    ("safetybench", "a.json", b'[{"question": "' + GBK, "line 1: expected UTF-8"),
    ("safetybench", "a.json", whole("text"), "expected an array of .*, found a string"),
    ("safetybench", "a.json", whole([QUESTION, 7]), "row 2: expected an object, found a number"),
    ("safetybench", "a.json", whole([{"prompt": "a"}]), "no row has a question"),
    ("safetybench", "a.json", whole({"0": {"answer": 1}}), "key '0': expected a list of rows"),
    ("safetybench", "a.json", b"[]", "there are no rows"),
    ("cvalues_comparison", "a.jsonl", lines(PAIR) + b"\n{", "line 2: not JSON"),
    ("cvalues_comparison", "a.jsonl", b'{"prompt": "' + GBK, "line 1: expected UTF-8"),
    ("cvalues_comparison", "a.jsonl", b"[1]", "line 1: expected an object, found an array"),
    ("cvalues_comparison", "a.jsonl", lines(EXPERT), "no field 'pos_resp'; it is no file for r"),
    ("cvalues_comparison", "a.json", whole(PAIR), "expected an array of objects"),
    ("cvalues_comparison", "a.jsonl", b"", "there are no rows"),
    ("cvalues_comparison", "a.parquet", parquet(EXPERT), "no field 'pos_resp'; it is no file"),
    ("cvalues_responsibility", "a.jsonl", lines(EXPERT) + b'\n"', "line 2: not JSON"),
    ("cvalues_responsibility", "a.jsonl", GBK, "line 1: expected UTF-8"),
    ("cvalues_responsibility", "a.jsonl", b"null", "line 1: expected an object, found null"),
    ("cvalues_responsibility", "a.jsonl", lines(QUESTION), "no field 'prompt'; it is no file"),
    (
        "cvalues_responsibility",
        "a.jsonl",
        lines(CHOICE, {**CHOICE, "meta_info": "law"}),
        "row 2: meta_info: expected an object, found a string",
    ),
    ("cvalues_responsibility", "a.jsonl", b"\n", "there are no rows"),
    ("s_eval", "a.jsonl", lines(RISK) + b"\n{", "line 2: not JSON"),
    ("s_eval", "a.jsonl", b'{"prompt": "' + GBK, "line 1: expected UTF-8"),
    ("s_eval", "a.jsonl", lines({"prompt": "a", "ext": BASE}), "no field 'risk_type'"),
    ("s_eval", "a.jsonl", lines(RISK, {**RISK, "ext": "{"}), "row 2: ext: expected .*found '{'"),
    ("s_eval", "a.jsonl", lines({**RISK, "ext": {"model": "attack"}}), "row 1: ext: expected"),
    ("s_eval", "a.jsonl", lines({**RISK, "ext": '{"model": "attack"}'}), "row 1: ext: expected"),
    ("s_eval", "a.jsonl.zip", b"PK\x03\x04 cut", "cannot be read as a .zip .*fetch it anew"),
    ("s_eval", "a.jsonl.zip", zipped(), "expected one file inside, found none"),
    ("s_eval", "a.jsonl.zip", zipped(a_jsonl=b"", b_jsonl=b""), "found a.jsonl, b.jsonl; unpack"),
    ("s_eval", "a.jsonl.zip", zipped(a_jsonl=lines(RISK) * 9)[:-90], "cannot be read as a .zip"),
    ("alpaca", "a.json", b'[{"instruction": "a",\n', "line 2: not JSON"),
    ("alpaca", "a.json", b'["' + GBK, "line 1: expected UTF-8"),
    ("alpaca", "a.json", whole(TASK), "expected an array of objects, found an object"),
    ("alpaca", "a.json", whole([{"instruction": "a"}]), "no field 'output'; it is no file for r"),
    ("alpaca", "a.json", whole([{**TASK, "history": ["a"]}]), "row 1: history: expected a list"),
    ("alpaca", "a.csv", b"instruction,output\na", "line 2: expected 2 cells, found 1"),
    ("alpaca", "a.json", b"[]", "there are no rows"),
    ("sharegpt", "a.jsonl", b'{"messages": [', "line 1: not JSON"),
    ("sharegpt", "a.jsonl", b'{"messages": "' + GBK, "line 1: expected UTF-8"),
    ("sharegpt", "a.json", whole({"conversations": []}), "expected an array of objects"),
    ("sharegpt", "a.jsonl", lines({"text": "a"}), "no row has turns; expected conversations or"),
    ("sharegpt", "a.jsonl", lines({"messages": "a"}), "row 1: expected a list of turns, found a s"),
    ("sharegpt", "a.jsonl", lines({"messages": [USER, "a"]}), "row 1 turn 2: expected an object"),
    ("sharegpt", "a.parquet", parquet({"text": "a"}), "no row has turns"),
]


@pytest.mark.parametrize(("reader", "name", "data", "message"), BROKEN)
def test_a_broken_file_is_refused_in_one_line_with_its_place(
    reader: str, name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        rows_of(reader, tmp_path / name, data)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
FIELDS = ("prompt", "ext", "risk_type", "question", "meta_info", "messages", "output", "history")
objects = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=9), json_values, max_size=6)


def complaint(reader: str, file: Path, data: bytes) -> str | None:
    try:
        rows_of(reader, file, data)
    except ValueError as error:
        return str(error)
    return None


@given(st.lists(objects | json_values, max_size=4))
def test_whatever_rows_a_file_holds_they_are_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for reader in PUBLISHED:
        for name, data in (("a.jsonl", lines(*values)), ("a.json", whole(values))):
            told = complaint(reader, folder / name, data)
            assert told is None or told.startswith(str(folder / name))
            assert "\n" not in (told or "")


@given(st.integers(0, 400), st.binary(max_size=4))
def test_a_damaged_archive_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, at: int, bytes_there: bytes
) -> None:
    file, data = tmp_path_factory.mktemp("zip") / "a.jsonl.zip", zipped(rows_jsonl=lines(RISK))
    told = complaint("s_eval", file, data[:at] + bytes_there + data[at + len(bytes_there) :])
    assert told is None or told.startswith(str(file))
    assert "\n" not in (told or "")


@given(st.text(max_size=40), st.text(min_size=1, max_size=20), st.sampled_from(["attack", "x"]))
def test_the_json_inside_the_json_comes_out_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, category: str, model: str
) -> None:
    file = tmp_path_factory.mktemp("ext") / "a.jsonl"
    ext = json.dumps({"model": model, "category": category})
    data = lines({"risk_type": "Extremism", "prompt": prompt, "ext": ext})
    if model == "attack":
        assert rows_of("s_eval", file, data) == [row(1, prompt, (), f"Extremism/{category}")]
    else:
        with pytest.raises(ValueError, match="row 1: ext"):
            rows_of("s_eval", file, data)


@pytest.mark.shared
@needs_shared
@pytest.mark.parametrize(
    ("reader", "name", "num_rows", "label"),
    [
        ("cvalues_responsibility", "cvalues/cvalues_responsibility_prompts.jsonl", 664, "law"),
        ("safetybench", "safetybench/test_zh_subset.json", 2100, "Offensiveness"),
        ("safetybench", "safetybench/dev_zh.json", 35, "Mental Health"),
        ("alpaca", "general/alpaca_zh_demo.json", 1000, None),
    ],
)
def test_the_published_files_are_read_whole(
    reader: Any, name: str, num_rows: int, label: str | None
) -> None:
    made = Source(reader=reader, path=str(SHARED / name), role="evaluate", licence="MIT")
    check({"mine": made})
    found = list(read("mine", made))
    assert len(found) == num_rows
    assert all(isinstance(one.prompt, str) and one.prompt for one in found)
    assert label in {one.label for one in found}
