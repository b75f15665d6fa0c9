"""The recipe's section `judge`: who scores, who takes over, and how it is served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from ray_jobs import guards
from ray_jobs.anchors import AnchorsConfig
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS, EngineConfig
from ray_jobs.prompts import fingerprint

VERSION = 2
"""Of how the judge asks and reads (serve/rubric.py, verdicts.py): what changes scores raises it."""
PROMPTS = ("score_prompt", "score_responses", "verdict", "verdict_explained")
THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The judge: who scores, and where it listens when it is served alone."""

    # The recipe names engines; the config loader puts their configs here. (Typed Any because a
    # section's type must be one that the YAML reader knows.)
    backend: Any
    """Who answers the rubric. Its placement is the replicas': they grow from min to max_actors."""
    fallback: Any = None
    """A model of one's own that takes over what the backend's provider refuses. None: such items
    are `blocked`."""
    guard: Any = None
    """A guard model that gives a second opinion with every verdict. None: there is none."""
    guard_grammar: str = ""
    """How the guard is asked and read: a name in conf/guards.yaml."""
    names: Any = field(default_factory=dict, metadata=NO_EFFECT_ON_ROWS)
    """What the recipe calls backend, fallback and guard, filled in from it: for messages."""
    host: str = field(default="127.0.0.1", metadata=NO_EFFECT_ON_ROWS)
    """Where `serve run serve.app:build` listens. Elsewhere than on this machine it asks for the
    token."""
    port: int = field(default=8000, metadata=NO_EFFECT_ON_ROWS)
    """Port of `serve run serve.app:build`. Jobs use no port."""
    token_env: str = field(default="GARRISON_JUDGE_TOKEN", metadata=NO_EFFECT_ON_ROWS)
    """The environment variable that holds the bearer token; where it is set, it is asked for."""
    max_ongoing_requests: int = field(default=256, metadata=NO_EFFECT_ON_ROWS)
    """Requests that one replica works on at once."""
    max_queued_requests: int = field(default=1024, metadata=NO_EFFECT_ON_ROWS)
    """Requests that wait for a replica; the next is told 429 and when to come again."""
    retry_after_s: float = field(default=2.0, metadata=NO_EFFECT_ON_ROWS)
    """When."""
    target_ongoing_requests: int = field(default=0, metadata=NO_EFFECT_ON_ROWS)
    """Requests per replica above which another is started. 0: half of what fills its engine, as an
    item is asked in two orders."""
    upscale_delay_s: float = field(default=15.0, metadata=NO_EFFECT_ON_ROWS)
    """How long the load must last before another replica starts."""
    downscale_delay_s: float = field(default=120.0, metadata=NO_EFFECT_ON_ROWS)
    """How long it must be away before one stops; well above an engine's start."""
    drain_s: float = field(default=120.0, metadata=NO_EFFECT_ON_ROWS)
    """How long a replica that is stopped may finish what it is asked."""
    max_body_mib: float = field(default=16.0, metadata=NO_EFFECT_ON_ROWS)
    """Longer bodies are refused before they are read whole."""
    ready_deadline_s: float = field(default=1200.0, metadata=NO_EFFECT_ON_ROWS)
    """A judge that is not up by then ends the job with the reason."""
    cache: bool = field(default=False, metadata=NO_EFFECT_ON_ROWS)
    """Keep the backend's replies under GARRISON_CACHE: the same question costs nothing again."""
    log_texts: bool = field(default=False, metadata=NO_EFFECT_ON_ROWS)
    """Write what is judged, and what the judge says, to the replicas' log. They may be harmful."""
    num_repeats: int = field(default=3, metadata=NO_EFFECT_ON_ROWS)
    """How often an audited item is drawn again, to see whether the judge agrees with itself."""
    anchors: AnchorsConfig = field(default_factory=AnchorsConfig)

    def __post_init__(self) -> None:
        for name in ("max_ongoing_requests", "max_queued_requests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("max_body_mib", "retry_after_s", "ready_deadline_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, found {getattr(self, name):g}")
        for name in (
            "target_ongoing_requests",
            "upscale_delay_s",
            "downscale_delay_s",
            "drain_s",
            "num_repeats",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name):g}")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port: expected 1…65535, found {self.port}")
        if not self.host:
            raise ValueError("host: expected an address, such as 127.0.0.1, found nothing")
        if not self.token_env.isidentifier():
            raise ValueError(
                "token_env: expected the name of an environment variable; "
                "the token itself does not belong in a recipe"
            )

    @property
    def title(self) -> str:
        """Kind and model of the first backend."""
        return cast("EngineConfig", self.backend).title

    @property
    def is_open(self) -> bool:
        """Whether others than this machine can reach it."""
        return self.host not in THIS_MACHINE

    @property
    def needs_gpus(self) -> bool:
        """Whether it holds a card while it is up."""
        return any(engine.placement.gpus for _, engine in self.engines())

    @cached_property  # the identity reads files
    def app_name(self) -> str:
        """The Serve application's name, made of its identity: jobs with the same judge share it."""
        identity = json.dumps(self.identity(), sort_keys=True)
        return f"judge-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    def engines(self) -> Iterator[tuple[str, EngineConfig]]:
        """The engines there are, by their part: backend, fallback, guard."""
        for part in ("backend", "fallback", "guard"):
            if (engine := getattr(self, part)) is not None:
                yield part, engine

    def identity(self) -> dict[str, Any]:
        """What decides a score: the engines, the rubric's prompts, and how both are used."""
        return {
            **{part: engine.identity() for part, engine in self.engines()},
            "prompts": {name: fingerprint(name) for name in PROMPTS},
            # A score of the fallback is brought to the backend's scale by the anchors.
            **({"anchors": self.anchors.fingerprint()} if self.fallback is not None else {}),
            **({} if self.guard is None else {"grammar": guards.fingerprint(self.guard_grammar)}),
            "version": VERSION,
        }

    def check(self) -> None:
        """Refuse engines, anchors and a guard's grammar that cannot work. ValueError."""
        for part, engine in self.engines():
            engine.check(self.names.get(part, part))
        if self.guard is not None:
            guards.check(self.guard_grammar)
        self.anchors.check()
