"""A real HTTP server of files for tests: with ranges, ETags and secrets in the query, or without any of them."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class FileServer:
    """What is served, how, and what was asked for.

    Attributes:
        files: Content by path, without the leading slash.
        ranges: Whether ranges are heeded.
        etags: Whether ETags are told.
        dates: Whether times of modification are told.
        secret: The query without which the answer is 403.
        failing: Whether every answer is 500.
        requests: Method, path and bytes sent of each request.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    dates: bool = False
    secret: str = ""
    failing: bool = False
    requests: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def bytes_sent(self) -> int:
        return sum(sent for _, _, sent in self.requests)


@contextmanager
def serve_files() -> Iterator[FileServer]:  # noqa: C901 - the ways a server may answer, in one handler
    served = FileServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *_) -> None:
            pass

        def _answer(self, *, with_body: bool) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path.lstrip("/"))
            content = served.files.get(path)
            status, headers = 200, {}
            if served.failing:
                status, content = 500, b""
            elif served.secret and parts.query != served.secret:
                status, content = 403, b""
            elif content is None:
                status, content = 404, b""
            else:
                if served.etags:
                    headers["ETag"] = f'"{hashlib.md5(content).hexdigest()}"'
                if served.dates:
                    headers["Last-Modified"] = "Wed, 21 Oct 2015 07:28:00 GMT"
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if served.ranges and wanted:
                    first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
                    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                    status, content = 206, content[first : last + 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            served.requests.append((self.command, path, len(content) if with_body else 0))
            if with_body:
                try:
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
