"""Cost of loading the code location beyond `import dagster`; the budget is 0.2 s.

    python benchmarks/startup.py [--rounds 7]

CPU seconds, each import in a fresh interpreter, so that what else the machine does hardly counts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

_SCRIPT = "import time; t = time.process_time(); {}; print(time.process_time() - t)"
_BUDGET_SEC = 0.2


def seconds(statement: str) -> float:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT.format(statement)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    dagster, location = [], []
    for _ in range(rounds):
        dagster.append(seconds("import dagster"))
        location.append(seconds("import dagster; import embed_pipeline.definitions"))
    beyond = [one - other for one, other in zip(location, dagster, strict=True)]
    print(f"import dagster                       {statistics.median(dagster):6.3f} s (median of {rounds})")
    print(f"import embed_pipeline.definitions    {statistics.median(location):6.3f} s")
    print(f"beyond dagster                       {statistics.median(beyond):6.3f} s, budget {_BUDGET_SEC} s")
    return 0 if statistics.median(beyond) <= _BUDGET_SEC else 1


if __name__ == "__main__":
    sys.exit(main())
