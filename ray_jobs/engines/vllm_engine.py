"""A real vLLM engine in the actor's process, its core in a child process.

One thread feeds the engine and steps it; a request is a future. When the core dies, what was in
flight is asked again in halves until the request that kills it is alone, and that one is
quarantined.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ray_jobs.engines.continuing import Branch, continued, together
from ray_jobs.engines.seam import EngineUnusable, Heard, Reply, Request
from ray_jobs.engines.vllm import VllmConfig
from ray_jobs.engines.vllm_core import sampling_params, start
from ray_jobs.engines.vllm_text import Tokens
from ray_jobs.outcomes import Failed, Quarantined, Refused, first_line

DEATHS_ALONE = 2  # once may be a machine's doing; twice, alone in the engine, is the request's


@dataclass(kw_only=True)
class _Job:
    request: Request
    tokens: list[int]
    params: Any
    future: Future[Reply]
    heard: Heard | None = None
    branch: Branch | None = None
    """Of the request's continuations, those that this job scores."""
    pieces: list[str] = field(default_factory=list)
    """The text that was handed over."""
    num_tokens: int = 0
    """What the pieces took."""
    deaths: int = 0
    """Of cores that it was in."""
    deaths_alone: int = 0


class VllmEngine:
    """Answers requests from one vLLM engine."""

    def __init__(self, cfg: VllmConfig) -> None:
        self.cfg = cfg
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._held: dict[str, _Job] = {}
        self._suspects: deque[list[_Job]] = deque()
        self._ids = itertools.count()
        self._gone: EngineUnusable | None = None
        self._engine = start(cfg)
        self._tokens = Tokens(cfg, self._engine.get_tokenizer())
        if problem := self._tokens.template_problem():
            self._engine.engine_core.shutdown()
            raise EngineUnusable(problem)
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Reply]:
        """Ask. See the seam for what the future may raise."""
        return self._score(request) if request.continuations else self._submit(request, None)

    def listen(self, request: Request, heard: Heard) -> Future[Reply]:
        """Ask, and hand each new piece of text over as it comes, from the engine's thread. An
        answer that was heard in part is not asked again when the core dies: it is `failed`.
        """
        assert not request.perplexity, "there is no text to listen to"
        assert not request.continuations, "there is no text to listen to"
        assert not request.logprobs_of, "log-probabilities come with whole answers only"
        return self._submit(request, heard)

    def _submit(self, request: Request, heard: Heard | None) -> Future[Reply]:
        future: Future[Reply] = Future()
        try:
            tokens = self._tokens.encode(request)
        except Refused as refused:
            future.set_exception(refused)
            return future
        wanted = list(self._tokens.single(request.logprobs_of))
        params = sampling_params(request, wanted, in_pieces=heard is not None)
        job = _Job(request=request, tokens=tokens, params=params, future=future, heard=heard)
        return self._put(job)

    def _score(self, request: Request) -> Future[Reply]:
        try:
            branches = self._tokens.branches(request)
        except Refused as refused:
            future: Future[Reply] = Future()
            future.set_exception(refused)
            return future
        jobs = [
            _Job(
                request=request,
                tokens=branch.prompt,
                params=sampling_params(request, branch.wanted, in_prompt=branch.num_scored > 0),
                future=Future(),
                branch=branch,
            )
            for branch in branches
        ]
        return together(branches, [self._put(job) for job in jobs])

    def _put(self, job: _Job) -> Future[Reply]:
        self._inbox.put(job)
        if self._gone:
            self._give_up()
        return job.future

    def close(self) -> None:
        """Stop the engine and its child process."""
        self._inbox.put(None)
        self._thread.join(timeout=30)
        self._engine.engine_core.shutdown()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            # Whoever waits must hear of it, or would wait for ever.
            unusable = EngineUnusable(f"{self.cfg.title}: {type(error).__name__} in its thread")
            self._gone = error if isinstance(error, EngineUnusable) else unusable
            for job in self._held.values():
                job.future.set_exception(self._gone)
            self._give_up()
            raise

    def _work(self) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        while True:
            try:
                if not self._admit():
                    return
                for output in self._engine.step():
                    self._take(output)
            except EngineDeadError:
                self._recover()

    def _take(self, output: Any) -> None:
        job = self._held[output.request_id]
        if job.heard is not None and not self._hand_over(job, job.heard, output):
            return
        if output.finished:
            del self._held[output.request_id]
            job.future.set_result(self._reply(job, output))

    def _hand_over(self, job: _Job, heard: Heard, output: Any) -> bool:
        piece = output.outputs[0]
        job.num_tokens += len(piece.token_ids)
        if piece.text:
            job.pieces.append(piece.text)
            try:
                heard(piece.text)
            except Exception as error:  # noqa: BLE001  it is handed on, and ends this request alone
                del self._held[output.request_id]
                job.future.set_exception(error)
                self._engine.abort_request([output.request_id])
                return False
        return True

    def _admit(self) -> bool:
        """Move waiting jobs into the engine; block while there are none. False at the end."""
        if self._suspects:
            if not self._held:
                for job in self._suspects.popleft():
                    self._add(job)
            return True  # suspects run among themselves, so that a death says something
        while True:
            try:
                next_job = self._inbox.get(block=not self._held)
            except queue.Empty:
                return True
            if next_job is None:
                return False
            self._add(next_job)

    def _add(self, job: _Job) -> None:
        from vllm.exceptions import VLLMClientError

        if job.deaths == 0 and not job.future.set_running_or_notify_cancel():
            return  # whoever asked no longer waits
        request_id = str(next(self._ids))
        self._held[request_id] = job
        try:
            self._engine.add_request(request_id, {"prompt_token_ids": job.tokens}, job.params)
        except (ValueError, VLLMClientError) as error:  # vLLM refuses the request itself
            del self._held[request_id]
            job.future.set_exception(Refused(f"vLLM: {first_line(error)}"))

    def _reply(self, job: _Job, output: Any) -> Reply:
        if job.branch is not None:
            return continued(job.branch, output)
        if job.heard is None:
            return self._tokens.reply(job.request, output)
        return Reply(
            text="".join(job.pieces),
            prompt_tokens=len(output.prompt_token_ids),
            output_tokens=job.num_tokens,
            finish_reason=str(output.outputs[0].finish_reason),
        )

    def _recover(self) -> None:
        """The core died. Start another, and put what was in flight in halves before all else."""
        jobs = list(self._held.values())
        self._held.clear()
        for job in jobs:
            job.deaths += 1
        if len(jobs) == 1:
            jobs[0].deaths_alone += 1
        if len(jobs) == 1 and jobs[0].deaths_alone >= DEATHS_ALONE:
            jobs[0].future.set_exception(
                Quarantined(f"killed its engine {DEATHS_ALONE} times while alone in it")
            )
        else:
            self._ask_again(jobs)
        self._engine.engine_core.shutdown()
        self._engine = start(self.cfg)

    def _ask_again(self, jobs: list[_Job]) -> None:
        again = []
        for job in jobs:
            if job.pieces:  # another answer would not go on where this one stopped
                job.future.set_exception(Failed("the engine died in the middle of the answer"))
            else:
                job.num_tokens = 0
                again.append(job)
        half = (len(again) + 1) // 2
        self._suspects.extendleft(group for group in (again[half:], again[:half]) if group)

    def _give_up(self) -> None:
        waiting = [job for group in self._suspects for job in group]
        self._suspects.clear()
        while not self._inbox.empty():
            if (job := self._inbox.get()) is not None:
                waiting.append(job)
        for job in waiting:
            if not job.future.cancelled():
                job.future.set_exception(self._gone)
