"""What workers see of their machine, and how one that lost another is told from one that failed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError
from torch import distributed

from ray_jobs.training.runs import death_among, visible
from ray_jobs.training.settings import Train
from tests.local.conftest import free_port


def _reduce(store: str, rank: int, told: Any) -> None:
    """Add up with a peer, which dies in the middle."""
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    figures = torch.ones(8)
    distributed.all_reduce(figures)
    if rank:
        os._exit(9)
    try:
        while True:
            distributed.all_reduce(figures)
    except Exception as error:  # noqa: BLE001  it is what the test asks about
        told.put(error)


@pytest.fixture
def cut_off(tmp_path: Path) -> Exception:
    """What a worker says whose peer has died."""
    spawned = multiprocessing.get_context("spawn")
    told = spawned.Queue()
    store = f"file://{tmp_path}/store"
    pair = [spawned.Process(target=_reduce, args=(store, rank, told)) for rank in range(2)]
    for one in pair:
        one.start()
    error: Exception = told.get(timeout=60)
    for one in pair:
        one.join()
    return error


def test_a_worker_that_lost_another_is_a_death_and_one_that_failed_is_none(
    cut_off: Exception,
) -> None:
    print(f"{type(cut_off).__name__}: {cut_off}")
    with pytest.raises(distributed.DistNetworkError) as unreachable:
        distributed.TCPStore("127.0.0.1", free_port(), timeout=timedelta(seconds=1))
    assert death_among([cut_off]) is cut_off
    assert death_among([unreachable.value, cut_off]) is unreachable.value
    assert death_among([distributed.DistBackendError("NCCL error: remote process exited")])
    # Where one failed by itself the others miss it too: they would at every start.
    failed = [torch.OutOfMemoryError("CUDA out of memory"), KeyError("labels"), RuntimeError("no")]
    for one in failed:
        assert death_among([one]) is None
        assert death_among([cut_off, one]) is None
    died = ActorDiedError()
    assert death_among([failed[1], died]) is died


def _sees_no_card(_: Mapping[str, Any]) -> None:
    from deepspeed.accelerator import get_accelerator

    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()
    assert get_accelerator().device_name() == "cpu"


def test_workers_that_ask_for_no_card_see_none_and_others_what_ray_gives_them(
    tmp_path: Path, ray_session: None
) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from cluster.session import connect

    connect()
    TorchTrainer(
        _sees_no_card,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            storage_path=str(tmp_path), worker_runtime_env={"env_vars": visible(Train())}
        ),
    ).fit()
    assert not visible(Train(gpus_per_worker=1))
