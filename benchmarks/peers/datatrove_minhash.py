"""datatrove's MinHash pipeline over a folder of JSON lines; runs in an environment of its own.

python datatrove_minhash.py <rows folder> <work folder> <words|letters> <workers>
Prints seconds; the rows that are kept are in <work folder>/kept.
"""

import json
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter


class Letters:
    """Takes each letter for a word: the fastest that it can be, and its n-grams are then ours."""

    def word_tokenize(self, text: str) -> list[str]:
        """The letters of a text."""
        return [letter for letter in text if not letter.isspace()]


def main(rows: str, work: str, kind: str, workers: int) -> None:
    """The four stages as its documentation has them, with its own 14 bands of 8 hashes."""
    config, num_files = MinhashConfig(n_grams=3), len(list(Path(rows).iterdir()))
    # For Chinese it brings spaCy with jieba, which finds words.
    signature = MinhashDedupSignature(f"{work}/sigs", config, language="zho_Hani")
    if kind == "letters":
        signature.word_tokenizer = Letters()
    reader = JsonlReader(rows, text_key="text", id_key="id")
    stages = [
        ([reader, signature], num_files),
        ([MinhashDedupBuckets(f"{work}/sigs", f"{work}/dups", config=config)], config.num_buckets),
        ([MinhashDedupCluster(f"{work}/dups", f"{work}/removed", config=config)], 1),
        (
            [
                reader,
                MinhashDedupFilter(f"{work}/removed"),
                JsonlWriter(f"{work}/kept", compression=None),
            ],
            num_files,
        ),
    ]
    started = time.perf_counter()
    for number, (pipeline, tasks) in enumerate(stages):
        LocalPipelineExecutor(
            pipeline,
            tasks=tasks,
            workers=min(workers, tasks),
            logging_dir=f"{work}/logs/{number}",
        ).run()
    print(json.dumps({"wall_s": time.perf_counter() - started}))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
