"""The judge as an application: served alone by `serve run serve.app:build`, or up for a job.

Serve has one set of HTTP options per cluster, fixed when it starts. A job starts it without a port,
since two jobs on a machine would fight over it; their judges are reached through handles.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.session import connect
from ray_jobs.engines.judge import handle
from ray_jobs.engines.seam import EngineConfig, EngineUnusable
from ray_jobs.judge import JudgeConfig

if TYPE_CHECKING:
    from ray.serve import Application, Deployment
    from ray.serve.schema import ApplicationStatusOverview

POLL_S = 0.5
STARTS = 2
"""Of a replica that fails to start: once may be the machine's doing."""

log = logging.getLogger(__name__)


def build(args: dict[str, str]) -> Application:
    """The judge of a recipe, at its host and port.

    For `serve run serve.app:build recipe=<recipe.yaml> [key=value …]`.
    """
    from ray_jobs import config, tiny

    overrides = dict(args)
    recipe = overrides.pop("recipe", "conf/tiny.yaml")
    cfg = config.load(recipe, [f"{key}={value}" for key, value in overrides.items()]).judge
    if cfg is None:
        raise ValueError(f"{recipe}: judge: missing; the section names the judge's backend")
    cfg.check()
    token = os.environ.get(cfg.token_env, "")
    if cfg.is_open and not token:
        raise ValueError(
            f"{recipe}: judge.host: {cfg.host} can be reached from elsewhere, so a bearer token is "
            f"needed: set the environment variable {cfg.token_env} (judge.token_env), or listen on "
            "127.0.0.1"
        )
    for _, engine in cfg.engines():
        if getattr(engine, "model", None) in tiny.NAMES:
            tiny.ensure(engine.model, config.cache(), log.info)  # type: ignore[attr-defined]
    serve_at(cfg.host, cfg.port)
    return application(config.placed_judge(cfg), config.cache(), token)


def serve_at(host: str, port: int) -> None:
    """Start Serve with HTTP there. ValueError where a job's judge runs without a port."""
    connect()
    from ray import serve as ray_serve

    status = ray_serve.status()
    if status.applications and not status.proxies:
        raise ValueError(
            "a job's judge is up on this cluster, and Serve without a port; wait for the job to end"
        )
    if not status.proxies:
        # Left by a job, without a port, and it cannot be given one now.
        ray_serve.shutdown()  # type: ignore[no-untyped-call]
    ray_serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})


def application(cfg: JudgeConfig, cache: Path, token: str = "") -> Application:
    """The judge's deployments with their replicas' places and limits."""
    from serve import judge, web
    from serve.backends import EngineDeployment

    limits = web.Limits(
        max_body_bytes=int(cfg.max_body_mib * (1 << 20)),
        token_digest=web.digest(token) if token else "",
    )
    others = {
        part: _deployed(EngineDeployment, f"{cfg.app_name}-{part}", cfg, engine).bind(engine)
        for part, engine in cfg.engines()
        if part != "backend"
    }
    # Named by what decides its scores: a job finds the judge that it needs, whoever started it.
    deployment = _deployed(judge.JudgeDeployment, cfg.app_name, cfg, cfg.backend)
    app: Application = deployment.bind(cfg, limits, str(cache), **others)
    return app


def _deployed(kind: Any, name: str, cfg: JudgeConfig, engine: EngineConfig) -> Deployment:
    from ray.serve.config import BackpressureConfig

    placement = engine.placement
    scaling: dict[str, Any] = {"num_replicas": placement.min_actors}
    if placement.max_actors > placement.min_actors:
        # Serve's own defaults aim at 2 requests a replica and look half a minute back.
        target = cfg.target_ongoing_requests or max(1, engine.in_flight // 2)
        scaling = {
            "num_replicas": None,
            "autoscaling_config": {
                "min_replicas": placement.min_actors,
                "max_replicas": placement.max_actors,
                "target_ongoing_requests": target,
                "upscale_delay_s": cfg.upscale_delay_s,
                "downscale_delay_s": cfg.downscale_delay_s,
                "look_back_period_s": max(5.0, cfg.upscale_delay_s),
            },
        }
    deployment: Deployment = kind.options(
        name=name,
        **scaling,
        ray_actor_options={"num_cpus": placement.cpus, "num_gpus": placement.gpus},
        max_ongoing_requests=cfg.max_ongoing_requests,
        max_queued_requests=cfg.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=cfg.retry_after_s),
        max_constructor_retry_count=STARTS,
        # An engine that rebuilds its core, or tokenises long texts, is busy and not ill.
        health_check_timeout_s=120,
        graceful_shutdown_timeout_s=cfg.drain_s,
    )
    return deployment


def up(cfg: JudgeConfig, cache: Path) -> bool:
    """Bring the judge up for a job, and wait until it is ready.

    False if it was up, or coming up, by another's hand: then that other takes it down.
    EngineUnusable, in one line, where it is not ready by judge.ready_deadline_s.
    """
    connect()
    from ray import serve as ray_serve
    from ray.serve.schema import ApplicationStatus

    deadline = time.monotonic() + cfg.ready_deadline_s
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # else a job shows Serve's every step
    ray_serve.start(proxy_location="Disabled")
    status = _status(cfg)
    while status is not None and status.status == ApplicationStatus.DELETING:
        _pause(cfg, deadline)
        status = _status(cfg)
    alive = (ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING)
    shared = status is not None and status.status in alive
    if not shared:
        target = ray_serve.RunTarget(
            target=application(cfg, cache), name=cfg.app_name, route_prefix=None
        )
        ray_serve.run_many(
            [target],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
    _wait_until_ready(cfg, deadline)
    return not shared


def trust(cfg: JudgeConfig) -> dict[str, Any] | None:
    """What the running judge's anchors said at its start."""
    found: dict[str, Any] | None = handle(cfg).trust.remote().result(timeout_s=60)
    return found


def down(cfg: JudgeConfig) -> None:
    """Take the judge away. Only for whom `up` said True."""
    from ray import serve as ray_serve

    ray_serve.delete(cfg.app_name)


def _wait_until_ready(cfg: JudgeConfig, deadline: float) -> None:
    from ray.serve.schema import ApplicationStatus

    log.info("waiting for the judge %s (%s)", cfg.app_name, cfg.title)
    dead = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
    while (status := _status(cfg)) is None or status.status != ApplicationStatus.RUNNING:
        if status is not None and status.status in dead:
            raise EngineUnusable(f"the judge ({cfg.title}) did not start: {_why(status)}")
        _pause(cfg, deadline)


def _pause(cfg: JudgeConfig, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise EngineUnusable(
            f"the judge ({cfg.title}) is not up after {cfg.ready_deadline_s:g} s "
            "(judge.ready_deadline_s): does the cluster have the CPUs and GPUs of its placement?"
        )
    time.sleep(POLL_S)


def _status(cfg: JudgeConfig) -> ApplicationStatusOverview | None:
    """Of the application with this judge, whatever its own name is."""
    from ray import serve as ray_serve

    found: dict[str, ApplicationStatusOverview] = ray_serve.status().applications
    named = found.get(cfg.app_name)  # which has no deployments yet while it is being made
    return named or next((app for app in found.values() if cfg.app_name in app.deployments), None)


def _why(status: ApplicationStatusOverview) -> str:
    """The engine's own line out of the replica's traceback, or the last line there is."""
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    mark = f"{EngineUnusable.__name__}: "
    engine = [line.split(mark, 1)[-1] for line in lines if mark in line]
    return (engine or lines or ["no reason given"])[-1]
