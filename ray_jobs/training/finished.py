"""The final folder: a model that transformers and vLLM load as it is, with its card.

Made from the last checkpoint, without a card or a process group: it can be made again at any time.
"""

from __future__ import annotations

import re
import shutil
import string
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ray_jobs.prompts import CONF
from ray_jobs.tables import Folder
from ray_jobs.training.checkpoints import Saved
from ray_jobs.training.curve import Point, last_validation, to_svg
from ray_jobs.training.examples import Census
from ray_jobs.training.licences import EMBEDDED, Licence, licence_of
from ray_jobs.training.models import load_model, load_tokenizer
from ray_jobs.training.results import MODEL
from ray_jobs.training.settings import Train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CARD = CONF / "model_card.md"
GENERATION = "generation_config.json"


@dataclass(frozen=True, kw_only=True)
class About:
    """What the card says that weights do not."""

    base: str
    """The base model's title."""
    suffix: str
    """Ends the model's name."""
    data: str
    """Which data it was, in words."""
    census: Census
    num_samples: int
    """That were trained on."""
    num_held_out: int
    """That the loss was measured on beside them."""
    settings: Mapping[str, Any]
    trials: str
    """A table of the trials, if there were any."""


def finish(saved: Saved, cfg: Train, about: About, home: Folder) -> Folder:
    """Write the model of a checkpoint, whole or not at all, and return its folder."""
    where = home / MODEL
    is_local = "://" not in home.uri
    if is_local:
        for left in Path(home.uri).glob(".model.*"):  # by one that was killed here
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(
        prefix=".model.", dir=home.uri if is_local else None, ignore_cleanup_errors=True
    ) as scratch:
        made = Path(scratch) / MODEL
        made.mkdir()
        base = _save(saved, cfg, made)
        _describe(saved.curve(), cfg, about, licence_of(about.base, base, about.suffix), made)
        where.delete()
        if is_local:
            made.replace(where.uri)
        else:
            _upload(made, where)
    return where


def _save(saved: Saved, cfg: Train, to: Path) -> Path:
    """Write weights, tokenizer and generation settings; returns the base model's folder."""
    from safetensors import SafetensorError
    from transformers import GenerationConfig
    from transformers.utils.hub import cached_file

    config = cached_file(cfg.base, "config.json", revision=cfg.revision or None)
    assert config is not None, "the tokenizer has just been loaded from there"
    base = Path(config).parent
    model = trained(saved, cfg)
    if is_told := (base / GENERATION).exists():
        # The base model's file as it is: transformers loads, but does not save, one that it finds
        # fault with, such as a temperature without do_sample.
        model.generation_config = GenerationConfig()
    try:
        model.save_pretrained(to)
    except SafetensorError as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # such as a full disk
            raise OSError(int(found[1]), str(error), str(to)) from error
        raise
    if is_told:
        shutil.copyfile(base / GENERATION, to / GENERATION)
    load_tokenizer(cfg.base, cfg.revision).save_pretrained(to)
    return base


def trained(saved: Saved, cfg: Train) -> PreTrainedModel:
    """The model of a checkpoint: adapters merged, in bf16 where training computed in it."""
    import torch

    from ray_jobs.training.lora import merged, with_adapters

    model: Any = with_adapters(load_model(cfg.base, cfg.revision), cfg.lora)
    dtype = torch.bfloat16 if cfg.precision == "bf16" else torch.float32
    if not cfg.lora.rank:
        model.to(dtype)
    for name, param in model.named_parameters():
        if param.requires_grad:
            param.data = saved.read(f"weight/{name}").to(param.dtype)
    plain: Any = merged(model) if cfg.lora.rank else model
    found: PreTrainedModel = plain.to(dtype)
    return found


def _describe(curve: Sequence[Point], cfg: Train, about: About, licence: Licence, to: Path) -> None:
    """Write the card, the curve, and what the licence asks for."""
    (to / "README.md").write_text(card(curve, cfg, about, licence), encoding="utf-8")
    (to / "curve.svg").write_bytes(to_svg(curve, licence.name))
    for file in licence.files:
        shutil.copyfile(file, to / file.name)
    if licence.notice:
        (to / "NOTICE").write_text(licence.notice, encoding="utf-8")


def card(curve: Sequence[Point], cfg: Train, about: About, licence: Licence) -> str:
    """README.md of the model."""
    census, validation = about.census, last_validation(curve)
    is_on_a_hub = "/" in about.base and not about.base.startswith(EMBEDDED)
    header = {
        **licence.header,
        **({"base_model": about.base} if is_on_a_hub else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["safety", "alignment"],
    }
    text = string.Template(CARD.read_text(encoding="utf-8")).substitute(
        title=licence.name,
        base=about.base,
        built_with="\n**Built with Llama.**\n" if licence.notice else "",
        data=about.data,
        num_samples=f"{about.num_samples:,}",
        num_held_out=f"{about.num_held_out:,}",
        num_rows=f"{census.num_rows:,}",
        num_tokens=f"{census.num_tokens:,}",
        num_targets=f"{census.num_targets:,}",
        left_out=_listed(f"{reason} {num:,}" for reason, num in census.reasons.items()),
        num_prompts_cut=f"{census.num_prompts_cut:,}",
        num_answers_cut=f"{census.num_answers_cut:,}",
        num_steps=f"{len(curve):,}",
        batch_size=cfg.batch_size,
        loss=f"{curve[0].loss:.3f} at the first step, {curve[-1].loss:.3f} at the last",
        validation="not measured" if validation is None else f"{validation:.3f} after the last",
        dtype=cfg.precision,
        settings=yaml.safe_dump(dict(about.settings), allow_unicode=True, sort_keys=False),
        trials=about.trials,
        duties=licence.duties,
    )
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{text}"


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(parts) or "nothing"


def _upload(folder: Path, to: Folder) -> None:
    for file in sorted(folder.iterdir()):
        with to.open_write(file.name) as sink, file.open("rb") as source:
            shutil.copyfileobj(source, sink, 1 << 24)
