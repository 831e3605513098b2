"""A process that writes a dataset and is killed, again and again; run as a module by the tests of torn writes.

Each child writes one whole generation after the other: all vectors of a media file equal the generation's number, and
so does its task id, so that a reader can tell a mixture. Everything is imported once, in the parent, which has no
threads; a child costs milliseconds.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import numpy as np
import pandas as pd  # noqa: F401
import pyarrow.dataset
import pyarrow.parquet  # noqa: F401

from embed_pipeline.dataset import EmbeddingDataset
from embed_pipeline.errors import DatasetError
from embed_pipeline_tests.dataset.values import make_segments

KEYS = ["one.mp4", "two/three.mp4"]


def write_generation(dataset, generation):
    for key in KEYS:
        embedding = np.full((201, 16), generation, np.float32)
        dataset.write(make_segments(key, clips=100, task_id=str(generation), embedding=embedding))


def write_forever(root, first, ready):
    dataset = EmbeddingDataset(root)
    parent = os.getppid()
    for generation in range(first, first + 10_000):
        if os.getppid() != parent:
            return  # the tests were interrupted; nobody would ever end this process
        try:
            write_generation(dataset, generation)
            dataset.compact(retain=3)
        except DatasetError:
            # The store broke on purpose; the next generation tries again.
            continue
        finally:
            os.write(ready, b"x")


def killed_at_random(root, kills, seconds):
    """Kills a writer at a random moment, `kills` times; prints how many were killed while at work."""
    if root.startswith("s3:"):
        import aiobotocore.session  # noqa: F401
        import s3fs  # noqa: F401
    luck = random.Random(7)
    died = 0
    for number in range(kills):
        started, ready = os.pipe()
        child = os.fork()
        if child == 0:
            write_forever(root, 1 + number * 10_000, ready)
            os._exit(0)
        os.read(started, 1)
        time.sleep(luck.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        died += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        os.close(started)
        os.close(ready)
    print(died)


def killed_at_step(root, step):
    """Writes one generation and builds the table, and dies at the given file system operation, if there are so many."""
    count = 0

    def hook(event, args):
        nonlocal count
        # Reading changes nothing, so dying at it is dying at the operation before.
        reading = event == "open" and str(args[1]).startswith("r")
        if event in {"open", "os.rename", "os.remove", "os.mkdir"} and root in str(args[0]) and not reading:
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    dataset = EmbeddingDataset(root)
    sys.addaudithook(hook)
    write_generation(dataset, step)
    dataset.compact(retain=1)


def killed_at_every_step(root, check):
    """Kills a writer at its first file system operation, then at its second, until one gets through; checks each."""
    step = 0
    while True:
        step += 1
        child = os.fork()
        if child == 0:
            killed_at_step(root, step)
            os._exit(0)
        survived = os.waitpid(child, 0)[1] == 0
        check(step)
        if survived:
            return step


if __name__ == "__main__":
    killed_at_random(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
