"""How long a tick takes to look at a large local library: list it, and fingerprint what is known and what is not.

    python benchmarks/media_listing.py --files 100000

Makes that many small files in a temporary folder. The bare walk is `os.scandir` and one `stat` a file with nothing
else: what any listing costs at least.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path

from embed_pipeline.media import MediaLibrary


def bare_walk(folder: str) -> int:
    count, waiting = 0, [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                else:
                    entry.stat()
                    count += 1
    return count


def timed(what, call):
    started = time.perf_counter()
    result = call()
    print(f"{what:<46}{time.perf_counter() - started:8.2f} s")
    return result


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--files", type=int, default=100_000)
    arguments.add_argument("--large-mb", type=int, default=256, help="size of the one large file that is hashed")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made, "library")
        for number in range(options.files):
            path = root / f"{number // 1000:03}" / f"Aufnahme, {number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"%d" % number)
            os.utime(path, (1_700_000_000, 1_700_000_000))
        time.sleep(3)  # what has just been written is not remembered
        library = MediaLibrary(root, cache=Path(made, "cache.sqlite"))
        timed("bare walk", lambda: bare_walk(str(root)))
        files = timed("list", library.list).files
        assert len(files) == options.files
        timed("fingerprints, all to be read", lambda: library.fingerprints(files))
        timed("fingerprints, all known", lambda: library.fingerprints(files))
        fresh = MediaLibrary(root, cache=Path(made, "cache.sqlite"))
        timed("a new process's list and fingerprints", lambda: fresh.fingerprints(fresh.list().files))

        large = Path(made, "large", "large.mp4")
        large.parent.mkdir()
        large.write_bytes(os.urandom(1 << 20) * options.large_mb)
        one = MediaLibrary(large.parent, settle_seconds=0, cache=Path(made, "other.sqlite"))
        content = large.read_bytes()
        timed(f"bare SHA-256 of {options.large_mb} MiB in memory", lambda: hashlib.sha256(content).hexdigest())
        timed(f"fingerprint of a file of {options.large_mb} MiB", lambda: one.fingerprint(one.list().files[0]))


if __name__ == "__main__":
    main()
