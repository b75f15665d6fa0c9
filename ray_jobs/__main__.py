"""The command line: job name → config → job. Exit codes: 0 done, 1 the job failed, 2 the input is
wrong, 130 stopped.
"""

from __future__ import annotations

import errno
import importlib
import logging
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

JOBS = ("fetch", "preflight", "build_data", "train", "evaluate", "report", "run")
"""Each is the function of that name in the module of that name."""
ROOT = Path(__file__).resolve().parent.parent
READ_PLACES = ("tables.py", "files.py")
"""They alone read and write at places that a recipe names."""
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)

HELP = """usage: python -m ray_jobs <job> <recipe.yaml> [key=value …]

jobs
  fetch        bring the public data and models that the recipe names
  preflight    say what the recipe needs of memory, disk and time, and refuse what cannot fit
  build_data   collect → label → expand → answer → score → select → export
  train        fine-tune the base model on what build_data exported, or on train.data=…
  evaluate     put suites to models side by side: models.base=… models.tuned=…
  report       one HTML page of what there is: data, training, figures with their intervals
  run          build_data, train, evaluate and report in a row

recipes        conf/tiny.yaml (no GPU, tiny models) · conf/rtx3090.yaml (one 24 GB card) ·
               conf/cluster.yaml (many GPUs)

keys           any key of the recipe: out=/data/run seed=7 build_data.answers.num_answers=2
               sources.mine.path=… adds a source, sources.samples=null removes one
               build_data.without=[expansion] leaves a part of the method out
               train.learning_rates=[3e-7,6e-7] tries both, and keeps the better
               when_changed=rebuild makes tables again whose prompts, models or settings have
               changed

docs: README.md

The same command goes on where a stopped one ended. Exit codes: 0 done, 1 failed, 2 wrong input,
130 stopped.
"""


def main(argv: list[str]) -> int:
    """Run one job. Nothing heavy is imported before the recipe has been read."""
    if not argv or {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0 if argv else 2
    job, *rest = argv
    if job not in JOBS or not rest:
        print(
            f"{job!r}: expected '{' | '.join(JOBS)} <recipe.yaml>'; see python -m ray_jobs --help",
            file=sys.stderr,
        )
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ray_jobs").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _stop)  # `ray job stop` is a Ctrl-C from further away
    return _run(job, rest[0], rest[1:])


def _run(job: str, path: str, overrides: list[str]) -> int:
    from ray_jobs import config

    try:
        recipe = config.load(path, overrides)
    except (ValueError, OSError) as error:
        return _say(error, 2)
    from ray_jobs.engines.seam import EngineUnusable
    from ray_jobs.outcomes import first_line
    from ray_jobs.steps import JobFailed

    try:
        getattr(importlib.import_module(f"ray_jobs.{job}"), job)(recipe)
    except ValueError as error:
        if not _said_by_us(error):
            raise
        return _say(error, 2)
    except OSError as error:
        if not _is_about_a_place(error):
            raise
        return _say(f"{first_line(error)}; mend that place, or give another in its stead", 2)
    except (JobFailed, EngineUnusable) as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        return _say("stopped; the same command goes on from here", 130)
    return 0


def _said_by_us(error: ValueError) -> bool:
    # A ValueError that a library raised is no message to a person: it keeps its traceback.
    return _is_ours(_frames(error)[-1])


def _is_about_a_place(error: OSError) -> bool:
    # Who gave the place has to mend it. Any other error of the system may be a slip of ours, and
    # keeps its traceback.
    if error.errno in REFUSED and error.filename is not None:
        return True
    ours = [frame for frame in _frames(error) if _is_ours(frame)]
    return Path(ours[-1].f_code.co_filename).name in READ_PLACES


def _frames(error: Exception) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _is_ours(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return Path(file).parts[: len(ROOT.parts)] == ROOT.parts and ".venv" not in file


def _say(what: object, code: int) -> int:
    print(f"garrison: {' '.join(str(what).split())}", file=sys.stderr)
    return code


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
