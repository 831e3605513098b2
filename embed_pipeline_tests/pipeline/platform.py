"""A platform whose every answer a test decides: what is created, when, and what the sender learns of it.

It is served to a client through an `httpx.MockTransport`. Its time is the test's; its clock may be hours off.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Literal

import httpx
import numpy as np

BASE_URL = "https://api.example.com/v1.3"
DIMENSION = 128

Outcome = Literal[
    "created",  # and answered
    "limited",  # 429, nothing created
    "refused",  # the connection never came about
    "error",  # 500, nothing created
    "error after",  # 500 although it was created
    "gateway timeout",  # 504, and created late
    "cut off",  # created, and half of the answer arrives
    "lost",  # no answer, nothing created
    "lost after",  # no answer, created
    "late",  # no answer, and created late
]
OUTCOMES: tuple[Outcome, ...] = Outcome.__args__  # type: ignore[attr-defined]


@dataclass
class PlatformTask:
    """A task that was paid for.

    Args:
        id: Its id.
        request: What was asked for.
        source: The URL or the file name that the list shows.
        content: What the source held when the request was sent.
        created_at: When, by the test's clock.
        failure: The platform's words, for a task that fails.
    """

    id: str
    request: dict[str, Any]
    source: str
    content: str
    created_at: float
    failure: str | None = None


@dataclass
class ScriptedPlatform:
    """The platform.

    Args:
        now: The test's clock.
        skew_sec: How far the platform's clock is ahead of it.
        lag_sec: Seconds until a new task is listed.
        held_by: Returns what a URL holds.
        failures: How many tasks of each content fail before one succeeds.
    """

    now: Callable[[], float]
    held_by: Callable[[str], str]
    skew_sec: float = 0.0
    lag_sec: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)
    tasks: list[PlatformTask] = field(default_factory=list)
    assets: dict[str, tuple[str, str]] = field(default_factory=dict)
    _late: list[tuple[float, PlatformTask]] = field(default_factory=list)
    _count: int = 0

    def serve(self, request: httpx.Request, outcome: Outcome, late_at: float = 0.0) -> httpx.Response:
        """Answer a request.

        Args:
            request: The request.
            outcome: What becomes of a create.
            late_at: When a late create is carried out.
        """
        self.carry_out_late()
        path = request.url.path.removeprefix("/v1.3/")
        if (request.method, path) == ("POST", "embed-v2/tasks"):
            return self._create(request, outcome, late_at)
        if (request.method, path) == ("GET", "embed-v2/tasks"):
            return self._list(request)
        if path.startswith("embed-v2/tasks/"):
            return self._retrieve(path.rpartition("/")[2])
        return self._asset(request, path)

    def carry_out_late(self) -> None:
        """Carry out what is due of requests that nobody waits for."""
        for at, task in [pair for pair in self._late if pair[0] <= self.now()]:
            self._late.remove((at, task))
            task.created_at = at
            self._add(task)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is carried out late any more."""
        return not self._late

    def send_and_die(self, request: httpx.Request, late_at: float | None) -> None:
        """Take a create whose sender dies; it is carried out then, if at all."""
        if late_at is not None and request.method == "POST" and request.url.path.endswith("embed-v2/tasks"):
            self._late.append((late_at, self._task(json.loads(request.content))))
            self.carry_out_late()

    def _new_id(self) -> str:
        self._count += 1
        return f"{self._count:024x}"

    def _task(self, body: dict[str, Any]) -> PlatformTask:
        source = body[body["input_type"]]["media_source"]
        if "asset_id" in source:
            name, content = self.assets[source["asset_id"]]
        else:
            name, content = source["url"], self.held_by(source["url"])
        return PlatformTask(self._new_id(), body, name, content, self.now())

    def _add(self, task: PlatformTask) -> None:
        earlier = sum(one.content == task.content for one in self.tasks)
        if earlier < self.failures.get(task.content, 0):
            task.failure = "The embedding service is temporarily unstable. Please try again later."
        self.tasks.append(task)

    def _answer(self, status: int, body: Any) -> httpx.Response:
        date = format_datetime(datetime.fromtimestamp(self.now() + self.skew_sec, tz=UTC), usegmt=True)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.Response(status, content=content, headers={"date": date, "content-type": "application/json"})

    def _create(self, request: httpx.Request, outcome: Outcome, late_at: float) -> httpx.Response:
        body = json.loads(request.content)
        asset_id = body[body["input_type"]]["media_source"].get("asset_id")
        if asset_id is not None and asset_id not in self.assets:
            return self._answer(400, {"code": "resource_not_exist", "message": "there is no such asset"})
        match outcome:
            case "limited":
                return self._answer(429, {"code": "too_many_requests", "message": "slow down"})
            case "refused":
                raise httpx.ConnectError("refused", request=request)
            case "error":
                return self._answer(500, {"code": "internal", "message": "failed"})
            case "lost":
                raise httpx.ReadTimeout("no answer", request=request)
            case "late" | "gateway timeout":
                self._late.append((late_at, self._task(body)))
                if outcome == "late":
                    raise httpx.ReadTimeout("no answer", request=request)
                return self._answer(504, b"<html>gateway timeout</html>")
        task = self._task(body)
        self._add(task)
        if outcome == "error after":
            return self._answer(500, {"code": "internal", "message": "failed"})
        if outcome == "lost after":
            raise httpx.ReadError("reset", request=request)
        answer = json.dumps({"_id": task.id, "status": "processing"}).encode()
        return self._answer(202, answer[: len(answer) // 3] if outcome == "cut off" else answer)

    def _list(self, request: httpx.Request) -> httpx.Response:
        query = request.url.params
        listed = []
        for task in sorted(self.tasks, key=lambda one: one.created_at, reverse=True):
            at = datetime.fromtimestamp(task.created_at + self.skew_sec, tz=UTC)
            is_new = task.created_at > self.now() - self.lag_sec
            early = "started_at" in query and at < datetime.fromisoformat(query["started_at"])
            late = "ended_at" in query and at > datetime.fromisoformat(query["ended_at"])
            if not (is_new or early or late):
                listed.append(self._item(task, at))
        page, limit = int(query.get("page", "1")), int(query.get("page_limit", "10"))
        info = {"page": page, "limit_per_page": limit, "total_results": len(listed)}
        info["total_page"] = -(-len(listed) // limit)
        return self._answer(200, {"data": listed[(page - 1) * limit : page * limit], "page_info": info})

    def _item(self, task: PlatformTask, at: datetime) -> dict[str, Any]:
        kind = task.request["input_type"]
        media = task.request[kind]
        shown = {"input_url" if "://" in task.source else "input_filename": task.source}
        shown[f"{kind}_embedding_scope"] = media["embedding_scope"]
        shown[f"{kind}_embedding_option"] = media["embedding_option"]
        return {
            "_id": task.id,
            "model_name": task.request["model_name"],
            "status": "failed" if task.failure else "ready",
            "created_at": at.isoformat(),
            f"{kind}_embedding": {"metadata": shown},
        }

    def _retrieve(self, task_id: str) -> httpx.Response:
        task = next((one for one in self.tasks if one.id == task_id), None)
        if task is None:
            return self._answer(404, {"code": "resource_not_exist", "message": "there is no such task"})
        body: dict[str, Any] = {"_id": task.id, "status": "failed" if task.failure else "ready", "data": None}
        if task.failure:
            return self._answer(200, body | {"error": {"message": task.failure}})
        vector = vector_of(task.content).tolist()
        body["data"] = [
            {"embedding": vector, "embedding_option": "audio", "embedding_scope": scope, "start_sec": 0, "end_sec": 5}
            for scope in ("clip", "asset")
        ]
        return self._answer(200, body | {"metadata": {"input_type": "audio", "duration": 5.0}})

    def _asset(self, request: httpx.Request, path: str) -> httpx.Response:
        asset_id = path.partition("/")[2]
        if request.method == "POST":
            asset_id = self._new_id()
            form = request.read()
            name = re.search(rb'name="filename"\r\n\r\n([^\r]+)\r\n', form)
            content = re.search(rb"content-(\w+);", form)
            assert name is not None
            assert content is not None
            self.assets[asset_id] = (name[1].decode(), content[1].decode())
            return self._answer(201, self._asset_body(asset_id))
        if request.method == "DELETE":
            if asset_id not in self.assets:
                return self._answer(404, {"code": "resource_not_exist", "message": "there is no such asset"})
            if any(self.assets[asset_id][0] == task.source for task in self.tasks):
                return self._answer(409, {"code": "asset_in_use", "message": "a task reads it"})
            del self.assets[asset_id]
            return httpx.Response(204)
        if asset_id:
            return self._answer(200, self._asset_body(asset_id))
        wanted = request.url.params.get("filename")
        found = [self._asset_body(one) for one, (name, _) in self.assets.items() if wanted in (None, name)]
        return self._answer(200, {"data": found, "page_info": {"page": 1, "total_page": 1}})

    def _asset_body(self, asset_id: str) -> dict[str, Any]:
        return {"_id": asset_id, "status": "ready", "filename": self.assets[asset_id][0], "method": "direct"}


def vector_of(content: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vector that the platform computes for a content."""
    seed = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
