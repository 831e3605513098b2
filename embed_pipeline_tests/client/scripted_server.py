"""A small platform over real sockets whose every answer can be spoiled: the other end of the client's tests."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Step = Callable[["Handler"], None]


@dataclass
class Recorded:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ScriptedServer:
    """Keeps tasks like the platform; each step in ``posts`` and ``gets`` answers one request instead."""

    posts: deque[Step] = field(default_factory=deque)
    gets: deque[Step] = field(default_factory=deque)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    bodies: dict[str, Any] = field(default_factory=dict)
    recorded: list[Recorded] = field(default_factory=list)
    assets: dict[str, dict[str, Any]] = field(default_factory=dict)
    clock_offset: timedelta = timedelta(0)
    sends_date: bool = True
    echo_url: Callable[[str], str] = str
    hides_metadata: bool = False
    ignores_page: bool = False
    extension: Callable[[Handler], bool] | None = None
    before_list: Callable[[int], None] | None = None
    address: str = ""

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1.3"

    def now(self) -> datetime:
        return datetime.now(UTC) + self.clock_offset

    def requests_to(self, method: str, path: str = "/embed-v2/tasks") -> list[Recorded]:
        return [each for each in self.recorded if each.method == method and each.path == f"/v1.3{path}"]

    def add_task(self, body: dict[str, Any], *, created_at: datetime | None = None, **fields: Any) -> dict[str, Any]:
        kind = body["input_type"]
        media = body[kind]
        source = media["media_source"]
        metadata: dict[str, Any] = {"duration": 12.0}
        if "url" in source:
            metadata["input_url"] = self.echo_url(source["url"])
        elif "asset_id" in source:
            metadata["input_filename"] = self.assets[source["asset_id"]]["filename"]
        if media.get("embedding_scope"):
            metadata[f"{kind}_embedding_scope"] = media["embedding_scope"]
        if media.get("embedding_option"):
            metadata[f"{kind}_embedding_option"] = media["embedding_option"]
        stamp = (created_at or self.now()).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        task = {
            "_id": f"{len(self.tasks):024x}",
            "model_name": body["model_name"],
            "status": "processing",
            "created_at": stamp,
            "updated_at": stamp,
            f"{kind}_embedding": {"metadata": None if self.hides_metadata else metadata},
            **fields,
        }
        self.tasks.append(task)
        return task


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    platform: ScriptedServer
    recorded: Recorded

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        return format_datetime(self.platform.now(), usegmt=True)

    def send_response(self, code: int, message: str | None = None) -> None:
        self.send_response_only(code, message)
        if self.platform.sends_date:
            self.send_header("Date", self.date_time_string())

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def answer(
        self,
        status: int,
        body: Any = b"",
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def reset(self) -> None:
        """Drops the connection with a RST, as a crashing server or a firewall does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def create(self) -> dict[str, Any]:
        return self.platform.add_task(self.recorded.json)

    def _take(self) -> None:
        split = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        self.recorded = Recorded(
            self.command,
            split.path,
            {name: values[0] for name, values in parse_qs(split.query).items()},
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(length),
        )
        self.platform.recorded.append(self.recorded)

    def do_POST(self) -> None:
        self._take()
        if self.platform.posts:
            self.platform.posts.popleft()(self)
            return
        if not self._extended():
            created(self)

    def do_PUT(self) -> None:
        self._take()
        if not self._extended():
            self.answer(404)

    def _extended(self) -> bool:
        return self.platform.extension is not None and self.platform.extension(self)

    def do_GET(self) -> None:
        self._take()
        if self.platform.gets:
            self.platform.gets.popleft()(self)
            return
        if self._extended():
            return
        path = self.recorded.path
        if path == "/v1.3/embed-v2/tasks":
            self._list()
        elif path.startswith("/v1.3/assets/"):
            self.answer(200, self.platform.assets[path.rpartition("/")[2]])
        else:
            self._retrieve(path.rpartition("/")[2])

    def _retrieve(self, task_id: str) -> None:
        if task_id in self.platform.bodies:
            self.answer(200, self.platform.bodies[task_id])
        elif any(task["_id"] == task_id for task in self.platform.tasks):
            self.answer(200, {"_id": task_id, "status": "processing", "data": None})
        else:
            self.answer(404, {"error": {"code": "resource_not_exist", "message": f"Resource {task_id} not found"}})

    def _list(self) -> None:
        query = self.recorded.query
        number, size = int(query.get("page", 1)), int(query.get("page_limit", 10))
        if self.platform.before_list:
            self.platform.before_list(number)
        wanted = [
            task
            for task in reversed(self.platform.tasks)
            if query.get("status") in (None, task["status"])
            and (
                "started_at" not in query
                or datetime.fromisoformat(task["created_at"]) >= datetime.fromisoformat(query["started_at"])
            )
            and (
                "ended_at" not in query
                or datetime.fromisoformat(task["created_at"]) <= datetime.fromisoformat(query["ended_at"])
            )
        ]
        shown = 1 if self.platform.ignores_page else number
        info: dict[str, Any] = {
            "limit_per_page": size,
            "page": number,
            "total_page": -(-len(wanted) // size),
            "total_results": len(wanted),
        }
        body: dict[str, Any] = {"data": wanted[(shown - 1) * size : shown * size]}
        if not self.platform.ignores_page:
            body["page_info"] = info
        self.answer(200, body)


def created(handler: Handler) -> None:
    task = handler.create()
    handler.answer(202, {"_id": task["_id"], "status": "processing", "data": None})


def answering(status: int, body: Any = b"", headers: dict[str, str] | None = None, **kwargs: Any) -> Step:
    return lambda handler: handler.answer(status, body, headers, **kwargs)


def creating_then(step: Step) -> Step:
    def run(handler: Handler) -> None:
        handler.create()
        step(handler)

    return run


def resetting(handler: Handler) -> None:
    handler.reset()


def resetting_within_body(handler: Handler) -> None:
    handler.answer(202, b'{"_id": "0000', {"Content-Length": "500"})
    handler.reset()


def silent_for(seconds: float) -> Step:
    def run(handler: Handler) -> None:
        time.sleep(seconds)
        handler.reset()

    return run


@contextlib.contextmanager
def serving_on(server: ThreadingHTTPServer) -> Iterator[str]:
    """Serves in a thread, and gives the address."""
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def serving() -> Iterator[ScriptedServer]:
    platform = ScriptedServer()
    handler = type("BoundHandler", (Handler,), {"platform": platform})
    with serving_on(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as address:
        platform.address = f"http://{address}"
        yield platform
