"""What moves the weights: plain PyTorch or DeepSpeed, behind one small interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from ray_jobs.training.settings import Train

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ray_jobs.training.packing import Pack


class Driver(Protocol):
    """The model, its fp32 master weights and the optimiser of one worker."""

    @property
    def model(self) -> PreTrainedModel:
        """As the caller gave it; with LoRA inside peft's. Under ZeRO 3 its weights are in parts."""

    def add(self, pack: Pack, weight: float, *, is_last: bool) -> Tensor:
        """Add `weight` × the gradient of the pack's summed loss to the step's gradient; returns
        that loss, unweighted, on the model's device. Equally often on every worker.
        """

    def step(self, learning_rate: float) -> float:
        """Sum the gradient over the workers, clip it, update, forget it. Returns its norm before
        clipping; where that is not finite, weights and moments stay as they are.
        """

    def loss(self, pack: Pack) -> Tensor:
        """The pack's summed loss, without a gradient. Equally often on every worker."""

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Every trained tensor, whole, on CPU: `weight/<name>`, then its moments, `exp_avg/<name>`
        and `exp_avg_sq/<name>` (of adamw_8bit: as bitsandbytes keeps them), weights and moments
        in fp32. The same names in the same order on every worker and for any number of them;
        plain PyTorch and DeepSpeed can read one another's. They may be the live ones: copy what is
        to outlast the next step. Collective: every worker must run through all of it.
        """

    def load(self, read: Callable[[str], Tensor], step: int) -> None:
        """Take over what `state` gave after `step` steps, on this or another number of workers;
        `read` gives a tensor by its name, to every worker. Collective.
        """

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The trained weights alone, by the model's own names for them, whole, fp32, on CPU.
        Collective.
        """


def make_driver(model: PreTrainedModel, cfg: Train, *, world_size: int, device: str) -> Driver:
    """The driver that the settings ask for. It takes the model over: weights are moved and cast.

    ValueError where the model cannot be trained here, or a package is missing.
    """
    from ray_jobs.training.objective import Objective

    objective = Objective(model, cfg)
    # DeepSpeed takes seconds to import, and a single card needs none of it.
    if cfg.uses_deepspeed:
        from ray_jobs.training.deepspeed_driver import DeepSpeedDriver

        return DeepSpeedDriver(objective, cfg, world_size=world_size, device=device)
    from ray_jobs.training.torch_driver import TorchDriver

    return TorchDriver(objective, cfg, world_size=world_size, device=device)
