"""Llamas with random weights, and a tokenizer learnt from the rows that they are trained on. They
say nothing; they cost what models of their sizes cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ray_jobs.engines.shapes import Shape, shape_of

NUM_WORDS = 8000
"""Of the tokenizer; a model may have room for more."""
SMALL = Shape(
    family="llama",
    width=384,
    layers=9,
    heads=6,
    kv_heads=2,
    head_width=64,
    inner=1536,
    vocabulary=NUM_WORDS,
    tied=True,
)
SIZES: Mapping[str, Shape] = {"22m": SMALL, "1b": shape_of("meta-llama/Llama-3.2-1B-Instruct")}
BEGIN, END, PAD = "<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>"
SPECIAL = (BEGIN, END, PAD, "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Llama 3's turns without its system message: what LLaMA-Factory's template llama3 prints."""


def make(folder: Path, shape: Shape, texts: Iterable[str], *, dtype: str) -> Path:
    """Write model and tokenizer, unless they are there."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_WORDS,
        special_tokens=[*SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    assert model.num_parameters() == shape.num_parameters
    model.save_pretrained(folder, max_shard_size="10GB")
    return folder
