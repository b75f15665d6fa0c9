"""The judge as an application: served alone by `serve run serve.app:build`, or up for a job.

Serve has one set of HTTP options per cluster, fixed when it starts. A job starts it without a port,
since two jobs on a machine would fight over it; their judges are reached through handles.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.session import connect
from ray_jobs.engines.judge import JudgeConfig
from ray_jobs.engines.seam import EngineUnusable

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
    if cfg.backend.model in tiny.NAMES:
        tiny.ensure(cfg.backend.model, config.cache(), log.info)
    cfg = replace(cfg, backend=config.placed(cfg.backend))
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
    ray_serve.start(proxy_location="HeadOnly", http_options={"host": cfg.host, "port": cfg.port})
    return application(cfg)


def application(cfg: JudgeConfig) -> Application:
    """The judge's deployment with its replicas' place and limits."""
    from serve import judge

    placement = cfg.backend.placement
    deployment: Deployment = judge.JudgeDeployment.options(  # type: ignore[attr-defined]
        name="judge",
        num_replicas=placement.min_actors,
        ray_actor_options={"num_cpus": placement.cpus, "num_gpus": placement.gpus},
        max_ongoing_requests=cfg.max_ongoing_requests,
        max_constructor_retry_count=STARTS,
        # An engine that rebuilds its core, or tokenises long texts, is busy and not ill.
        health_check_timeout_s=120,
        graceful_shutdown_timeout_s=10,
    )
    app: Application = deployment.bind(cfg)
    return app


def up(cfg: JudgeConfig) -> bool:
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
        ray_serve.run_many(
            [ray_serve.RunTarget(target=application(cfg), name=cfg.app_name, route_prefix=None)],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
    _wait_until_ready(cfg, deadline)
    return not shared


def down(cfg: JudgeConfig) -> None:
    """Take the judge away. Only for whom `up` said True."""
    from ray import serve as ray_serve

    ray_serve.delete(cfg.app_name)


def _wait_until_ready(cfg: JudgeConfig, deadline: float) -> None:
    from ray.serve.schema import ApplicationStatus

    log.info("waiting for the judge %s (%s)", cfg.app_name, cfg.backend.title)
    dead = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
    while (status := _status(cfg)) is None or status.status != ApplicationStatus.RUNNING:
        if status is not None and status.status in dead:
            raise EngineUnusable(f"the judge ({cfg.backend.title}) did not start: {_why(status)}")
        _pause(cfg, deadline)


def _pause(cfg: JudgeConfig, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise EngineUnusable(
            f"the judge ({cfg.backend.title}) is not up after {cfg.ready_deadline_s:g} s "
            "(judge.ready_deadline_s): does the cluster have the CPUs and GPUs of its placement?"
        )
    time.sleep(POLL_S)


def _status(cfg: JudgeConfig) -> ApplicationStatusOverview | None:
    from ray import serve as ray_serve

    found: ApplicationStatusOverview | None = ray_serve.status().applications.get(cfg.app_name)
    return found


def _why(status: ApplicationStatusOverview) -> str:
    """The engine's own line out of the replica's traceback, or the last line there is."""
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    mark = f"{EngineUnusable.__name__}: "
    engine = [line.split(mark, 1)[-1] for line in lines if mark in line]
    return (engine or lines or ["no reason given"])[-1]
