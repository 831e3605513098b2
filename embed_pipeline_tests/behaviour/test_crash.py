"""Run processes that die at any moment, under a real daemon: the small crash test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_PROJECT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(400)]


def test_runs_that_are_killed_cost_nothing_and_lose_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "benchmarks/crash_test.py", "--kills", "6", "--files", "10", "--longest", "300"],
        cwd=_PROJECT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )

    report = ended.stdout[ended.stdout.find("{\n") :]
    assert ended.returncode == 0, (report, ended.stderr[-2000:])
    result = json.loads(report)
    assert result["kills"] >= 6
    assert result["kills_of_everything"] >= 1
    assert result["tasks"] == result["contents"]
