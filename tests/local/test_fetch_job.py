"""The job `fetch` as a user types it, against a local server in place of every hub: files, whole
data sets and models.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.local.hub_server import COMMIT, Server, sha256

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_not_for_logs"
ROWS = [{"instruction": f"问{k}", "output": f"答{k}"} for k in range(40)]
DATA = json.dumps(ROWS, ensure_ascii=False).encode()
ENTRY = {
    "reader": "alpaca",
    "role": "general",
    "language": "zh",
    "licence": "MIT",
    "duties": "keep the notice",
    "publisher": "https://example.org/set",
    "file": "rows.json",
    "places": [
        {
            "hub": "huggingface",
            "id": "owner/set",
            "revision": COMMIT,
            "file": "rows.json",
            "sha256": sha256(DATA),
        }
    ],
}
CATALOGUE = {
    "rows": ENTRY,
    "letters": {**ENTRY, "places": [], "by_hand": "ask the authors for rows.json"},
}
MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"\0" * 4000}


@dataclass(frozen=True)
class Tree:
    """A copy of the code with a catalogue of the test's own."""

    folder: Path
    cache: Path
    server: Server

    def run(self, *keys: str) -> subprocess.CompletedProcess[str]:
        """`python -m ray_jobs fetch` on the tiny recipe with more sources."""
        env = os.environ | dict.fromkeys(("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"), self.server.url)
        env |= {"GITHUB_RAW_ENDPOINT": self.server.url, "HF_TOKEN": TOKEN}
        env |= {"GARRISON_CACHE": str(self.cache), "HF_HOME": str(self.cache / "hf")}
        command = [sys.executable, "-m", "ray_jobs", "fetch", "conf/tiny.yaml", *keys]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True)
        assert TOKEN not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    for name in ("ray_jobs", "serve", "cluster", "conf"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "tree" / name, ignore=ignored)
    told = yaml.safe_dump({"sources": CATALOGUE}, allow_unicode=True)
    (tmp_path / "tree/conf/sources.yaml").write_text(told, encoding="utf-8")
    with Server() as server:
        server.files["huggingface owner/set rows.json"] = DATA
        yield Tree(tmp_path / "tree", tmp_path / "cache", server)
        server.shutdown()


def test_what_can_be_fetched_comes_and_the_rest_is_listed(tree: Tree) -> None:
    done = tree.run("sources.mine.from=rows", "sources.theirs.from=letters")
    assert done.returncode == 1, done.stderr
    assert (tree.cache / "data/rows/rows.json").read_bytes() == DATA
    assert f"rows: {len(DATA)} bytes from huggingface owner/set" in done.stderr
    assert "rows: licence MIT: keep the notice" in done.stderr
    target = tree.cache / "data/letters/rows.json"
    wanted = (
        f"missing: sources.theirs: by hand: ask the authors for rows.json, and put it at {target}"
    )
    assert wanted in done.stderr
    assert "garrison: 1 of the " in done.stderr.splitlines()[-1]
    assert " sources and models of conf/tiny.yaml are not here" in done.stderr.splitlines()[-1]
    # The person does as told; the same command then asks nobody for anything.
    target.parent.mkdir(parents=True)
    target.write_bytes(DATA)
    num_asked = len(tree.server.asked)
    done = tree.run("sources.mine.from=rows", "sources.theirs.from=letters")
    assert done.returncode == 0, done.stderr
    assert len(tree.server.asked) == num_asked


def test_a_name_that_is_not_in_the_catalogue_is_wrong_input(tree: Tree) -> None:
    done = tree.run("sources.mine.from=row")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "build_data.sources.mine.from: there is no source 'row'" in done.stderr
    assert "did you mean 'rows'?" in done.stderr
    assert not tree.server.asked


def test_a_model_comes_without_its_other_weights_and_is_not_asked_for_again(tree: Tree) -> None:
    others = {"pytorch_model.bin": b"no", "original/model.safetensors": b"no"}
    for name, data in (MODEL | others).items():
        tree.server.files[f"model owner/tiny {name}"] = data
    engine = {"kind": "vllm", "model": "owner/tiny", "revision": COMMIT}
    keys = [f"engines.brain.{key}={value}" for key, value in engine.items()]
    done = tree.run("sources.mine.from=rows", *keys)
    assert done.returncode == 0, done.stderr
    snapshot = tree.cache / "hf/hub/models--owner--tiny/snapshots" / COMMIT
    assert {file.name for file in snapshot.iterdir()} == set(MODEL)
    num_asked = len(tree.server.asked)
    assert tree.run("sources.mine.from=rows", *keys).returncode == 0
    assert len(tree.server.asked) == num_asked
    (snapshot / "model.safetensors").unlink()
    assert tree.run("sources.mine.from=rows", *keys).returncode == 0
    assert (snapshot / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


def test_a_model_that_is_not_there_is_named(tree: Tree) -> None:
    keys = ["engines.brain.kind=vllm", "engines.brain.model=owner/none"]
    done = tree.run("sources.mine.from=rows", *keys)
    assert done.returncode == 1
    assert "missing: model owner/none@newest: none such, or private: mend the id" in done.stderr
    assert (tree.cache / "data/rows/rows.json").is_file()


def test_a_split_of_a_data_set_comes_as_parquet_and_no_script_is_run(tree: Tree) -> None:
    for split, num_rows in (("train", 40), ("test", 5)):
        data = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS[:num_rows]).encode()
        tree.server.files[f"huggingface owner/qa data/{split}.jsonl"] = data
    told = {"reader": "hub", "id": "owner/qa", "revision": COMMIT, "split": "test", "role": "train"}
    told |= {"licence": "MIT", "fields.prompt": "instruction"}
    keys = [f"sources.mine.{key}={value}" for key, value in told.items()]
    done = tree.run(*keys)
    assert done.returncode == 0, done.stderr
    folder = tree.cache / "data/hub/owner--qa" / COMMIT / "default/test"
    assert [file.name for file in folder.iterdir()] == ["test-00000.parquet"]
    assert pq.read_table(folder).to_pylist() == ROWS[:5]
    num_asked = len(tree.server.asked)
    assert tree.run(*keys).returncode == 0
    assert len(tree.server.asked) == num_asked
    done = tree.run(*keys, "sources.mine.split=dev")
    assert done.returncode == 1
    assert 'Unknown split "dev". Should be one of' in done.stderr
    for name in ("data.jsonl", "old.py"):
        tree.server.files[f"huggingface owner/old {name}"] = b"raise SystemExit('a script was run')"
    done = tree.run(*keys, "sources.mine.id=owner/old")
    assert done.returncode == 1
    assert "scripts are no longer supported, but found old.py" in done.stderr
    assert "a script was run" not in done.stderr


def test_questions_that_a_suite_takes_from_the_hub_come_into_its_cache(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = ["evaluate.suites.harness.benchmarks.gsm8k.files=''", "sources.mine.from=rows"]
    done = tree.run(*hub)
    assert done.returncode == 1, done.stderr
    assert "missing: evaluate.suites: lm-eval-gsm8k: " in done.stderr
    about = "configs:\n- config_name: main\n  data_files:\n"
    for split, num in (("train", 8), ("test", 3)):
        rows = [{"question": f"{k}+1?", "answer": f"#### {k + 1}"} for k in range(num)]
        data = "\n".join(map(json.dumps, rows)).encode()
        tree.server.files[f"huggingface openai/gsm8k main/{split}.jsonl"] = data
        about += f"  - split: {split}\n    path: main/{split}.jsonl\n"
    tree.server.files["huggingface openai/gsm8k README.md"] = f"---\n{about}---\n".encode()
    done = tree.run(*hub)
    assert done.returncode == 0, done.stderr
    assert "lm-eval-gsm8k: 3 questions, in the cache of the hub's library" in done.stderr
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # evaluate reads them where no hub can be reached
    assert "3 questions" in tree.run(*hub).stderr
