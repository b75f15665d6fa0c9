"""The page where people judge what the judge is uncertain of, and audit the rest, as a Serve
application with one replica, which keeps the leases.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from ray import serve as ray_serve
from starlette.exceptions import HTTPException

from ray_jobs.evals import queue
from ray_jobs.evals.labels import MAX_COMMENT, LabelStore, name_of
from ray_jobs.evals.queue import HOME, Annotation
from ray_jobs.evals.recompute import follow
from ray_jobs.judge import THIS_MACHINE
from ray_jobs.lock import RunLock
from ray_jobs.tables import Folder
from serve.annotate_desk import Desk, NoSuchRow, Taken
from serve.annotate_page import Page
from serve.web import Limits, application, digest

if TYPE_CHECKING:
    from ray.serve import Application

MAX_BODY_BYTES = 1 << 16
MAX_ONGOING = 256
FIGURES_EVERY_S = 5.0
"""After a label the figures follow; not more often than this."""
Name = Annotated[str, StringConstraints(max_length=256), AfterValidator(name_of)]
RowKey = Annotated[str, StringConstraints(max_length=64)]
Comment = Annotated[str, StringConstraints(max_length=MAX_COMMENT)]
# All that the class uses stands above it: Serve packs both when it decorates the class.
log = logging.getLogger(__name__)
web = application("Garrison's annotation desk")
web.add_middleware(Page)  # added last, so it comes before the gate


class Asked(BaseModel):
    """Who asks, and which row their page has in hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    annotator: Name
    key: RowKey = ""


class Drafted(Asked):
    """A comment that is being written."""

    comment: Comment


class Labelled(Drafted):
    """A label."""

    label: Annotated[str, StringConstraints(max_length=64)]


@contextmanager
def _as_http() -> Iterator[None]:
    try:
        yield
    except Taken as error:
        raise HTTPException(409, str(error)) from error
    except NoSuchRow as error:
        raise HTTPException(404, str(error)) from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


@ray_serve.deployment
@ray_serve.ingress(web)
class AnnotationDeployment:
    """The desk. What its methods do between two awaits nobody interrupts."""

    def __init__(self, cfg: Annotation, out: str, seed: int, limits: Limits) -> None:
        self.limits = limits
        self._home, self._cfg, self._seed = Folder(out) / HOME, cfg, seed
        self._is_behind = True  # for all we know: the last desk may have died after a label
        self._following: asyncio.Task[None] | None = None
        store = LabelStore(self._home)
        self._lock = RunLock(store.folder)
        self._lock.__enter__()
        self._desk = Desk(queue.load(self._home, cfg, seed), store, cfg, seed)

    @web.post("/api/next")
    async def next_row(self, body: Asked) -> dict[str, Any]:
        """The row to label now."""
        return self._now(body.annotator, self._desk.take(body.annotator, body.key))

    @web.post("/api/label")
    async def label(self, body: Labelled) -> dict[str, Any]:
        """Keep a label, and say what the judge had said; with the next row."""
        with _as_http():
            item = self._desk.label(body.annotator, body.key, body.label, body.comment)
        self._is_behind = True
        said = {"label": body.label, "judge_verdict": item.judge_verdict}
        return {"saved": said, **self._now(body.annotator, self._desk.take(body.annotator))}

    @web.post("/api/skip")
    async def skip(self, body: Asked) -> dict[str, Any]:
        """Leave a row for later; with the next one."""
        with _as_http():
            self._desk.skip(body.annotator, body.key)
        return self._now(body.annotator, self._desk.take(body.annotator))

    @web.post("/api/undo")
    async def undo(self, body: Asked) -> dict[str, Any]:
        """Take the last label back; with its row, or, where there is none, the one in hand."""
        with _as_http():
            key = self._desk.undo(body.annotator, body.key)
        self._is_behind = True
        return {
            "undone": key is not None,
            **self._now(body.annotator, key or self._desk.take(body.annotator, body.key)),
        }

    @web.post("/api/draft")
    async def draft(self, body: Drafted) -> dict[str, Any]:
        """Keep a comment that is being written, and the row for who writes it."""
        with _as_http():
            self._desk.draft(body.annotator, body.key, body.comment)
        return {"kept": True}

    @web.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    def _now(self, annotator: str, key: str | None) -> dict[str, Any]:
        if self._is_behind and (self._following is None or self._following.done()):
            self._following = asyncio.create_task(self._figures_follow())
        return {
            "row": None if key is None else self._desk.shown(annotator, key),
            "progress": self._desk.progress(annotator),
        }

    async def _figures_follow(self) -> None:
        """Bring summary.json up to date, beside the desk's own work."""
        while self._is_behind:
            await asyncio.sleep(FIGURES_EVERY_S)
            self._is_behind = False
            try:
                await asyncio.to_thread(follow, self._home, self._cfg, self._seed)
            except (OSError, ValueError):
                log.exception("the figures do not follow the labels; the next label tries again")

    def __del__(self) -> None:
        if hasattr(self, "_desk"):  # absent where another desk has the labels
            self._lock.__exit__(None, None, None)


def desk(cfg: Annotation, out: str, seed: int, token: str = "") -> Application:
    """The desk of an evaluation in `out`. ValueError where there is nothing to label."""
    if not queue.load(Folder(out) / HOME, cfg, seed):
        raise ValueError(
            f"{out}: there is nothing to label: the judge was uncertain of no answer, and "
            "evaluate.annotation.audit_share draws none"
        )
    limits = Limits(max_body_bytes=MAX_BODY_BYTES, token_digest=digest(token) if token else "")
    deployment = AnnotationDeployment.options(  # type: ignore[attr-defined]
        name="annotation",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=MAX_ONGOING,
    )
    bound: Application = deployment.bind(cfg, out, seed, limits)
    return bound


def build(args: dict[str, str]) -> Application:
    """The annotation page of a recipe's evaluation, at its host and port.

    For `serve run serve.annotate:build recipe=<recipe.yaml> [key=value …]`.
    """
    from ray_jobs import config
    from serve.app import serve_at

    overrides = dict(args)
    file = overrides.pop("recipe", "conf/tiny.yaml")
    recipe = config.load(file, [f"{key}={value}" for key, value in overrides.items()])
    if recipe.evaluate is None:
        raise ValueError(f"{file}: evaluate: missing; the section names what is evaluated")
    cfg = recipe.evaluate.annotation
    token = os.environ.get(cfg.token_env, "")
    if cfg.host not in THIS_MACHINE and not token:
        raise ValueError(
            f"{file}: evaluate.annotation.host: {cfg.host} can be reached from elsewhere, so a "
            f"token is needed: set the environment variable {cfg.token_env} "
            "(evaluate.annotation.token_env), or listen on 127.0.0.1"
        )
    application_ = desk(cfg, recipe.out, recipe.seed, token)
    serve_at(cfg.host, cfg.port)
    return application_
