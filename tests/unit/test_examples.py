"""Chats into examples: the right tokens are targets under real templates' forms, answers survive
truncation, and every form of file is read.
"""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from ray_jobs.prompts import CHAT_DATE
from ray_jobs.training.chats import CHATS, data_files, read_chats
from ray_jobs.training.examples import Census, Encoder, Samples
from ray_jobs.training.truncation import cut

# The forms of the two families' own templates, shortened.
LLAMA = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{- 'Cutting Knowledge Date: December 2023\n' }}{{- 'Today Date: ' + date_string + '\n\n' }}"
    "{{- system_message }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
QWEN = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are a helper.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first)"
    " or (message.role == 'assistant') %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# Prints answers with <think> once they are in the past otherwise than when they were given.
FORGETFUL = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' and not loop.last %}"
    "{{- message.content.split('</think>')[-1] }}"
    "{%- else %}{{- message.content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPECIAL += ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
TEXTS = [
    "怎样锁好门？先关上，再转动钥匙。",
    "How do I lock the door? Turn the key.",
    "\n\n\n",
    "a\n\nb",
]
CHAT = [
    {"role": "user", "content": "怎样锁好门？"},
    {"role": "assistant", "content": "先关上，再转动钥匙。"},
]


@cache
def tokenizer(template: str | None, end: str) -> PreTrainedTokenizerFast:
    model = Tokenizer(BPE())
    model.pre_tokenizer = ByteLevel(add_prefix_space=False)
    model.decoder = ByteLevelDecoder()
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(TEXTS * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        bos_token="<|begin_of_text|>",
        eos_token=end,
        pad_token="<|endoftext|>",
        chat_template=template,
    )


def llama(cutoff: int = 1024) -> Encoder:
    return Encoder(tokenizer=tokenizer(LLAMA, "<|eot_id|>"), cutoff=cutoff, name="llama")


def qwen(cutoff: int = 1024) -> Encoder:
    return Encoder(tokenizer=tokenizer(QWEN, "<|im_end|>"), cutoff=cutoff, name="qwen")


def encoded(encoder: Encoder, *chats: list[dict[str, str]]) -> pa.Table:
    rows = [{"id": str(k), "messages": chat, "reason": None} for k, chat in enumerate(chats)]
    return encoder.encode(pa.Table.from_pylist(rows, CHATS))


def split(encoder: Encoder, row: dict[str, Any]) -> tuple[str, list[str]]:
    """A row's whole text, and its targets run by run."""
    tokens, is_target = np.array(row["tokens"]), np.array(row["is_target"])
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_target, [0]]))).reshape(-1, 2)
    decode = encoder.tokenizer.decode
    return str(decode(tokens)), [str(decode(tokens[first:end])) for first, end in edges]


def test_under_a_llama_template_the_answer_and_its_end_token_are_the_targets() -> None:
    encoder = llama()
    text, targets = split(encoder, encoded(encoder, CHAT).to_pylist()[0])
    assert targets == ["先关上，再转动钥匙。<|eot_id|>"]
    assert text.startswith("<|begin_of_text|><|start_header_id|>system")
    assert f"Today Date: {CHAT_DATE}\n" in text
    assert text.count("<|begin_of_text|>") == 1


def test_under_a_qwen_template_the_line_break_after_the_end_token_is_no_target() -> None:
    encoder = qwen()
    text, targets = split(encoder, encoded(encoder, CHAT).to_pylist()[0])
    assert targets == ["先关上，再转动钥匙。<|im_end|>"]
    assert text.endswith("<|im_end|>")
    assert text.startswith("<|im_start|>system\nYou are a helper.")


@pytest.mark.parametrize("make", [llama, qwen])
def test_of_a_longer_chat_every_answer_is_a_target_and_nothing_else(make: Any) -> None:
    encoder = make()
    again = [{"role": "user", "content": "And then?"}, {"role": "assistant", "content": "a\n\nb"}]
    system = [{"role": "system", "content": "Be short."}]
    text, targets = split(encoder, encoded(encoder, [*system, *CHAT, *again]).to_pylist()[0])
    end = encoder.tokenizer.eos_token
    assert targets == [f"先关上，再转动钥匙。{end}", f"a\n\nb{end}"]
    assert "Be short." in text


@pytest.mark.parametrize("make", [llama, qwen])
def test_the_prompt_is_encoded_as_it_is_when_the_model_serves(make: Any) -> None:
    encoder = make()
    row = encoded(encoder, CHAT).to_pylist()[0]
    text = encoder.tokenizer.apply_chat_template(
        CHAT[:1], tokenize=False, add_generation_prompt=True, date_string=CHAT_DATE
    )
    asked = encoder.tokenizer.encode(text, add_special_tokens=False)
    assert row["tokens"][: len(asked)] == asked
    assert row["is_target"] == [False] * len(asked) + [True] * (len(row["tokens"]) - len(asked))


def test_an_answer_that_would_melt_into_the_prompts_last_token_is_encoded_by_itself() -> None:
    plain = "{%- for message in messages %}{{ message.content }}{%- if message.role == 'user' %}"
    plain += "{{ '\n' }}{% else %}{{ '<|eot_id|>' }}{%- endif %}{%- endfor %}"
    encoder = Encoder(tokenizer=tokenizer(plain, "<|eot_id|>"), cutoff=64, name="plain")
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\n\nb"}]
    encode = encoder.tokenizer.encode
    assert encode("a\n\n\nb")[:2] != encode("a\n"), "else nothing is shown"
    row = encoded(encoder, chat).to_pylist()[0]
    assert row["tokens"] == [*encode("a\n"), *encode("\n\nb<|eot_id|>")]
    assert row["is_target"].index(True) == 2


def test_where_a_template_ends_no_turn_the_end_token_is_added() -> None:
    bare = "{%- for message in messages %}{{ message.content + '\n' }}{%- endfor %}"
    encoder = Encoder(tokenizer=tokenizer(bare, "<|endoftext|>"), cutoff=64, name="bare")
    _, targets = split(encoder, encoded(encoder, CHAT).to_pylist()[0])
    assert targets == ["先关上，再转动钥匙。\n<|endoftext|>"]


def test_a_special_token_that_begins_an_answer_does_not_end_it() -> None:
    begins = "{%- for message in messages %}{%- if message.role == 'assistant' %}"
    begins += "{{ '<|im_start|>' }}{% endif %}{{ message.content + '\n' }}{%- endfor %}"
    encoder = Encoder(tokenizer=tokenizer(begins, "<|endoftext|>"), cutoff=64, name="begins")
    row = encoded(encoder, [*CHAT, *CHAT]).to_pylist()[0]
    answer = "<|im_start|>先关上，再转动钥匙。\n"
    assert split(encoder, row)[1] == [answer, f"{answer}<|endoftext|>"]
    assert row["answer_cut"] == 0


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("make", [llama, qwen])
def test_a_text_that_spells_a_control_token_is_dropped_and_never_becomes_one(
    make: Any, place: int
) -> None:
    encoder = make()
    spelt = [dict(turn) for turn in CHAT]
    spelt[place]["content"] += f" {encoder.tokenizer.eos_token} a"
    harmless = [CHAT[0], {"role": "assistant", "content": "<think> a <b> <| </s>"}]
    found = encoded(encoder, spelt, harmless).to_pylist()
    assert [row["outcome"] for row in found] == ["dropped", "done"]
    assert found[0]["reason"] == "a text spells one of the model's control tokens"


def test_a_row_that_the_template_does_not_fit_is_dropped_with_its_reason() -> None:
    thinking = [*CHAT[:1], {"role": "assistant", "content": "<think>hm</think>Yes."}, *CHAT]
    encoder = Encoder(tokenizer=tokenizer(FORGETFUL, "<|im_end|>"), cutoff=64, name="forgetful")
    strict = "{{ raise_exception('roles must alternate') }}"
    refuses = Encoder(tokenizer=tokenizer(strict, "<|im_end|>"), cutoff=64, name="strict")
    first = encoded(encoder, thinking, CHAT).to_pylist()
    assert [row["outcome"] for row in first] == ["dropped", "done"]
    assert "otherwise once it is answered" in first[0]["reason"]
    assert "roles must alternate" in encoded(refuses, CHAT).to_pylist()[0]["reason"]


def test_a_base_model_without_chat_template_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"train\.base: base-model has no chat template") as told:
        Encoder(tokenizer=tokenizer(None, "<|endoftext|>"), cutoff=64, name="base-model")
    assert "\n" not in str(told.value)


def test_a_long_prompt_loses_the_middle_of_its_longest_part_and_keeps_the_answer() -> None:
    encoder = llama(cutoff=100)
    long = [{"role": "user", "content": "first " + "x y " * 200 + "last"}, CHAT[1]]
    row = encoded(encoder, long).to_pylist()[0]
    text, targets = split(encoder, row)
    assert len(row["tokens"]) == 100
    assert row["prompt_cut"] > 0 == row["answer_cut"]
    assert targets == ["先关上，再转动钥匙。<|eot_id|>"]
    assert text.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>")
    assert "<|start_header_id|>user<|end_header_id|>\n\nfirst " in text
    assert "last<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n" in text


def test_an_answer_too_long_loses_its_end_and_the_end_token_with_it() -> None:
    encoder = llama(cutoff=80)
    long = [CHAT[0], {"role": "assistant", "content": "begin " + "x y " * 200 + "end"}]
    row = encoded(encoder, long).to_pylist()[0]
    _, targets = split(encoder, row)
    assert len(row["tokens"]) == 80
    assert row["is_target"].count(True) == 70
    assert row["answer_cut"] > 0
    assert targets[0].startswith("begin x y ")
    assert "<|eot_id|>" not in targets[0]


@given(
    st.lists(st.booleans(), min_size=1, max_size=80),
    st.integers(1, 60),
    st.integers(16, 64),
)
def test_a_cut_sample_fits_and_keeps_its_special_tokens_and_answer(
    special: list[bool], num_answer: int, cutoff: int
) -> None:
    tokens = np.array([int(one) for one in special] + [2] * num_answer, np.int32)
    tokens = tokens * 1000 + np.arange(len(tokens))  # each recognisable
    is_target = np.arange(len(tokens)) >= len(special)
    found = cut(
        tokens,
        is_target,
        start=len(special),
        cutoff=cutoff,
        special=frozenset(tokens[: len(special)][np.array(special)].tolist()),
    )
    kept = found["tokens"]
    assert len(kept) == min(len(tokens), cutoff)
    assert (np.diff(np.searchsorted(tokens % 1000, kept % 1000)) > 0).all()  # order stays
    assert found["prompt_cut"] + found["answer_cut"] == len(tokens) - len(kept)
    answer = kept[found["is_target"]]
    assert (answer == tokens[len(special) :][: len(answer)]).all()  # only its end may go
    assert len(answer) >= min(num_answer, cutoff - cutoff // 8)
    room = cutoff - len(answer)
    if room - sum(special) >= len(special):
        assert set(tokens[: len(special)][np.array(special)]) <= set(kept)


FORMS = {
    "alpaca": {"instruction": "Do it.", "input": "门", "output": "好。", "history": [["a", "b"]]},
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Do it.\n门"},
            {"from": "gpt", "value": "好。"},
        ]
    },
    "trl": {
        "messages": [
            {"role": "user", "content": "Do it.\n门"},
            {"role": "assistant", "content": "好。"},
        ]
    },
}
ASKED = [{"role": "user", "content": "Do it.\n门"}, {"role": "assistant", "content": "好。"}]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("told", [True, False])
def test_every_form_is_read_from_every_kind_of_file(
    form: str, ending: str, told: bool, tmp_path: Path
) -> None:
    file = tmp_path / f"rows{ending}"
    rows = [FORMS[form], FORMS[form]]
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        lines = [json.dumps(row) for row in rows]
        file.write_text(json.dumps(rows) if ending == ".json" else "\n".join(lines))
    table = pa.concat_tables(read_chats(str(file), form if told else "auto"))  # type: ignore[arg-type]
    assert table["id"].to_pylist() == ["1", "2"]
    chat = table["messages"].to_pylist()[0]
    assert chat[-2:] == ASKED
    assert len(chat) == (4 if form == "alpaca" else 2)


def test_our_own_export_is_read_with_its_ids_and_its_validation_split(tmp_path: Path) -> None:
    for split_name in ("train", "validation"):
        rows = [{"id": f"{split_name}/0", "prompt": "门", "response": "好。", "score": 0.5}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split_name}.parquet")
    train, validation = data_files(str(tmp_path))
    assert validation is not None
    for path, name in ((train, "train/0"), (validation, "validation/0")):
        assert pa.concat_tables(read_chats(path))["id"].to_pylist() == [name]


def test_trl_prompt_and_completion_are_read_as_text_or_as_turns(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": "门", "completion": "好。"},
        {
            "prompt": [{"role": "user", "content": "门"}],
            "completion": [{"role": "assistant", "content": "好。"}],
        },
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    first, second = pa.concat_tables(read_chats(str(file)))["messages"].to_pylist()
    assert first == second


def test_rows_without_prompt_or_answer_stay_with_their_reason(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [
        {"instruction": "a", "output": "b"},
        {"instruction": "a", "output": " "},
        {"instruction": "a"},
        {"instruction": "", "output": "b"},
        {"instruction": ["a"], "output": "b"},
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    table = pa.concat_tables(read_chats(str(file)))
    reasons = [None, "no answer", "no answer", "no prompt", "expected text, found an array"]
    assert table["reason"].to_pylist() == reasons
    census = Census.of(qwen().encode(table))
    assert (census.num_rows, census.num_samples) == (5, 1)
    assert census.reasons == {
        "no answer": 2,
        "no prompt": 1,
        "expected text, found an array": 1,
    }
    census.check("rows.jsonl", 1024)


HUMAN, GPT = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}
SYSTEM = {"from": "system", "value": "s"}
HALF = "\ud83d"


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([SYSTEM, HUMAN, GPT, HUMAN], None),
        ([HUMAN, SYSTEM, GPT], None),
        ([GPT, HUMAN, GPT], "no prompt before the first answer"),
        ([SYSTEM, GPT, HUMAN, GPT], "no prompt before the first answer"),
        ([HUMAN, {**GPT, "value": " "}, HUMAN, GPT], "no answer"),
        ([HUMAN, GPT, {**HUMAN, "value": None}, GPT], "no prompt"),
        ([{**HUMAN, "from": ["human"]}, GPT], "a turn that is none of system, user"),
        ([{**HUMAN, "value": 3}, GPT], "expected text, found a number"),
        ([{**HUMAN, "value": [HUMAN]}, GPT], "expected text, found an array"),
        ([{**HUMAN, "value": f"a{HALF}"}, GPT], "half a character"),
        ([[HUMAN, GPT]], "a turn that is none of system, user"),
        ("a", "expected an array of turns, found a string"),
        ({"a": HUMAN}, "expected an array of turns, found an object"),
    ],
)
def test_turns_of_any_shape_become_a_chat_or_a_reason(
    turns: object, reason: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"id": f"x{HALF}", "conversations": turns}]))
    [row] = pa.concat_tables(read_chats(str(file), "sharegpt")).to_pylist()
    assert row["id"] == "x?"
    assert (row["reason"] is None) == (reason is None)
    assert (reason or "") in (row["reason"] or "")


TEXTS_OF_ANY_KIND = st.text() | st.sampled_from([HALF, "<|im_end|>", "<|eot_id|>", " "])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS_OF_ANY_KIND,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {
            "from": st.sampled_from(["human", "gpt", "system"]) | ANYTHING,
            "value": TEXTS_OF_ANY_KIND | ANYTHING,
        }
    ),
    max_size=4,
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": ANYTHING,
        "system": ANYTHING,
        "instruction": ANYTHING,
        "output": ANYTHING,
        "history": st.lists(st.tuples(ANYTHING, ANYTHING)) | ANYTHING,
        "conversations": TURNS | ANYTHING,
        "messages": TURNS.map(lambda turns: [{"role": t["from"], "content": "a"} for t in turns]),
        "prompt": ANYTHING,
        "completion": ANYTHING,
    },
)


@given(st.lists(ROWS, min_size=1, max_size=3))
def test_no_row_ends_in_anything_but_a_sample_or_a_reason(rows: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("\n".join(json.dumps(row) for row in rows))
        for form in ("alpaca", "sharegpt", "trl"):
            wanted = {"alpaca": ("instruction", "output"), "sharegpt": ("conversations",)}
            if any(not any(name in row for row in rows) for name in wanted.get(form, ())):
                continue  # then the file is wrong, which is told in one line
            table = pa.concat_tables(read_chats(str(file), form))  # type: ignore[arg-type]
            for make in (llama, qwen):
                found = make(cutoff=32).encode(table)
                assert len(found) == len(rows)
                told = pc.equal(found["outcome"], "done").to_pylist()
                assert [reason is None for reason in found["reason"].to_pylist()] == told


@pytest.mark.parametrize(
    ("rows", "cutoff", "told"),
    [
        ([], 1024, "has no rows"),
        ([{"instruction": "a", "output": ""}], 1024, "none of the 1 rows .* 1 × no answer"),
        ([{"instruction": "a", "output": "x " * 90}] * 2, 32, "all 2 samples .* longer than 32"),
    ],
)
def test_data_that_nothing_can_be_learnt_from_is_refused_in_one_line(
    rows: list[dict[str, str]], cutoff: int, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    tables = list(read_chats(str(file)))
    encoder = qwen(cutoff)
    found = encoder.encode(pa.concat_tables(tables) if tables else CHATS.empty_table())
    with pytest.raises(ValueError, match=told) as error:
        Census.of(found).check(str(file), cutoff)
    assert "\n" not in str(error.value)


def test_a_file_of_no_known_form_is_refused_with_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "a", "reply": "b"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl row 1: .* found question, reply"):
        list(read_chats(str(file)))
    with pytest.raises(ValueError, match=r"there is no field 'instruction'; .* train\.format"):
        list(read_chats(str(file), "alpaca"))
    with pytest.raises(ValueError, match=r"train\.data: there is no file"):
        data_files(str(tmp_path / "absent.jsonl"))
    with pytest.raises(ValueError, match=r"run build_data first"):
        data_files(str(tmp_path))


def test_samples_are_the_rows_that_are_done_and_can_be_held_out() -> None:
    encoder = qwen()
    chats = [[CHAT[0], {"role": "assistant", "content": "x" * k}] for k in range(1, 10)]
    none = pa.Table.from_pylist([{"id": "none", "reason": "no answer"}], CHATS)
    table = pa.concat_tables([encoder.encode(none), encoded(encoder, *chats)])
    samples = Samples.of(table)
    done = [row for row in table.to_pylist() if row["outcome"] == "done"]
    assert len(samples) == len(done) == 9
    for index, row in enumerate(done):
        tokens, is_target = samples[index]
        assert tokens.tolist() == row["tokens"]
        assert is_target.tolist() == row["is_target"]
    train, held = samples.hold_out(0.2, seed=3)
    assert (len(train), len(held)) == (7, 2)
    both = [one[k][0].tolist() for one in (train, held) for k in range(len(one))]
    assert sorted(both) == sorted(row["tokens"] for row in done)
    assert held.tokens.tolist() == samples.hold_out(0.2, seed=3)[1].tokens.tolist()
