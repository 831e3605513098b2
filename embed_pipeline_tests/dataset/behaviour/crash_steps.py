"""Kills a writer at every file system operation in turn and checks the dataset after each; run by a test."""

from __future__ import annotations

import subprocess
import sys

from embed_pipeline_tests.dataset.behaviour.crashing import killed_at_every_step

CHECK = """
import sys
from embed_pipeline_tests.dataset.behaviour.test_torn_writes import check_whole
from embed_pipeline.dataset import EmbeddingDataset
for line in sys.stdin:
    dataset = EmbeddingDataset(sys.argv[1])
    for source in ("segments", "snapshot"):
        check_whole(dataset, source, {"0", *map(str, range(1, int(line) + 1))})
    print("ok", flush=True)
"""

if __name__ == "__main__":
    root = sys.argv[1]
    # The checks read with threads, which a process that forks must not have: they run in a process of their own.
    with subprocess.Popen(
        [sys.executable, "-c", CHECK, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as checker:

        def check(step):
            checker.stdin.write(f"{step}\n")
            checker.stdin.flush()
            if checker.stdout.readline() != "ok\n":
                sys.exit(f"after a crash at step {step} the dataset was torn")

        print(killed_at_every_step(root, check))
        checker.stdin.close()
