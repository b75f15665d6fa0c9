"""Kind `scripted`: answers from a table, for dry runs and tests. It is no model and stands in for
none.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS, Continued, Placement, Reply, Request
from ray_jobs.outcomes import Failed

Answer: TypeAlias = str | tuple[float, int] | dict[str, float]
"""A text; the sum and number of a prompt's or a continuation's log-probabilities; or those of the
texts, such as letters, that may come first.
"""


@dataclass(frozen=True, kw_only=True)
class ScriptedConfig:
    """A table of answers."""

    kind: Literal["scripted"] = "scripted"
    answers: str
    """A YAML list of {match: regular expression over the chat's text, answer: text}; the first
    that matches answers. A prompt's perplexity is a line {match, logprobs: [sum, count]}, and so
    is a continuation's likelihood (the expression is over both texts; greedy is what has more
    than half of the probability). Where log-probabilities are asked for, a line
    {match, letters: {A: -0.1, …}} answers with the likeliest.
    """
    delay_s: float = field(default=0.0, metadata=NO_EFFECT_ON_ROWS)
    """How long an answer takes."""
    log: str = field(default="", metadata=NO_EFFECT_ON_ROWS)
    """A file that gets one line per request, so that a test can count what was asked."""
    placement: Placement = field(default_factory=lambda: Placement(cpus=0.1))

    @property
    def title(self) -> str:
        """Kind and table, as rows and manifests name the engine."""
        return f"scripted:{Path(self.answers).name}"

    @property
    def in_flight(self) -> int:
        """Requests worth keeping in one engine at once."""
        return 64

    @property
    def constrains(self) -> bool:
        """Its table is written in the form that is asked for."""
        return True

    def identity(self) -> dict[str, Any]:
        """The table's content."""
        return {"answers": hashlib.sha256(Path(self.answers).read_bytes()).hexdigest()[:16]}

    def check(self, name: str) -> None:
        """Refuse a table that is absent or has another form."""
        _read_table(self.answers, f"engines.{name}.answers")

    def open(self) -> ScriptedEngine:
        """Read the table."""
        return ScriptedEngine(self)


class ScriptedEngine:
    """Looks answers up."""

    def __init__(self, cfg: ScriptedConfig) -> None:
        self._cfg = cfg
        self._table = _read_table(cfg.answers, "answers")
        self._threads = ThreadPoolExecutor(cfg.in_flight)
        self._log_lock = threading.Lock()

    def submit(self, request: Request) -> Future[Reply]:
        """Look the answer up; Failed where no line of the table matches."""
        return self._threads.submit(self._answer, request)

    def close(self) -> None:
        """Nothing is held."""
        self._threads.shutdown(cancel_futures=True)

    def _answer(self, request: Request) -> Reply:
        text = "\n".join(turn["content"] for turn in request.chat)
        if self._cfg.log:
            with self._log_lock, Path(self._cfg.log).open("a", encoding="utf-8") as log:
                log.write(hashlib.sha256(text.encode()).hexdigest() + "\n")
        time.sleep(self._cfg.delay_s)
        if request.continuations:
            scored = [self._find(text + more, (tuple,)) for more in request.continuations]
            return _reply(text, "", continued=tuple(map(_continued, scored)))
        if request.perplexity:
            return _reply(text, self._find(text, (tuple,)))
        return _reply(text, self._find(text, (str, dict) if request.logprobs_of else (str,)))

    def _find(self, text: str, kinds: tuple[type, ...]) -> Answer:
        for pattern, answer in self._table:
            if isinstance(answer, kinds) and pattern.search(text):
                return answer
        raise Failed(f"no line of {Path(self._cfg.answers).name} matches")


def _reply(asked: str, answer: Answer, continued: tuple[Continued, ...] = ()) -> Reply:
    letters = answer if isinstance(answer, dict) else {}
    logprob_sum, num = answer if isinstance(answer, tuple) else (None, None)
    text = answer if isinstance(answer, str) else max(letters, key=letters.__getitem__, default="")
    return Reply(
        text=text,
        prompt_tokens=len(asked),
        output_tokens=len(text),
        finish_reason="stop",
        tokens=(text,) if letters else (),
        logprobs=(letters,) if letters else (),
        logprob_sum=logprob_sum,
        token_count=num,
        continued=continued,
    )


def _continued(answer: Answer) -> Continued:
    assert isinstance(answer, tuple)
    logprob_sum, num = answer
    return Continued(
        logprob_sum=logprob_sum, token_count=num, is_greedy=logprob_sum > math.log(0.5)
    )


def _read_table(file: str, where: str) -> list[tuple[re.Pattern[str], Answer]]:
    try:
        lines = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        return [(re.compile(line["match"], re.DOTALL), _answer(line)) for line in lines]
    except FileNotFoundError:
        raise ValueError(f"{where}: there is no file {file}") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, re.error) as error:
        raise ValueError(
            f"{where}: {file}: expected a YAML list of {{match, answer}}, found {error!r}"
        ) from error


def _answer(line: dict[str, Any]) -> Answer:
    if "letters" in line:
        return {str(letter): float(logprob) for letter, logprob in line["letters"].items()}
    if "logprobs" not in line:
        return str(line["answer"])
    logprob_sum, num = line["logprobs"]
    return float(logprob_sum), int(num)
