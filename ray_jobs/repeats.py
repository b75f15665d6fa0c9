"""Which prompts repeat others: an evaluation prompt, an equal one, a nearly equal one.

Prompts come in batches, in the order in which they are kept; 60 bytes of each stay in memory, next
to what duplicates.Near holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ray_jobs.contamination import EvaluationPrompts, Leaks
from ray_jobs.duplicates import Near
from ray_jobs.ngrams import NONE, Flags, Hashes, Rows, exact_hashes, first_equal

Ids = npt.NDArray[np.bytes_]
Reasons = npt.NDArray[np.object_]

IDS = "S44"  # 32 hex digits, and of a row that is dropped /d and its place in its file


class Evaluation:
    """The evaluation prompts, with what a prompt that gives one away is told about it."""

    def __init__(
        self,
        ids: Sequence[str],
        sources: Sequence[str],
        prompts: Sequence[str],
        *,
        min_share: float,
        ngram: int,
    ) -> None:
        self.ids, self.sources = np.array(ids, IDS), np.array(sources, object)
        self.prompts = EvaluationPrompts(prompts, min_share=min_share, ngram=ngram)


class Repeats:
    """Prompts that are compared with one another, and with evaluation prompts if there are any."""

    def __init__(self, near: Near, evaluation: Evaluation | None) -> None:
        self._near, self._evaluation = near, evaluation
        self._ids: list[Ids] = []
        self._usable: list[Flags] = []
        self._keys: list[Hashes] = []
        self._leaks: list[Leaks] = []

    def add(self, ids: Sequence[str], prompts: Sequence[str | None]) -> None:
        """Add prompts; None stands for a row that is of no use anyway."""
        texts = [prompt or "" for prompt in prompts]
        self._ids.append(np.array(ids, IDS))
        self._usable.append(np.array([prompt is not None for prompt in prompts], bool))
        self._keys.append(exact_hashes(texts))
        self._near.add(texts)
        if self._evaluation:
            self._leaks.append(self._evaluation.prompts.find(texts))

    def decide(self) -> tuple[Reasons, Ids]:
        """For each prompt why it is dropped, else None; and the id of the kept one it repeats, else
        nothing.
        """
        usable = np.concatenate([np.zeros(0, bool), *self._usable])
        ids = np.concatenate([np.zeros(0, IDS), *self._ids])
        reason, twin_id = np.full(len(ids), None, object), np.zeros(len(ids), IDS)
        if self._evaluation:
            prompt = self._leaked(self._evaluation.prompts)
            leaked = np.flatnonzero(prompt != NONE)
            sources = self._evaluation.sources[prompt[leaked]]
            reason[leaked] = [f"contaminated: {source}" for source in sources]
            twin_id[leaked] = self._evaluation.ids[prompt[leaked]]
            usable[leaked] = False
        first = first_equal(np.concatenate([np.zeros((0, 2), np.uint64), *self._keys]), usable)
        twin = self._near.twins(without=~usable | (first != NONE))
        reason[twin != NONE] = "near-duplicate"
        again = np.flatnonzero(first != NONE)
        reason[again] = "duplicate"
        # The first of equal ones may itself be a near-duplicate: then all repeat the same one.
        twin[again] = np.where(twin[first[again]] == NONE, first[again], twin[first[again]])
        twin_id[twin != NONE] = ids[twin[twin != NONE]]
        return reason, twin_id

    def _leaked(self, prompts: EvaluationPrompts) -> Rows:
        """The evaluation prompt that each prompt gives away; -1 where there is none."""
        if not self._leaks:
            return np.zeros(0, np.int64)
        prompt = np.concatenate([leaks.prompt for leaks in self._leaks])
        whole = np.concatenate([leaks.whole for leaks in self._leaks])
        only_phrase = (prompt != NONE) & ~whole
        only_phrase[only_phrase] = prompts.phrases()[prompt[only_phrase]]
        prompt[only_phrase] = NONE
        return prompt
