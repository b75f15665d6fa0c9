"""Recipes: what is read, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from ray_jobs import config
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.steps import deciding

ROOT = Path(__file__).resolve().parents[2]
TINY = str(ROOT / "conf" / "tiny.yaml")


@pytest.mark.parametrize("name", ["tiny", "rtx3090", "cluster"])
def test_the_shipped_recipes_load_and_every_path_is_absolute(name: str) -> None:
    recipe = config.load(str(ROOT / "conf" / f"{name}.yaml"))
    assert recipe.name == name
    assert Path(recipe.out).is_absolute()
    assert all(Path(source.path).is_absolute() for source in recipe.build_data.sources.values())
    assert recipe.judge is not None


def test_a_dotlist_sets_keys_adds_sources_and_removes_them() -> None:
    keys = ["seed=11", "sources.mine.path=a.jsonl", "sources.mine.reader=generic"]
    keys += ["sources.mine.role=train", "sources.mine.licence=MIT", "sources.samples=null"]
    keys += ["sources.mine.fields.prompt=[instruction,input]", "build_data.answers.num_answers=2"]
    keys += ["build_data.answers.sampling.temperature=0.7"]
    recipe = config.load(TINY, keys)
    assert recipe.seed == 11
    assert set(recipe.build_data.sources) == {"general", "mine"}
    assert recipe.build_data.sources["mine"].fields.prompts == ("instruction", "input")
    assert recipe.build_data.answers.num_answers == 2


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("sede=1", r"tiny\.yaml: sede: unknown key; did you mean 'seed'\?"),
        (
            "build_data.intents.engin=x",
            r"build_data\.intents\.engin: unknown key; did you mean 'engine'",
        ),
        ("build_data.intents.engine=nobody", r"intents\.engine: there is no engine 'nobody'"),
        ("engines.teacher.kind=gpt", r"engines\.teacher\.kind: there is no kind 'gpt'"),
        ("engines.teacher.max_num_seqs=many", r"engines\.teacher\.max_num_seqs: "),
        ("engines.teacher.placement.gpu=1", r"engines\.teacher\.placement.*gpu"),
        ("judge.backend=judge", r"judge\.backend: expected one of the engines teacher, tested"),
        ("when_changed=maybe", r"when_changed: expected one of refuse, rebuild, found 'maybe'"),
        ("build_data.answers.num_answers=0", r"num_answers: expected at least 1"),
        ("build_data.answers.sampling.temperature=-1", r"temperature: expected 0 or more"),
        ("sources.samples.role=teach", r"build_data\.sources\.samples\.role"),
        ("sources.samples.licence=null", r"build_data\.sources\.samples\.licence"),
        ("ledger.shard_rows=0", r"ledger"),
        ("seed", r"'seed': expected key=value"),
        ("seed=x", r"seed: expected a whole number"),
        ("out=null", r"out: missing"),
        ("engines.teacher.placement.max_actors=0", r"1 ≤ min ≤ max"),
        ("train.learning_rat=1", r"train\.learning_rat: unknown key; did you mean .learning_rate"),
        ("train.batch_size=0", r"train\.batch_size: expected a number ≥ 1, found 0"),
        ("train.validation.shar=0", r"train\.validation.*shar"),
        ("train=5", r"train: expected a mapping"),
        ("train=[1]", r"train: expected a mapping, as the recipe has, found \[1\]"),
        ("judge.anchors=[1]", r"judge\.anchors: expected a mapping"),
        ("engines.teacher.placement=[1]", r"engines\.teacher\.placement: expected a mapping"),
        ("build_data.export.formats={a: 1}", r"build_data\.export\.formats: expected a list"),
        ("train.lora=[1]", r"train\.lora: expected a mapping, found \[1\]"),
        ("train.lora.rnk=1", r"train\.lora\.rnk: unknown key; did you mean 'rank'"),
        ("sources.samples.fields=[1]", r"sources\.samples\.fields: expected a mapping"),
        ("judge=teacher", r"judge: expected a mapping, found 'teacher'"),
        ("engines.teacher.kind=[vllm]", r"kind: there is no kind \['vllm'\]"),
        ("build_data.without=3", r"build_data\.without: expected some of .*, found 3"),
        ("build_data.without=true", r"build_data\.without: expected some of .*, found True"),
        ("out=[a,b]", r"out: expected a text, found \['a', 'b'\]"),
        ("name=[a,b]", r"name: expected a text"),
        ("card=[a]", r"card: expected a text"),
        ("out=foo://x", r"out: expected a folder, or an address such as s3://bucket"),
        ("out=s3://", r"out: expected a folder, or an address such as s3://bucket"),
        (f"out={TINY}", r"out: .*tiny\.yaml is a file; give a folder"),
        (f"out={TINY}/run", r"out: .*tiny\.yaml is a file; give a folder"),
        ("seed=-1", r"seed: expected 0…4294967295, found -1"),
        ("train.num_workers=[1,a]", r"train\.num_workers: Value \[1, 'a'\] of type 'list' could"),
        ("train.num_workers=[2]", r"train\.num_workers: "),
        ("build_data.export.formats=[xml]", r"export\.formats: Invalid value \['xml'\], expected"),
        ("train.num_workers=[1", r"'train\.num_workers=\[1': what follows the = is not YAML"),
        (
            "build_data.selection.min_response_score=5",
            r"yaml: build_data\.selection\.min_response_score: expected",
        ),
        ("build_data.diversity.rounds=10000", r"build_data\.diversity\.rounds: expected 100 at"),
        ("build_data.diversity.targets.OFF/plain=-3", r"OFF/plain: expected 0 or more, found -3"),
        ("sources.samples.catalogue=x", r"sources\.samples\.catalogue: unknown key"),
        ("judge.names=7", r"judge\.names: unknown key"),
        ("engines.judge.judge=null", r"engines\.judge\.judge: unknown key"),
    ],
)
def test_a_wrong_key_or_value_is_named_in_one_line(key: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        config.load(TINY, [key])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        *(
            (f"engines.teacher.{name}", "0")
            for name in (
                "max_model_len",
                "tensor_parallel_size",
                "max_num_seqs",
                "max_num_batched_tokens",
                "cpu_kv_cache_gib",
                "gpu_memory_utilization",
                "placement.start_deadline_s",
            )
        ),
        ("engines.teacher.gpu_memory_utilization", "5"),
        ("engines.teacher.gpu_memory_utilization", "nan"),
        ("engines.teacher.dtype", "foo"),
        ("engines.teacher.placement.cpus", "-1"),
        ("engines.teacher.placement.gpus", "nan"),
        ("engines.teacher.placement.max_restarts", "-1"),
        ("engines.teacher.placement.start_deadline_s", "inf"),
        ("engines.judge.timeout_s", "0"),
        ("judge.port", "99999999"),
        ("judge.retry_after_s", "nan"),
        ("judge.drain_s", "-1"),
        ("build_data.answers.sampling.temperature", "nan"),
        ("build_data.answers.sampling.temperature", "inf"),
        ("build_data.answers.sampling.top_k", "-1"),
    ],
)
def test_a_number_out_of_its_bounds_is_refused_with_its_key_in_full(key: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=rf"tiny\.yaml: {re.escape(key)}: .*(found|Invalid)"):
        config.load(TINY, [f"{key}={wrong}"])


def test_a_cache_that_is_a_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GARRISON_CACHE", TINY)
    with pytest.raises(ValueError, match=r"^GARRISON_CACHE: .*tiny\.yaml is a file; give a folder"):
        config.load(TINY)


def test_the_section_train_may_be_left_out_and_its_paths_are_absolute() -> None:
    assert config.load(TINY, ["train=null"]).train is None
    train = config.load(TINY, ["train.data=rows.json", "train.base=./model"]).train
    assert train is not None
    assert Path(train.data).is_absolute()
    assert Path(train.base).is_absolute()
    named = config.load(TINY).train
    assert named is not None
    assert named.base == "garrison/tiny-base"
    placed = config.placed_base(named)
    assert Path(placed.base).parent == config.cache() / "models"
    assert config.placed_base(train) is train


def test_a_recipe_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such recipe"):
        config.load(str(tmp_path / "absent.yaml"))
    for text, said in [("- a", "mapping of sections"), ("a: [", "not YAML"), ("a: ${b}", "b")]:
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=said):
            config.load(str(tmp_path / "bad.yaml"))
    (tmp_path / "bad.yaml").write_bytes("name: 中文".encode("gbk"))
    with pytest.raises(ValueError, match=r"UTF-8|not YAML"):
        config.load(str(tmp_path / "bad.yaml"))


def test_a_relative_out_inside_an_uploaded_folder_is_refused_with_the_line_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "working_dir_files" / "_ray_pkg_0123"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    with pytest.raises(ValueError, match=r"add to the command: out=/"):
        config.load(TINY)
    assert config.load(TINY, ["out=s3://bucket/run"]).out == "s3://bucket/run"


def test_exactly_these_settings_decide_no_row() -> None:
    free: set[str] = set()

    def visit(found: object) -> None:
        for item in dataclasses.fields(found):  # type: ignore[arg-type]
            value = getattr(found, item.name)
            if not item.metadata.get("decides_rows", True):
                free.add(f"{type(found).__name__}.{item.name}")
            elif dataclasses.is_dataclass(value):
                visit(value)

    recipe = config.load(TINY)
    provided = config.load(str(ROOT / "conf" / "dashscope.yaml")).engines.values()
    sections = (recipe.ledger, *recipe.engines.values(), *provided, recipe.judge, recipe.train)
    for section in sections:
        visit(section)
    for item in dataclasses.fields(recipe.build_data):
        if dataclasses.is_dataclass(section := getattr(recipe.build_data, item.name)):
            visit(section)
    golden = ROOT / "tests" / "golden" / "settings_that_decide_no_row.yaml"
    assert sorted(free) == yaml.safe_load(golden.read_text(encoding="utf-8"))


def test_placement_and_memory_leave_an_engines_identity_alone() -> None:
    base = VllmConfig(model="Qwen/Qwen2.5-7B-Instruct", revision="a")
    same = dataclasses.replace(base, max_num_seqs=8, gpu_memory_utilization=0.5, enforce_eager=True)
    assert same.identity() == base.identity()
    assert deciding(same) == deciding(base)
    assert dataclasses.replace(base, revision="b").identity() != base.identity()
    assert dataclasses.replace(base, dtype="float32").identity() != base.identity()
