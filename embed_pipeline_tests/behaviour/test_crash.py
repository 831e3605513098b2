"""Processes that die at any moment, under a real daemon: the small crash test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_PROJECT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(500)]


def test_processes_that_are_killed_cost_nothing_and_lose_nothing() -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "benchmarks/crash_test.py", "--hurried", "--uploads"),
            *("--kills", "8", "--files", "10", "--longest", "400"),
        ],
        cwd=_PROJECT,
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )

    report = ended.stdout[ended.stdout.find("{\n") :]
    assert ended.returncode == 0, (report, ended.stderr[-2000:])
    result = json.loads(report)
    assert result["kills"] == 8
    assert result["kills_by_target"]["runs"] >= 4
    assert result["tasks"] == result["contents"]
    assert result["embedded_files"] == result["files"]
    assert not any(result["leftovers"].values())
