"""The annotation desk behind Ray Serve: who may ask, what is refused, and what outlives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from ray_jobs.evals import summary
from ray_jobs.evals.labels import LabelStore, latest
from ray_jobs.evals.queue import HOME, Annotation
from ray_jobs.evals.recompute import recompute
from ray_jobs.evals.summary import About
from ray_jobs.tables import Folder
from tests.local.conftest import free_port
from tests.local.evaluated import evaluated

pytestmark = pytest.mark.timeout(180)
NUM_ROWS = 30
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Desk:
    """A served desk."""

    url: str
    out: Path

    def ask(self, path: str, annotator: str, **body: Any) -> dict[str, Any]:
        """What it answers."""
        answer = self.post(path, {"annotator": annotator, **body})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}/api/{path}", json=body, headers=headers, timeout=30)

    def labels(self) -> list[Any]:
        """What is on the disk."""
        return latest(LabelStore(Folder(str(self.out)) / HOME).read())


Start = Callable[..., Desk]


@pytest.fixture
def start(port: int, tmp_path: Path) -> Iterator[Start]:
    """Serves the desk of an evaluation, and takes it down after the test."""
    from ray import serve as ray_serve

    from serve import annotate

    def run(cfg: Annotation, token: str = "") -> Desk:
        evaluated(Folder(str(tmp_path)) / HOME, {"base": ["uncertain"] * NUM_ROWS})
        app = annotate.desk(cfg, str(tmp_path), 7, token)
        ray_serve.run(app, name="annotation", route_prefix="/")
        return Desk(f"http://127.0.0.1:{port}", tmp_path)

    yield run
    ray_serve.delete("annotation")


def test_many_at_once_label_every_row_once(start: Start) -> None:
    desk = start(Annotation(shared_share=0.0))

    def work(annotator: str) -> int:
        num, row = 0, desk.ask("next", annotator)["row"]
        while row:
            row = desk.ask("label", annotator, key=row["key"], label="safe", comment="")["row"]
            num += 1
        return num

    with ThreadPoolExecutor(8) as pool:
        nums = list(pool.map(work, [f"annotator {k}" for k in range(8)]))
    assert sum(nums) == NUM_ROWS
    labels = desk.labels()
    assert len({label.key for label in labels}) == len(labels) == NUM_ROWS
    assert max(nums) < NUM_ROWS  # so they did work at once


def test_what_was_saved_outlives_a_killed_replica_and_drafts_come_back(start: Start) -> None:
    desk = start(Annotation(shared_share=0.0))
    first = desk.ask("next", "a")["row"]
    second = desk.ask("label", "a", key=first["key"], label="unsafe", comment="c")["row"]
    mine = psutil.Process().children(recursive=True)
    (replica,) = [one for one in mine if "ServeReplica:annotation" in "".join(one.cmdline())]
    replica.kill()
    deadline = time.monotonic() + 60
    while True:
        try:
            again = desk.post("next", {"annotator": "a", "key": second["key"]})
            if again.status_code == 200:
                break
        except httpx.HTTPError:
            assert time.monotonic() < deadline
        assert time.monotonic() < deadline, again.text
        time.sleep(0.2)
    assert again.json()["row"]["key"] == second["key"]
    assert again.json()["progress"]["num_mine"] == 1
    assert [label.label for label in desk.labels()] == ["unsafe"]


def test_the_figures_follow_the_labels_without_another_run(start: Start) -> None:
    desk = start(Annotation(shared_share=0.0))
    home, cfg = Folder(str(desk.out)) / HOME, Annotation()
    recompute(home, About(models={"base": "one"}, protocols={"new": ""}, toys=()), cfg, 7)

    def wait_for(outcomes: dict[str, int]) -> None:
        deadline = time.monotonic() + 60
        while (summary.read(home) or {})["figures"][0]["outcomes"] != outcomes:
            assert time.monotonic() < deadline, "the figures do not follow"
            time.sleep(0.2)

    row = desk.ask("next", "a")["row"]
    row = desk.ask("label", "a", key=row["key"], label="safe", comment="")["row"]
    wait_for({"done": 1, "undecided": NUM_ROWS - 1})
    for _ in range(NUM_ROWS - 1):
        row = desk.ask("label", "a", key=row["key"], label="unsafe", comment="")["row"]
    wait_for({"done": NUM_ROWS})
    desk.ask("undo", "a")
    wait_for({"done": NUM_ROWS - 1, "undecided": 1})


def test_only_who_has_the_token_gets_rows_but_all_get_the_page(start: Start) -> None:
    desk = start(Annotation(), token="geheim")
    assert desk.post("next", {"annotator": "a"}).status_code == 401
    assert desk.post("next", {"annotator": "a"}, Authorization="Bearer falsch").status_code == 401
    answer = desk.post("next", {"annotator": "a"}, Authorization="Bearer geheim")
    assert answer.json()["row"]["prompt"]
    page = httpx.get(f"{desk.url}/")
    assert page.status_code == 200
    assert "霁珩" not in page.text


def test_the_browser_is_told_to_run_and_reach_nothing_from_elsewhere(start: Start) -> None:
    desk = start(Annotation())
    for path in ("/", "/annotate.js", "/annotate.css", "/annotate_words.js", "/nowhere"):
        headers = httpx.get(f"{desk.url}{path}").headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    page = httpx.get(f"{desk.url}/").text
    assert "http" not in page.replace("http-equiv", "")
    assert "onclick" not in page


def test_another_site_s_name_for_this_machine_gets_nothing(start: Start) -> None:
    desk = start(Annotation())
    answer = desk.post("next", {"annotator": "a"}, Host="evil.example:80")
    assert answer.status_code == 403
    # A form on another site can send this without asking first.
    body = json.dumps({"annotator": "a"})
    plain = {"Content-Type": "text/plain"}
    sent = httpx.post(f"{desk.url}/api/next", content=body, headers=plain)
    assert sent.status_code == 422


WRONG: list[tuple[str, Any, int]] = [
    ("next", {}, 422),
    ("next", {"annotator": "  "}, 422),
    ("next", {"annotator": "x" * 65}, 422),
    ("next", {"annotator": "a", "more": 1}, 422),
    ("next", [], 422),
    ("label", {"annotator": "a", "key": "nowhere", "label": "safe", "comment": ""}, 404),
    ("label", {"annotator": "a", "key": "x", "label": "safe", "comment": "y" * 4001}, 422),
    ("label", {"annotator": "a", "key": "x", "label": "safe", "comment": "y" * 70_000}, 413),
    ("skip", {"annotator": "a", "key": "nowhere"}, 404),
    ("undo", {"annotator": "never here"}, 200),
]


def test_wrong_requests_are_refused_in_a_line(shared_desk: Desk) -> None:
    for path, body, status in WRONG:
        answer = shared_desk.post(path, body)
        assert answer.status_code == status, (path, answer.text)
        if status != 200:
            assert answer.json()["error"]["message"]
    assert shared_desk.labels() == []


def test_a_label_that_is_none_of_the_row_s_is_refused(shared_desk: Desk) -> None:
    row = shared_desk.ask("next", "a")["row"]
    body = {"annotator": "a", "key": row["key"], "label": "harmless", "comment": ""}
    answer = shared_desk.post("label", body)
    assert answer.status_code == 422
    assert "expected one of safe, unsafe, uncertain" in answer.json()["error"]["message"]
    lone = json.dumps(body | {"label": "safe", "comment": "\ud800"})  # half of a character
    sent = httpx.post(
        f"{shared_desk.url}/api/label",
        content=lone,
        headers={"Content-Type": "application/json"},
    )
    assert sent.status_code == 422
    assert shared_desk.labels() == []


def test_a_second_desk_on_the_same_labels_does_not_start(shared_desk: Desk) -> None:
    from ray_jobs.lock import RunLock

    folder = Folder(str(shared_desk.out)) / HOME / "labels"
    with pytest.raises(ValueError, match="another run writes here"), RunLock(folder):
        pass


@pytest.fixture
def shared_desk(start: Start) -> Desk:
    return start(Annotation(shared_share=0.0))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose evaluation is there."""
    evaluated(Folder(str(tmp_path)) / HOME, {"base": ["uncertain"] * 3})
    table = {"kind": "scripted", "answers": str(tmp_path / "answers.yaml")}
    source = {"reader": "generic", "path": "conf/samples/general.jsonl", "role": "train"}
    stages = ("intents", "answers", "perplexity", "rewards")
    data = {
        "out": str(tmp_path),
        "engines": {"table": table},
        "build_data": {
            "sources": {"samples": source | {"language": "auto", "licence": "Apache-2.0"}},
            **{stage: {"engine": "table"} for stage in stages},
        },
        "evaluate": {"engine": "table", "annotation": {"port": free_port()}},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluate.annotation.host=0.0.0.0", "set the environment variable GARRISON_ANNOTATE"),
        ("evaluate.annotation.audit_shar=0.1", "did you mean 'audit_share'"),
        ("evaluate.annotation.audit_share=3", "audit_share: expected a number in 0…1"),
        ("evaluate=null", "evaluate: missing"),
        ("out=/nowhere", "nothing is evaluated there yet"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(
    recipe: Path, override: str, said: str
) -> None:
    from serve import annotate

    key, _, value = override.partition("=")
    with pytest.raises(ValueError, match=said):
        annotate.build({"recipe": str(recipe), key: value})


def test_the_readme_s_command_serves_the_page(recipe: Path) -> None:
    port = yaml.safe_load(recipe.read_text())["evaluate"]["annotation"]["port"]
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    serve = str(Path(sys.executable).parent / "serve")
    command = [serve, "run", "serve.annotate:build", f"recipe={recipe}"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline, "the page is not up"
            try:
                if httpx.get(f"{url}/healthz").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.3)
        desk = Desk(url, recipe.parent)
        assert desk.ask("next", "a")["progress"]["num_rows"] == 3
        assert "annotate.js" in httpx.get(url).text
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
