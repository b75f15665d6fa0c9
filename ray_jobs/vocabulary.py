"""The byte-level BPE of the tiny models: fixed wording becomes few tokens, names stay characters.

It is learnt from fragments that end where a prompt's gaps are, so that no token ever joins a name
to its kind or to the words around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from ray_jobs import judging, taxonomy, verdicts
from ray_jobs.prompts import Chat
from ray_jobs.stages import answers, expansion, intents
from ray_jobs.world import read

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SIZE = 4096
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LANGUAGES = ("zh", "en")
_GAP = "\x00"
# Digits and these marks stay tokens of their own: the judge reads log-probabilities digit by digit.
# So do the mark of a quoted line and the blank after a list's number: what follows them is then
# made of the same tokens as at the beginning of a line.
_ALONE = r"(?<=\n)\| |(?<=\d\.) |[\[\],.\n]"


def train() -> Tokenizer:
    """The tokenizer of both tiny models, with the special tokens of both families."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_ALONE), behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        min_frequency=2,
        special_tokens=[*CHATML, *LLAMA],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(fragments(), trainer)
    return tokenizer


def fragments() -> Iterator[str]:
    """What the tokenizer learns from: characters first, then words, then the fixed wording."""
    wording, asked, words = list(_wording()), list(_prompts()), list(_words())
    everything = (*wording, *asked, *words, *_leaves([read().data]))
    characters = sorted({char for text in everything for char in text if ord(char) > 127})
    for texts, weight in ((characters, 1000), (words, 300), (wording, 40), (asked, 5)):
        for text in texts:
            yield from [text] * weight


def _words() -> Iterator[str]:
    data = read().data
    yield from data["syllables"]
    for syllable in data["syllables"].values():
        yield from (syllable, f" {syllable.capitalize()}")
    for entry in _leaves([data["families"], data["manners"], data["pairs"], data["states"]]):
        if entry.isascii():
            yield from (f" {word}" for word in entry.split())
        elif len(entry) > 2 or entry not in _names():
            yield entry
    known = taxonomy.load()
    names = [(one.zh, one.en) for one in known.scenarios.values()]
    names += [(one.zh, one.en) for one in known.dimensions.values()]
    for zh, en in names:
        yield from (zh, *(f" {word}" for word in en.split()), en)


def _wording() -> Iterator[str]:
    data = read().data
    taught = [
        [frame[language] for language in LANGUAGES]
        for frame in data["frames"]
        if not frame.get("held_out")
    ]
    tricks = [texts[:-1] for trick in data["tricks"].values() for texts in trick.values()]
    for text in _leaves([taught, data["replies"], data["analysis"], tricks, data["general"]]):
        yield from _split(re.sub(r"\{\w+\}", _GAP, text))
    yield from _leaves([data["antonyms"]["en"], data["capitals"]["en"], list(judging.wording())])


def questions() -> Iterator[Chat]:
    """Every question that the pipeline asks the teacher, in both languages, with gaps for what
    differs from row to row.
    """
    for language in LANGUAGES:
        row = {"prompt": _GAP, "language": language}
        yield intents.render(row)
        yield answers.render(row)
        yield verdicts.render_prompt_score(_GAP, language)
        for num in (1, 2, 3):
            yield verdicts.render_scores(_GAP, [_GAP] * num, language)
        for explain in (False, True):
            yield verdicts.render_verdict(_GAP, _GAP, language, explain=explain)
        for method, dimension in product(expansion.METHODS, taxonomy.DIMENSIONS):
            for num in (1, 2):
                wanted = {"method": method, "dimension": dimension, "topic": _GAP}
                yield expansion.render({**row, **wanted, "examples": [_GAP] * num}, num=3)


def _prompts() -> Iterator[str]:
    turns = {part for chat in questions() for turn in chat for part in _split(turn["content"])}
    yield from sorted(turns)
    yield from ("system", "user", "assistant")


def _split(text: str) -> list[str]:
    # A trailing blank belongs to the English word that follows it.
    return [part.rstrip(" ") or part for part in text.split(_GAP) if part]


def _names() -> frozenset[str]:
    world = read()
    return frozenset(
        thing.name.zh for both in world.things.values() for things in both for thing in things
    )


def _leaves(tree: Any) -> Iterable[str]:
    if isinstance(tree, str):
        return [tree]
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [leaf for branch in branches for leaf in _leaves(branch)]
