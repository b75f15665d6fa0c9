"""Fetching from a real local server that speaks as the hubs do: what comes, what is asked for, and
what is said where something cannot be had.
"""

from __future__ import annotations

import fcntl
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.catalogue import Entry, Place
from ray_jobs.downloads import NotFetched
from ray_jobs.hubs import Hubs, bring_file, endpoints, reach
from tests.local.hub_server import COMMIT, Server, git_blob, sha256

pytestmark = pytest.mark.timeout(60)

TOKEN = "hf_not_for_logs"
DATA = bytes(range(256)) * 400  # 102,400 bytes
SMALL = '[{"instruction": "你好", "output": "好"}]'.encode()
ON_HUB = Place(hub="huggingface", id="owner/set", revision="r" * 40, file="data/rows.json")
ON_SCOPE = Place(hub="modelscope", id="maker/set", revision="master", file="rows.json")
ON_GITHUB = Place(hub="github", id="owner/code", revision="g" * 40, file="data/rows.json")
LARGE, CDN = "huggingface owner/set data/rows.json", "/cdn/"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running
        running.shutdown()


@pytest.fixture
def hubs(server: Server) -> Iterator[Hubs]:
    names = ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "GITHUB_RAW_ENDPOINT")
    with reach(dict.fromkeys(names, server.url), TOKEN, pause_s=0.01) as reached:
        yield reached


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "set" / "rows.json"


def entry(*places: Place, **changes: Any) -> Entry:
    told = {"reader": "alpaca", "role": "general", "language": "zh", "licence": "MIT"}
    told |= {"duties": "keep the notice", "publisher": "https://example.org/set"}
    return replace(Entry(**told, file="rows.json", places=places or (ON_HUB,)), **changes)


def why_not(made: Entry, target: Path, hubs: Hubs) -> str:
    """What is said; and it is one line, names where to put the file, and tells no token."""
    with pytest.raises(NotFetched) as error:
        bring_file("set", made, target, hubs)
    said = str(error.value)
    assert "\n" not in said
    assert TOKEN not in said
    return said


def left(target: Path) -> set[str]:
    return {file.name for file in target.parent.iterdir()} if target.parent.exists() else set()


def test_a_large_file_comes_whole_by_way_of_a_redirect_and_is_noted(
    server: Server, hubs: Hubs, target: Path
) -> None:
    server.files[LARGE] = DATA
    bring_file("set", entry(replace(ON_HUB, sha256=sha256(DATA))), target, hubs)
    assert target.read_bytes() == DATA
    assert left(target) == {"rows.json", "rows.json.fetched.json"}
    noted = json.loads(target.with_name("rows.json.fetched.json").read_text())
    assert noted["commit"] == COMMIT
    assert (noted["sha256"], noted["size_bytes"]) == (sha256(DATA), len(DATA))
    # The bytes lie elsewhere, where no token may go.
    assert [asked.token for asked in server.asked] == [f"Bearer {TOKEN}", None]


def test_the_second_run_asks_for_nothing(server: Server, hubs: Hubs, target: Path) -> None:
    server.files[LARGE] = SMALL
    bring_file("set", entry(), target, hubs)
    num_asked = len(server.asked)
    bring_file("set", entry(), target, hubs)
    assert len(server.asked) == num_asked == 1


def test_a_transfer_that_is_cut_goes_on_where_it_was(
    server: Server, hubs: Hubs, target: Path
) -> None:
    server.files[LARGE] = DATA
    server.cuts[CDN] = [40_000, 30_000]
    bring_file("set", entry(), target, hubs)
    assert target.read_bytes() == DATA
    ranges = [asked.range for asked in server.asked if CDN in asked.path]
    assert ranges == [None, "bytes=40000-", "bytes=70000-"]


def test_another_run_goes_on_with_what_a_stopped_one_has_left(
    server: Server, hubs: Hubs, target: Path
) -> None:
    server.files[LARGE] = DATA
    server.cuts[CDN] = [51_200]
    server.statuses[CDN] = [0, *[503] * 5]
    assert "the server answered 503; run it again later" in why_not(entry(), target, hubs)
    assert left(target) == {"rows.json.part", "rows.json.part.json"}
    bring_file("set", entry(), target, hubs)
    assert target.read_bytes() == DATA
    assert server.asked[-1].range == "bytes=51200-"


def test_a_part_of_another_version_is_not_gone_on_with(
    server: Server, hubs: Hubs, target: Path
) -> None:
    server.files[LARGE] = DATA
    server.cuts[CDN] = [51_200]
    server.statuses[CDN] = [0, *[503] * 5]
    why_not(entry(), target, hubs)
    server.files[LARGE] = DATA[::-1]
    bring_file("set", entry(), target, hubs)
    assert target.read_bytes() == DATA[::-1]


def test_a_part_whose_version_nobody_can_tell_is_fetched_from_its_beginning(
    server: Server, hubs: Hubs, target: Path
) -> None:
    server.files["modelscope maker/set rows.json"] = DATA
    server.etags = False
    server.cuts["FilePath"] = [40_000]
    bring_file("set", entry(ON_SCOPE), target, hubs)
    assert target.read_bytes() == DATA
    assert [asked.range for asked in server.asked] == [None, None]
    # With a checksum it can be told in the end, so the part is used.
    target.unlink()
    server.cuts["FilePath"] = [40_000]
    bring_file("set", entry(replace(ON_SCOPE, sha256=sha256(DATA))), target, hubs)
    assert server.asked[-1].range == "bytes=40000-"


@pytest.mark.parametrize("check", ["sha256", "git_blob", "size_bytes"])
def test_a_wrong_checksum_leaves_nothing_behind(
    check: str, server: Server, hubs: Hubs, target: Path
) -> None:
    server.files[LARGE] = DATA
    right = {"sha256": sha256(DATA), "git_blob": git_blob(DATA), "size_bytes": len(DATA)}
    wrong = {"sha256": "a" * 64, "git_blob": "b" * 40, "size_bytes": 7}
    said = why_not(entry(replace(ON_HUB, **{check: wrong[check]})), target, hubs)
    assert f"{wrong[check]}, found {right[check]}" in said
    assert not left(target)
    bring_file("set", entry(replace(ON_HUB, **{check: right[check]})), target, hubs)
    assert target.read_bytes() == DATA


def test_bytes_that_are_not_those_the_hub_announced_are_refused(
    server: Server, hubs: Hubs, target: Path
) -> None:
    server.files[LARGE] = DATA
    server.cuts[CDN] = [40_000]
    server.statuses[CDN] = [0, *[503] * 5]
    why_not(entry(), target, hubs)
    part = target.with_name("rows.json.part")
    part.write_bytes(b"x" + part.read_bytes()[1:])  # a disk may lie, too
    assert f"expected sha256 {sha256(DATA)}" in why_not(entry(), target, hubs)
    assert not left(target)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_set_says_which_variable_and_which_page(
    status: int, server: Server, hubs: Hubs, target: Path
) -> None:
    server.statuses["resolve"] = [status, status]
    said = why_not(entry(), target, replace(hubs, token=""))
    page = "https://huggingface.co/datasets/owner/set"
    assert f"needs a token: set HF_TOKEN, and accept the licence at {page}" in said
    assert "HF_TOKEN has no access" in why_not(entry(), target, hubs)
    server.statuses["resolve"], server.error_code = [status], "RepoNotFound"
    assert "there is none such, or it is private" in why_not(entry(), target, hubs)


def test_a_file_that_is_not_there_is_named_with_id_and_revision(
    server: Server, hubs: Hubs, target: Path
) -> None:
    said = why_not(entry(), target, hubs)
    assert f"huggingface owner/set, data/rows.json at {'r' * 40}: not found" in said
    assert (
        f"by hand: download rows.json from https://example.org/set, and put it at {target}" in said
    )
    assert not left(target)


def test_a_server_that_recovers_is_waited_for(server: Server, hubs: Hubs, target: Path) -> None:
    server.files[LARGE] = SMALL
    server.statuses["resolve"] = [500, 429, 502]
    bring_file("set", entry(), target, hubs)
    assert target.read_bytes() == SMALL
    assert len(server.asked) == 4


def test_a_web_page_is_no_data(server: Server, hubs: Hubs, target: Path) -> None:
    server.files[LARGE] = b"<html>log in</html>"
    server.content_type = "text/html; charset=utf-8"
    assert "a web page came instead" in why_not(entry(), target, hubs)
    assert not left(target)


def test_the_next_place_is_asked_where_one_has_not_got_it_and_gets_no_token(
    server: Server, hubs: Hubs, target: Path
) -> None:
    server.files["github owner/code data/rows.json"] = DATA
    places = (ON_HUB, ON_SCOPE, replace(ON_GITHUB, git_blob=git_blob(DATA)))
    bring_file("set", entry(*places), target, hubs)
    assert target.read_bytes() == DATA
    assert [asked.token for asked in server.asked] == [f"Bearer {TOKEN}", None, None]
    assert json.loads(target.with_name("rows.json.fetched.json").read_text())["hub"] == "github"


def test_a_hub_out_of_reach_is_tried_once_a_run_and_another_takes_its_place(
    server: Server, hubs: Hubs, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    far = replace(hubs, endpoints={**hubs.endpoints, "huggingface": closed})
    server.files["modelscope maker/set rows.json"] = SMALL
    for name in ("one", "two"):
        bring_file(name, entry(ON_HUB, ON_SCOPE), tmp_path / name / "rows.json", far)
        assert (tmp_path / name / "rows.json").read_bytes() == SMALL
    assert set(far.unreachable) == {"huggingface"}
    said = why_not(entry(ON_HUB), tmp_path / "three" / "rows.json", far)
    assert "cannot reach 127.0.0.1" in said


def test_what_must_be_fetched_by_hand_is_said_and_taken_when_it_is_there(
    server: Server, hubs: Hubs, target: Path
) -> None:
    made = entry(by_hand="ask the authors", places=())
    assert why_not(made, target, hubs) == f"by hand: ask the authors, and put it at {target}"
    target.parent.mkdir(parents=True)
    target.write_bytes(SMALL)
    bring_file("set", made, target, hubs)
    bring_file("set", entry(replace(ON_HUB, git_blob=git_blob(SMALL))), target, hubs)
    assert not server.asked


def test_a_file_that_somebody_put_there_or_changed_is_never_overwritten(
    server: Server, hubs: Hubs, target: Path
) -> None:
    server.files[LARGE] = DATA
    made = entry(replace(ON_HUB, sha256=sha256(DATA)))
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    said = why_not(made, target, hubs)
    assert f"expected {sha256(DATA)}, found sha256 {sha256(b'mine')}" in said
    target.unlink()
    bring_file("set", made, target, hubs)
    target.write_bytes(b"mended")
    assert "has changed since it was fetched" in why_not(made, target, hubs)
    assert target.read_bytes() == b"mended"


def test_a_new_revision_in_the_catalogue_is_fetched(
    server: Server, hubs: Hubs, target: Path
) -> None:
    server.files[LARGE] = SMALL
    bring_file("set", entry(), target, hubs)
    server.files[LARGE] = DATA
    bring_file("set", entry(replace(ON_HUB, revision="n" * 40)), target, hubs)
    assert target.read_bytes() == DATA


def test_two_fetches_do_not_write_one_file(server: Server, hubs: Hubs, target: Path) -> None:
    server.files[LARGE] = DATA
    target.parent.mkdir(parents=True)
    with target.with_name("rows.json.part").open("ab") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        assert "another fetch is writing it" in why_not(entry(), target, hubs)
    bring_file("set", entry(), target, hubs)
    assert target.read_bytes() == DATA


def test_an_endpoint_that_is_no_address_is_refused() -> None:
    assert endpoints({"HF_ENDPOINT": "https://hf-mirror.example/"})["huggingface"][-1] == "e"
    for wrong in ("hf-mirror.example", "ftp://host", "https://", "https://a b"):
        with pytest.raises(ValueError, match="HF_ENDPOINT: expected an address such as"):
            endpoints({"HF_ENDPOINT": wrong})
