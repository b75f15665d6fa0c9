"""The README's cluster lines: a head with authentication, a submitted job, an edit, and a
resumption.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def submit(job: Any, *keys: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
    """`ray job submit --working-dir . -- python -m ray_jobs build_data …` from a clean shell."""
    ray = str(Path(sys.executable).parent / "ray")
    call = [ray, "job", "submit", "--address", job.head.dashboard, "--working-dir", "."]
    call += [] if wait else ["--no-wait"]
    call += ["--", sys.executable, *job.command(*keys)[1:]]
    env = {key: value for key, value in job.head.env.items() if key != "RAY_ADDRESS"}
    return subprocess.run(
        call, cwd=job.tree, env=env, capture_output=True, text=True, timeout=280, check=False
    )


def test_a_submitted_job_that_is_stopped_resumes_after_an_edit(own_tree: Any) -> None:
    job = own_tree
    first = submit(job, "engines.table.delay_s=3", wait=False)
    assert first.returncode == 0, first.stderr
    job.wait_for_rows("labelled", 60)
    submission = re.search(r"raysubmit_\w+", first.stdout)[0]
    ray = str(Path(sys.executable).parent / "ray")
    stop = [ray, "job", "stop", "--address", job.head.dashboard, submission]
    subprocess.run(stop, env=job.head.env, check=True, capture_output=True, timeout=60)
    # Another package folder on the cluster: nothing may depend on where the code lies.
    with (job.tree / "ray_jobs/stages/intents.py").open("a") as code:
        code.write("# edited\n")
    second = submit(job)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "data set" in second.stdout
    kept = job.manifest("labelled")["asked"]["rows_kept_from_earlier_runs"]
    print(f"{kept} rows kept from the stopped job")
    assert 60 <= kept < job.manifest("labelled")["num_rows"]


def test_a_relative_out_is_refused_inside_the_uploaded_folder(own_tree: Any) -> None:
    refused = submit(own_tree, "out=out/test")
    assert refused.returncode != 0
    assert "add to the command: out=/" in refused.stdout


def test_the_head_asks_for_the_token(own_tree: Any) -> None:
    bare = {key: value for key, value in own_tree.head.env.items() if key != "RAY_AUTH_TOKEN"}
    bare["RAY_AUTH_TOKEN"] = "0" * 64
    ray = str(Path(sys.executable).parent / "ray")
    listing = [ray, "job", "list", "--address", own_tree.head.dashboard]
    refused = subprocess.run(listing, env=bare, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0


pytestmark = pytest.mark.timeout(600)
