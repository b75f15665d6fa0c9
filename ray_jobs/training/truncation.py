"""A sample that is too long: what of it goes. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PROMPT_SHARE = 8
"""A prompt keeps at least this part (1/8) of the cutoff: an answer to nothing teaches nothing."""


def cut(
    tokens: NDArray[np.int32],
    is_target: NDArray[np.bool_],
    *,
    start: int,
    cutoff: int,
    special: frozenset[int],
) -> dict[str, Any]:
    """A sample of at most `cutoff` tokens; its last answer begins at `start`.

    The answer stays whole where it leaves the prompt an eighth of the cutoff; else its end goes,
    and the end token with it: the model is not to learn to stop there. Of the prompt the middles
    of its longest parts go, so that the template's own tokens stay. Where something of the prompt
    is missing, earlier answers in it are no targets any more.
    """
    num_answer = len(tokens) - start
    least = min(start, cutoff // PROMPT_SHARE)
    answer_cut = max(0, num_answer - (cutoff - least))
    prompt_cut = max(0, len(tokens) - answer_cut - cutoff)
    keep = np.ones(len(tokens), bool)
    keep[len(tokens) - answer_cut :] = False
    if prompt_cut:
        keep[:start] = _shortened(np.isin(tokens[:start], list(special)), start - prompt_cut)
        is_target = is_target & (np.arange(len(tokens)) >= start)
    assert keep.sum() == min(len(tokens), cutoff)
    return {
        "tokens": tokens[keep],
        "is_target": is_target[keep],
        "prompt_cut": prompt_cut,
        "answer_cut": answer_cut,
    }


def _shortened(is_special: NDArray[np.bool_], room: int) -> NDArray[np.bool_]:
    """Which tokens of a prompt stay, `room` in all: the text between special tokens is levelled,
    longest first, and each loses its middle.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[True], is_special, [True]]).astype(np.int8)))
    runs = edges.reshape(-1, 2)  # of text: where each begins and ends
    lengths = runs[:, 1] - runs[:, 0]
    free = room - int(is_special.sum())
    keep = np.ones(len(is_special), bool)
    if free < len(runs):  # hardly anything but special tokens: the prompt's end is what counts
        keep[: len(keep) - room] = False
        return keep
    levels = np.arange(lengths.max() + 1)
    level = int(levels[[np.minimum(lengths, one).sum() <= free for one in levels]].max())
    spare = free - int(np.minimum(lengths, level).sum())
    for (first, end), length in zip(runs, lengths, strict=True):
        stays = min(length, level + (1 if spare > 0 and length > level else 0))
        spare -= stays - min(length, level)
        head = (stays + 1) // 2
        keep[first + head : end - (stays - head)] = False
    return keep
