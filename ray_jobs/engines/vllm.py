"""Kind `vllm`: a real vLLM engine in the actor's process, its core in a child process.

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
from pathlib import Path
from typing import Any, Literal

from ray_jobs.engines.models import check_model, content_hash, is_local
from ray_jobs.engines.seam import (
    NO_EFFECT_ON_ROWS,
    EngineUnusable,
    Placement,
    Reply,
    Request,
)
from ray_jobs.engines.vllm_core import last_line, start
from ray_jobs.outcomes import Quarantined, Refused

DEATHS_ALONE = 2  # once may be a machine's doing; twice, alone in the engine, is the request's


@dataclass(frozen=True, kw_only=True)
class VllmConfig:
    """A pool of vLLM engines."""

    kind: Literal["vllm"] = "vllm"
    model: str
    """A hub id, a folder, or one of the embedded models (garrison/tiny-…)."""
    revision: str = ""
    """The hub's commit. Empty takes the newest, which then is not pinned."""
    tokenizer: str = ""
    """A folder with another tokenizer than the model's; empty for the model's own."""
    plain_text: bool = False
    """For base models: the turns' texts with empty lines between, instead of the chat template."""
    dtype: str = "bfloat16"
    quantization: str = ""
    max_model_len: int = 4096
    """Prompt and answer together, in tokens."""
    tensor_parallel_size: int = 1
    max_num_seqs: int = field(default=64, metadata=NO_EFFECT_ON_ROWS)
    """Requests the engine works on at once."""
    max_num_batched_tokens: int = field(default=8192, metadata=NO_EFFECT_ON_ROWS)
    """Tokens of one engine step. Prompt log-probabilities need memory for this many × vocabulary.
    """
    gpu_memory_utilization: float = field(default=0.9, metadata=NO_EFFECT_ON_ROWS)
    """Share of the card that weights and KV cache may fill."""
    cpu_kv_cache_gib: int = field(default=1, metadata=NO_EFFECT_ON_ROWS)
    """KV cache where there is no GPU."""
    enforce_eager: bool = field(default=False, metadata=NO_EFFECT_ON_ROWS)
    """No CUDA graphs: starts faster, runs slower."""
    placement: Placement = field(default_factory=Placement)

    @property
    def title(self) -> str:
        """Kind and model, as rows and manifests name the engine."""
        return f"vllm:{Path(self.model).name if is_local(self.model) else self.model}"

    @property
    def in_flight(self) -> int:
        """Twice what the engine works on: as one finishes, the next is already tokenised and
        queued in the core.
        """
        return 2 * self.max_num_seqs

    @property
    def constrains(self) -> bool:
        """vLLM decodes under any constraint."""
        return True

    def identity(self) -> dict[str, Any]:
        """Model and revision, or the content of a local folder; precision and length, which change
        what is said.
        """
        which, tokenizer = f"{self.model}@{self.revision}", self.tokenizer
        if is_local(self.model):  # where a folder lies decides nothing
            which = self.revision or content_hash(Path(self.model).expanduser())
            tokenizer = "" if self.revision or not tokenizer else content_hash(Path(tokenizer))
        return {
            "model": which,
            "tokenizer": tokenizer,
            "plain_text": self.plain_text,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "max_model_len": self.max_model_len,
        }

    def check(self, name: str) -> None:
        """Refuse a model folder that is none, and GPUs that do not fit the tensor parallelism."""
        check_model(self.model, f"engines.{name}.model")
        if self.placement.gpus and self.placement.gpus != self.tensor_parallel_size:
            raise ValueError(
                f"engines.{name}.placement.gpus: {self.placement.gpus:g} for tensor_parallel_size "
                f"{self.tensor_parallel_size}; give each actor exactly as many GPUs"
            )

    def open(self) -> VllmEngine:
        """Start the engine in this process. EngineUnusable, in one line, where it cannot run."""
        return VllmEngine(self)


@dataclass(kw_only=True)
class _Job:
    request: Request
    tokens: list[int]
    params: Any
    future: Future[Reply]
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
        self._tokenizer_lock = threading.Lock()
        self._known_tokens: dict[tuple[str, ...], dict[int, str]] = {}
        self._engine = start(cfg)
        self._tokenizer = self._engine.get_tokenizer()
        self._thread = threading.Thread(target=self._work, name="vllm", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Future[Reply]:
        """Ask. See the seam for what the future may raise."""
        future: Future[Reply] = Future()
        tokens, limit = self._tokenise(request), self.cfg.max_model_len
        if len(tokens) >= limit:
            future.set_exception(
                Refused(f"prompt of {len(tokens)} tokens, max_model_len is {limit}")
            )
            return future
        params = self._params(request)
        self._inbox.put(_Job(request=request, tokens=tokens, params=params, future=future))
        if self._gone:
            self._give_up()
        return future

    def close(self) -> None:
        """Stop the engine and its child process."""
        self._inbox.put(None)
        self._thread.join(timeout=30)
        self._engine.engine_core.shutdown()

    def _tokenise(self, request: Request) -> list[int]:
        with self._tokenizer_lock:  # the tokenizer's truncation state is not safe among threads
            if request.perplexity:
                return list(self._tokenizer.encode(request.chat[0]["content"]))
            if self.cfg.plain_text:
                text = "\n\n".join(turn["content"] for turn in request.chat)
                return list(self._tokenizer.encode(text))
            text = self._tokenizer.apply_chat_template(
                request.chat, tokenize=False, add_generation_prompt=True
            )
            return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _work(self) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        while True:
            try:
                if not self._admit():
                    return
                outputs = self._engine.step()
            except EngineDeadError:
                self._recover()
                continue
            for output in outputs:
                if output.finished:
                    job = self._held.pop(output.request_id)
                    job.future.set_result(self._reply(job.request, output))

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
        if job.deaths == 0 and not job.future.set_running_or_notify_cancel():
            return  # whoever asked no longer waits
        request_id = str(next(self._ids))
        self._held[request_id] = job
        try:
            self._engine.add_request(request_id, {"prompt_token_ids": job.tokens}, job.params)
        except ValueError as error:  # vLLM refuses the request itself
            del self._held[request_id]
            job.future.set_exception(Refused(f"vLLM: {last_line(error)}"))

    def _params(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        if request.perplexity:
            return SamplingParams(
                max_tokens=1, temperature=0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
            )
        constraint, sampling = request.constraint, request.sampling
        structured = (
            None
            if constraint is None
            else StructuredOutputsParams(
                choice=list(constraint.choices) or None,
                regex=constraint.regex or None,
                json=constraint.json_schema or None,
            )
        )
        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=request.seed,
            structured_outputs=structured,
            logprob_token_ids=list(self._token_ids(request.logprobs_of)) or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
            stop=list(request.stop) or None,
            detokenize=bool(request.stop),  # else decoded once, at the end
        )

    def _token_ids(self, texts: tuple[str, ...]) -> dict[int, str]:
        """Those of the texts that are a single token, by its id."""
        if texts not in self._known_tokens:
            with self._tokenizer_lock:
                encoded = [
                    (self._tokenizer.encode(text, add_special_tokens=False), text) for text in texts
                ]
            known = {int(tokens[0]): text for tokens, text in encoded if len(tokens) == 1}
            self._known_tokens[texts] = known
        return self._known_tokens[texts]

    def _reply(self, request: Request, output: Any) -> Reply:
        answer = output.outputs[0]
        if request.perplexity:
            found = output.prompt_logprobs
            # The first token has no predecessor, so it is not scored.
            sums = [found.logprobs[start] for start in found.start_indices[1:]]
            return Reply(
                text="",
                prompt_tokens=len(output.prompt_token_ids),
                output_tokens=0,
                finish_reason="stop",
                logprob_sum=float(sum(sums)),
                token_count=len(sums),
            )
        tokens = answer.token_ids
        with self._tokenizer_lock:
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
            spelled = (
                tuple(self._tokenizer.decode([token]) for token in tokens)
                if request.logprobs_of
                else ()
            )
        return Reply(
            text=answer.text if request.stop else text,
            prompt_tokens=len(output.prompt_token_ids),
            output_tokens=len(tokens),
            finish_reason=str(answer.finish_reason),
            tokens=spelled,
            logprobs=self._logprobs(request, answer),
        )

    def _logprobs(self, request: Request, answer: Any) -> tuple[dict[str, float], ...]:
        if not request.logprobs_of:
            return ()
        wanted = self._token_ids(request.logprobs_of)
        return tuple(
            {wanted[token]: entry.logprob for token, entry in position.items() if token in wanted}
            for position in answer.logprobs
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
            half = (len(jobs) + 1) // 2
            self._suspects.extendleft(group for group in (jobs[half:], jobs[:half]) if group)
        self._engine.engine_core.shutdown()
        try:
            self._engine = start(self.cfg)
        except EngineUnusable as error:
            self._gone = error
            self._give_up()
            raise

    def _give_up(self) -> None:
        waiting = [job for group in self._suspects for job in group]
        self._suspects.clear()
        while not self._inbox.empty():
            if (job := self._inbox.get()) is not None:
                waiting.append(job)
        for job in waiting:
            job.future.set_exception(self._gone)
