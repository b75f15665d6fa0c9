"""vLLM's core, the child process that holds the model: its arguments, its start with a deadline,
the watch over it, and what it is asked in its own words.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.engines.models import is_local, weight_bytes
from ray_jobs.engines.seam import EngineUnusable, Request
from ray_jobs.engines.vllm_early import EarlyCore, replaces_a_worker

if TYPE_CHECKING:
    from ray_jobs.engines.vllm import VllmConfig

GIB = 1 << 30
_lending = threading.Lock()
_ADVICE = (
    "; if memory is short, lower max_model_len, max_num_seqs or gpu_memory_utilization, "
    "or take a smaller model"
)


def start(cfg: VllmConfig) -> Any:
    """A running LLMEngine, or EngineUnusable: at the deadline, or with vLLM's last words."""
    outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def build() -> None:
        try:
            outcome.put((_build(cfg), None))
        except BaseException as error:  # noqa: BLE001  it is handed to the waiting thread, which raises it
            outcome.put((None, error))

    threading.Thread(target=build, name="vllm-start", daemon=True).start()
    try:
        engine, error = outcome.get(timeout=cfg.placement.start_deadline_s)
    except queue.Empty:
        raise EngineUnusable(
            f"vLLM engine for {cfg.model}: not up after {cfg.placement.start_deadline_s:g} s "
            "(placement.start_deadline_s)"
        ) from None
    if error is not None:
        raise EngineUnusable(
            f"vLLM engine for {cfg.model} did not start: {last_line(error)}{_ADVICE}"
        ) from error
    return engine


def _build(cfg: VllmConfig) -> Any:
    set_environment(cfg)
    if replaces_a_worker() and cfg.tensor_parallel_size == 1:
        with EarlyCore() as core:
            engine = _llm_engine(cfg, core)
    else:
        engine = _llm_engine(cfg, None)
    threading.Thread(
        target=_report_death, args=(engine.engine_core,), name="vllm-watch", daemon=True
    ).start()
    return engine


def _llm_engine(cfg: VllmConfig, core: EarlyCore | None) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    _check_memory(cfg, current_platform)
    if core is None:
        args = EngineArgs(**engine_args(cfg))
        return LLMEngine.from_engine_args(args, enable_multiprocessing=True)
    # As a class: named "uni", the CPU platform would replace it by worker processes.
    args = EngineArgs(**engine_args(cfg), distributed_executor_backend=UniProcExecutor)
    with _lent(core):
        return LLMEngine.from_engine_args(args, enable_multiprocessing=True)


@contextmanager
def _lent(core: EarlyCore) -> Iterator[None]:
    """Within, vLLM takes this process for the one it would make. It has no option for that."""
    from vllm.v1.engine import utils as theirs_all

    utils: Any = theirs_all  # it exports no types for what is lent

    with _lending:
        theirs = utils.get_mp_context
        utils.get_mp_context = lambda: core
        try:
            yield
        finally:
            utils.get_mp_context = theirs


def _report_death(core: Any) -> None:
    # vLLM 0.29's synchronous client waits for ever for the outputs of a core that was killed.
    from vllm.v1.engine.exceptions import EngineDeadError

    multiprocessing.connection.wait(
        [process.sentinel for process in core.resources.engine_manager.processes]
    )
    core.outputs_queue.put(EngineDeadError())


def engine_args(cfg: VllmConfig) -> dict[str, Any]:
    """The arguments of the vLLM engine: the same for our pool, the judge, and the raw engine of
    the benchmarks.
    """
    return {
        "model": str(Path(cfg.model).expanduser()) if is_local(cfg.model) else cfg.model,
        "tokenizer": cfg.tokenizer or None,
        "revision": cfg.revision if cfg.revision and not is_local(cfg.model) else None,
        "dtype": cfg.dtype,
        "quantization": cfg.quantization or None,
        "max_model_len": cfg.max_model_len,
        "tensor_parallel_size": cfg.tensor_parallel_size,
        "max_num_seqs": cfg.max_num_seqs,
        "max_num_batched_tokens": cfg.max_num_batched_tokens,
        "gpu_memory_utilization": cfg.gpu_memory_utilization,
        "enforce_eager": cfg.enforce_eager,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
    }


def sampling_params(
    request: Request, wanted: list[int], *, in_pieces: bool = False, in_prompt: bool = False
) -> Any:
    """A request as vLLM takes it. `wanted`: tokens whose log-probabilities are asked for.
    `in_pieces`: text comes while it is written; else once, at the end, which is faster.
    `in_prompt`: log-probabilities of the prompt's tokens are needed too.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    if request.perplexity:
        return SamplingParams(
            max_tokens=1, temperature=0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
        )
    if request.continuations:
        # The last token of each is looked up where one token is generated; what stands before it,
        # the same for all, is part of the prompt.
        return SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0 if in_prompt else None,
            logprob_token_ids=wanted,
            flat_logprobs=True,
            detokenize=False,
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
        min_tokens=request.min_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=request.seed,
        structured_outputs=structured,
        logprob_token_ids=wanted or None,
        output_kind=RequestOutputKind.DELTA if in_pieces else RequestOutputKind.FINAL_ONLY,
        stop=list(request.stop) or None,
        detokenize=in_pieces or bool(request.stop),  # else decoded once, at the end
    )


def set_environment(cfg: VllmConfig) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(cfg.cpu_kv_cache_gib)
    if is_local(cfg.model):
        os.environ["HF_HUB_OFFLINE"] = "1"
    # Ray sets it to the actor's logical CPUs, and the CPU engine would then use one core of the
    # machine.
    os.environ.pop("OMP_NUM_THREADS", None)


def _check_memory(cfg: VllmConfig, platform: Any) -> None:
    # Checked here because vLLM itself can hang when the card is too small.
    import psutil

    weights = weight_bytes(cfg.model) / cfg.tensor_parallel_size
    if platform.is_cpu():
        have, need = psutil.virtual_memory().available, weights + cfg.cpu_kv_cache_gib * GIB
        place = "memory of this machine"
    else:
        have, need = platform.get_device_total_memory() * cfg.gpu_memory_utilization, weights
        place = "share of the GPU"
    if need > have:
        raise MemoryError(
            f"needs {need / GIB:.1f} GiB at the least, the {place} is {have / GIB:.1f} GiB"
        )


def last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
