"""A stage whose code has changed needs a new VERSION, or old rows would pass for new ones.

After a change that alters rows: raise the stage's VERSION. After any change: write the golden file
anew with `python -m tests.unit.test_versions`. Comments and formatting cost nothing: the syntax
tree is compared.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "versions.json"
STAGES = sorted(
    file.stem for file in (ROOT / "ray_jobs" / "stages").glob("*.py") if file.stem != "__init__"
)


def state(stage: str) -> dict[str, str | int]:
    """The stage's VERSION, and a hash of its code without comments and docstrings."""
    source = (ROOT / "ray_jobs" / "stages" / f"{stage}.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [item for item in node.body if not _is_text(item)]
    found = re.search(r"^VERSION = (\d+)$", source, re.MULTILINE)
    assert found, f"stages/{stage}.py has no VERSION"
    code = hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]
    return {"version": int(found[1]), "code": code}


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize("stage", STAGES)
def test_a_changed_stage_has_a_new_version(stage: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert state(stage) == golden.get(stage), (
        f"stages/{stage}.py has changed: raise its VERSION if its rows may differ, "
        "then run python -m tests.unit.test_versions"
    )


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    states = {stage: state(stage) for stage in STAGES}
    GOLDEN.write_text(json.dumps(states, indent=1) + "\n", encoding="utf-8")
