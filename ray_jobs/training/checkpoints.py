"""Checkpoints that any number of workers can go on from: each worker writes its part, once.

`checkpoints/<step>-<attempt>/` holds parts, the curve so far and, last, `manifest.json`: what a
worker that dies or a full disk leaves behind has none, and is no checkpoint. Tensors are whole and
go by their names, so that another number of workers, plain PyTorch or DeepSpeed can take them over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ray_jobs.files import open_binary
from ray_jobs.steps import JobFailed
from ray_jobs.tables import Folder
from ray_jobs.training.curve import Point, from_tsv, to_tsv
from ray_jobs.training.settings import Checkpoints

MANIFEST = "manifest.json"
CURVE = "curve.tsv"
PARTS_DEADLINE_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One whole checkpoint."""

    folder: Folder
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.manifest["step"])

    @property
    def validation_loss(self) -> float | None:
        """After this very step; None where it was not measured then."""
        loss: float | None = self.manifest["validation_loss"]
        return loss

    def read(self, name: str) -> Tensor:
        """A tensor by the name that Driver.state gave it."""
        assert name in self.manifest["tensors"], f"{self.folder.uri} has no tensor {name}"
        told = self.manifest["tensors"][name]
        with open_binary(f"{self.folder.uri}/{told['part']}", seekable=True) as stream:
            stream.seek(told["offset"])
            data = bytearray(stream.read(told["num_bytes"]))
        assert len(data) == told["num_bytes"], f"{self.folder.uri}/{told['part']} was cut"
        dtype = getattr(torch, told["dtype"])
        if not data:
            return torch.empty(told["shape"], dtype=dtype)
        return torch.frombuffer(data, dtype=dtype).reshape(told["shape"])

    def curve(self) -> list[Point]:
        """All steps up to this one."""
        data = self.folder.read(CURVE)
        assert data is not None, f"{self.folder.uri} has no {CURVE}"
        return from_tsv(data)


def published(home: Folder) -> list[Saved]:
    """The whole checkpoints in a folder, the oldest first."""
    found = []
    for name in home.names():
        told = (home / name).read_json(MANIFEST)
        if told is not None:
            found.append(Saved(folder=home / name, manifest=told))
    return sorted(found, key=lambda saved: saved.step)


def latest(home: Folder, about: Mapping[str, str]) -> Saved | None:
    """The newest checkpoint, if any. ValueError where it is not of `about`: another model's."""
    found = published(home)
    if not found:
        return None
    theirs = found[-1].manifest["about"]
    for name, ours in about.items():
        if theirs.get(name) != ours:
            raise ValueError(
                f"{found[-1].folder.uri}: a checkpoint of another {name} ({theirs.get(name)}, "
                f"expected {ours}); move it away, or give another out="
            )
    return found[-1]


def remove_unfinished(home: Folder) -> None:
    """Remove what has no manifest. Nobody may be saving meanwhile."""
    for name in home.names():
        if MANIFEST not in (home / name).names():
            (home / name).delete()


def prune(home: Folder, cfg: Checkpoints) -> None:
    """Remove all but the newest ones and the best."""
    found = published(home)
    kept = {saved.folder for saved in found[-cfg.keep_last :]}
    measured = [saved for saved in found if saved.validation_loss is not None]
    if cfg.keep_best and measured:
        kept.add(min(measured, key=lambda saved: saved.validation_loss or 0.0).folder)
    for saved in found:
        if saved.folder not in kept:
            saved.folder.remove(MANIFEST)  # first: half of one is none
            saved.folder.delete()


@dataclass(kw_only=True)
class Writer:
    """One worker's side of saving. In the background where its part fits into `spare_bytes` of
    memory: the tensors are copied, and written while training goes on; the next save waits.
    """

    home: Folder
    about: Mapping[str, str]
    """What the state belongs to, such as its model."""
    cfg: Checkpoints
    attempt: str
    """A name that no earlier start of this run had, the same on every worker."""
    rank: int = 0
    world_size: int = 1
    spare_bytes: float = 0.0
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "checkpoint"), init=False
    )
    _pending: Future[None] | None = field(default=None, init=False)

    def save(self, state: Iterable[tuple[str, Tensor]], curve: list[Point]) -> None:
        """Save the state after the last step of `curve`. Every worker runs through all of `state`,
        and keeps its share. JobFailed where an earlier one could not be written, or this one.
        """
        self.wait()
        curve = list(curve)
        folder = self.home / f"{curve[-1].step:08d}-{self.attempt}"
        mine = self._mine(state)
        held: list[tuple[str, Tensor]] = []
        num_bytes = 0
        for name, tensor in mine:
            held.append((name, tensor.clone()))
            num_bytes += tensor.nbytes
            if num_bytes > self.spare_bytes:
                # Too much to hold: these are written, then the rest as they come.
                with self._telling():
                    self._write(folder, chain(held, mine), curve)
                return
        self._pending = self._pool.submit(self._write, folder, held, curve)

    def check(self) -> None:
        """JobFailed where saving in the background went wrong."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until what was saved is written. JobFailed where it cannot be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self._telling():
                pending.result()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JobFailed(
                f"train: a checkpoint could not be written to {self.home.uri} ({error}); those "
                "before are whole. Make room there, then the same command goes on"
            ) from error

    def _mine(self, state: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """This worker's share: each tensor goes to the one that has least so far."""
        loads = [0] * self.world_size
        for name, tensor in state:
            rank = loads.index(min(loads))
            loads[rank] += tensor.nbytes
            if rank == self.rank:
                yield name, tensor

    def _write(
        self, folder: Folder, tensors: Iterable[tuple[str, Tensor]], curve: list[Point]
    ) -> None:
        _write_part(folder, self.rank, tensors)
        if self.rank == 0:
            self._publish(folder, curve)

    def _publish(self, folder: Folder, curve: list[Point]) -> None:
        """Put the manifest beside the parts once all are there, and remove what is too old."""
        tensors: dict[str, Any] = {}
        deadline = time.monotonic() + PARTS_DEADLINE_S
        for rank in range(self.world_size):
            while (data := folder.read(_index(rank))) is None:
                if time.monotonic() > deadline:
                    raise JobFailed(f"train: {folder.uri}: part {rank} of a checkpoint never came")
                time.sleep(0.05)
            tensors |= json.loads(data)
        folder.write(CURVE, to_tsv(curve))
        manifest = {
            "step": curve[-1].step,
            "validation_loss": curve[-1].validation_loss,
            "about": dict(self.about),
            "num_workers": self.world_size,
            "tensors": tensors,
        }
        folder.write(MANIFEST, json.dumps(manifest).encode())
        prune(self.home, self.cfg)


def _write_part(folder: Folder, rank: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """A worker's tensors, one after another, then the index that says where each lies."""
    part, offset = f"part-{rank:05d}.bin", 0
    index: dict[str, Any] = {}
    with folder.open_write(part) as stream:
        for name, tensor in tensors:
            data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
            stream.write(data.data)
            index[name] = {
                "part": part,
                "offset": offset,
                "num_bytes": len(data),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
            }
            offset += len(data)
    folder.write(_index(rank), json.dumps(index).encode())


def _index(rank: int) -> str:
    return f"part-{rank:05d}.json"
