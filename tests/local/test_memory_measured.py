"""The memory model beside what PyTorch's allocator reports of our own training loop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from benchmarks.memory import cases, measured, shape
from ray_jobs.engines.shapes import Shape
from ray_jobs.prompts import CONF
from ray_jobs.training.memory import predict
from ray_jobs.training.settings import Offload, Precision, Train
from tests.local.train_cases import make_base

CASES = list(cases())
SMALL = Train(pack_tokens=256, loss_chunk_tokens=64, cutoff=64)


def _measured(one: Shape, cfg: Train) -> int:
    # The widest moment comes with the second pack of the first step: all state is there by then.
    return measured(one, cfg, num_steps=1)


def _beside(one: Shape, cfg: Train, found: int) -> float:
    """How far the prediction is off what was found."""
    need = predict(one, cfg, on_gpu=False)
    print(f"{need.peak / 2**20:.1f} of {found / 2**20:.1f} MiB, at {need.moment}")
    return need.peak / found - 1


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More would only wait for one another: the models are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("one", "cfg"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_three_sizes_take_what_was_predicted_within_5_percent(one: Shape, cfg: Train) -> None:
    assert abs(_beside(one, cfg, _measured(one, cfg))) < 0.05


def test_the_sizes_are_widest_at_different_moments() -> None:
    assert len({predict(one, cfg, on_gpu=False).moment for _, one, cfg in CASES}) >= 3


def _be_the_worker(store: str) -> None:
    """DeepSpeed's process group of one."""
    # DeepSpeed asks for these even where the group is there.
    os.environ.update({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """A process of its own: DeepSpeed never forgets a process group that it has seen."""
    store = f"file://{tmp_path_factory.mktemp('group')}/store"
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=_be_the_worker, initargs=(store,)
    ) as executor:
        yield executor


def _own_bytes() -> int:
    """Of this process's memory what lies in no file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    told = next(line.split() for line in lines if line.startswith("RssAnon:"))
    return int(told[1]) << 10


def _loaded(folder: str) -> tuple[int, int]:
    """Bytes of a model's weights, and what they took of this process's own memory when read."""
    from transformers.models.llama import modeling_llama  # noqa: F401  else it is loaded with them

    from ray_jobs.training.models import load_model

    before = _own_bytes()
    model = load_model(folder)
    assert sum(float(one.sum()) for one in model.parameters()), "nothing was read"
    return sum(one.nbytes for one in model.parameters()), _own_bytes() - before


def test_a_model_that_is_loaded_lies_in_its_files_pages(tmp_path: Path, worker: Executor) -> None:
    folder = make_base(tmp_path, width=512, layers=6)
    weights, taken = worker.submit(_loaded, str(folder)).result()
    print(f"{weights / 2**20:.0f} MiB of weights, {taken / 2**20:.0f} MiB of memory")
    assert taken < weights / 4


@pytest.mark.parametrize(
    ("stage", "accumulated", "offload"),
    [
        (1, "fp32", "none"),
        (1, "bf16", "optimizer"),
        (2, "fp32", "none"),
        (2, "bf16", "none"),
        (2, "fp32", "optimizer"),
        (3, "fp32", "none"),
        (3, "bf16", "optimizer"),
    ],
)
def test_deepspeed_takes_what_was_predicted_within_15_percent(
    stage: int, accumulated: Precision, offload: Offload, tmp_path: Path, worker: Executor
) -> None:
    cfg = replace(SMALL, zero_stage=stage, grad_accum_dtype=accumulated, offload=offload)
    file = CONF / "deepspeed" / f"{cfg.deepspeed_name}.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    # Buckets that are small beside a small model, as the file's are beside a large one.
    settings["zero_optimization"]["reduce_bucket_size"] = 200_000
    (tmp_path / "small.json").write_text(json.dumps(settings), encoding="utf-8")
    cfg = replace(cfg, deepspeed=str(tmp_path / "small.json"))
    one = shape(256, 4, 2000)
    assert abs(_beside(one, cfg, worker.submit(_measured, one, cfg).result())) < 0.15
