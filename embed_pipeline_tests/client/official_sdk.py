"""The official SDK in a process of its own, since two generations of it cannot be imported into one."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("official_sdk_worker.py")


class OfficialSdk:
    def __init__(self, version: str, folder: Path) -> None:
        self.version = version
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, call: str, arguments: dict[str, Any], body: bytes | None = None) -> dict[str, Any]:
        asked: dict[str, Any] = {"call": call, "arguments": arguments}
        if body is not None:
            asked["body"] = base64.b64encode(body).decode()
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)
