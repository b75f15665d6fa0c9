"""The settings of kind `vllm`: engines of vLLM, each in an actor's process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ray_jobs.engines.models import check_model, content_hash, is_local
from ray_jobs.engines.seam import NO_EFFECT_ON_ROWS, Placement
from ray_jobs.prompts import CHAT_DATE

if TYPE_CHECKING:
    from ray_jobs.engines.vllm_engine import VllmEngine

Dtype = Literal["auto", "half", "float16", "bfloat16", "float", "float32"]


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
    dtype: Dtype = "bfloat16"
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

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model: expected a hub id or a folder, found nothing")
        for name in (
            "max_model_len",
            "tensor_parallel_size",
            "max_num_seqs",
            "max_num_batched_tokens",
            "cpu_kv_cache_gib",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                "gpu_memory_utilization: expected a number in (0, 1], found "
                f"{self.gpu_memory_utilization:g}"
            )

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

    @property
    def outlives_a_step(self) -> bool:
        """Whether it is kept for the next step; not on a GPU, since the judge may need the card."""
        return self.placement.max_actors == 1 and not self.placement.gpus

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
            "date": CHAT_DATE,
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
        from ray_jobs.engines.vllm_engine import VllmEngine

        return VllmEngine(self)
