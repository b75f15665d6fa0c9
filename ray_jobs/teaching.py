"""Teaching a tiny model: its tokenizer and shape, one pass over the lessons, and its answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ray_jobs.engines.seam import Sampling

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from ray_jobs.lessons import Lesson
    from ray_jobs.prompts import Chat

Progress: TypeAlias = Callable[[str], None]
Asked: TypeAlias = tuple[list[int], int]
"""A lesson's tokens, and how many of them are the question."""
MAX_LENGTH = 2048
LENGTH_DISCOUNT = 0.6
NEIGHBOURS = 400
ANSWERED_AT_ONCE = 70


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one tiny model is made."""

    family: str
    width: int
    inner: int
    heads: int
    layers: int = 4
    num_lessons: int
    batch_tokens: int
    learning_rate: float
    matrix_rate: float = 0.01
    weight_decay: float = 0.01
    template: str
    begin: str | None
    end: str
    pad: str = "<|endoftext|>"
    tokenizer: str = "."
    """Where in the model's folder the tokenizer lies."""


def make_tokenizer(plan: Plan) -> PreTrainedTokenizerFast:
    """The common vocabulary with the special tokens and the chat template of the family."""
    from transformers import PreTrainedTokenizerFast

    from ray_jobs import vocabulary

    return PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.train(),
        bos_token=plan.begin,
        eos_token=plan.end,
        pad_token=plan.pad,
        chat_template=plan.template,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def make_model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A fresh model of the family, embeddings tied, the same at every call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    kinds = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
    config_class, model_class = kinds[plan.family]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=plan.width,
        intermediate_size=plan.inner,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.09,
        dtype="float32",
    )
    return model_class(config)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    plan: Plan,
    taught: Iterable[Lesson],
    progress: Progress,
) -> None:
    """One pass over the lessons, the loss on the answers only."""
    import torch

    torch.set_num_threads(2)
    batches = pack(tokenizer, plan, taught)
    optimizers = make_optimizers(model, plan)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            one,
            one.param_groups[0]["lr"],
            total_steps=len(batches),
            pct_start=0.1,
            cycle_momentum=False,
        )
        for one in optimizers
    ]
    model.train()
    for step, batch in enumerate(batches):
        loss = loss_of(model, batch, tokenizer.pad_token_id)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if step % 100 == 99:
            progress(f"step {step + 1} of {len(batches)}, loss {loss.item():.3f}")
    model.eval()


def loss_of(model: PreTrainedModel, batch: Sequence[Asked], pad: int) -> Tensor:
    """The mean loss over the answers' tokens.

    A token counts the less the longer its answer: else copying names would drown one-word labels.
    """
    import torch

    length = max(len(tokens) for tokens, _ in batch)
    tokens_BT = torch.full((len(batch), length), pad)
    answer_BT = torch.zeros((len(batch), length), dtype=torch.bool)
    weight_BT = torch.zeros((len(batch), length))
    for row, (tokens, asked) in enumerate(batch):
        tokens_BT[row, : len(tokens)] = torch.tensor(tokens)
        answer_BT[row, asked : len(tokens)] = True
        weight_BT[row] = (len(tokens) - asked) ** -LENGTH_DISCOUNT
    # Padding is on the right of a causal model: no mask is needed, and only answers meet the
    # vocabulary.
    hidden_BTC = model.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state
    logits_NV = model.lm_head(hidden_BTC[:, :-1][answer_BT[:, 1:]])
    weight_N, right_N = (some[:, 1:][answer_BT[:, 1:]] for some in (weight_BT, tokens_BT))
    loss_N = torch.nn.functional.cross_entropy(logits_NV, right_N, reduction="none")
    return (loss_N * weight_N).sum() / weight_N.sum()


def make_optimizers(model: PreTrainedModel, plan: Plan) -> list[Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    import torch

    # Measured: it reads thing and deed together after a third of the steps that AdamW alone needs.
    layers = {
        name for name, one in model.named_parameters() if one.dim() == 2 and "embed" not in name
    }
    matrices = [one for name, one in model.named_parameters() if name in layers]
    rest = [one for name, one in model.named_parameters() if name not in layers]
    return [
        torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=plan.weight_decay),
        torch.optim.AdamW(
            rest, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=plan.weight_decay
        ),
    ]


def pack(
    tokenizer: PreTrainedTokenizerFast, plan: Plan, taught: Iterable[Lesson]
) -> list[list[Asked]]:
    """Lessons in batches of like length.

    Lessons grow harder, so only neighbours are sorted by length and their batches shuffled.
    """
    rows: list[Asked] = []
    for lesson in taught:
        asked = encode(tokenizer, lesson.chat)
        answer = tokenizer.encode(lesson.target + plan.end, add_special_tokens=False)
        rows.append((asked + answer, len(asked)))
    rng = random.Random(0)
    batches: list[list[Asked]] = []
    for first in range(0, len(rows), NEIGHBOURS):
        near: list[list[Asked]] = [[]]
        for row in sorted(rows[first : first + NEIGHBOURS], key=lambda row: len(row[0])):
            if near[-1] and (len(near[-1]) + 1) * len(row[0]) > plan.batch_tokens:
                near.append([])
            near[-1].append(row)
        rng.shuffle(near)
        batches += near
    return batches


def encode(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> list[int]:
    """A chat as tokens, up to where the model is to answer."""
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    chats: Sequence[Chat],
    sampling: Sampling,
) -> list[str]:
    """The model's answers, in the order of the chats; sampled ones are the same at every call."""
    import torch

    torch.manual_seed(0)
    chosen: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
        chosen = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        chosen["top_k"] = sampling.top_k
    asked = [encode(tokenizer, chat) for chat in chats]
    order = sorted(range(len(asked)), key=lambda index: len(asked[index]))
    answers = [""] * len(asked)
    for first in range(0, len(order), ANSWERED_AT_ONCE):
        batch = order[first : first + ANSWERED_AT_ONCE]
        padded = tokenizer.pad(
            {"input_ids": [asked[index] for index in batch]},
            padding_side="left",
            return_tensors="pt",
        )
        with torch.inference_mode():
            out = model.generate(**padded, max_new_tokens=sampling.max_tokens, **chosen)  # type: ignore[operator]
        texts = tokenizer.batch_decode(
            out[:, padded["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text
    return answers


def save(model: PreTrainedModel, card: dict[str, object], to: Path) -> None:
    """Weights, generation settings and card in one folder."""
    to.mkdir(parents=True)
    model.generation_config.update(do_sample=False, max_length=MAX_LENGTH)
    model.save_pretrained(to)
    (to / "card.json").write_text(json.dumps(card, ensure_ascii=False, indent=1) + "\n")
