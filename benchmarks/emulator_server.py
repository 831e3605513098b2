"""How fast the emulator's server is: start-up, creates, lists and retrieves a second, and one very large body.

Run it with `python benchmarks/emulator_server.py`. The server is a process of its own with the instant engine, so that
what is measured is the server; the client speaks bare HTTP over kept connections, since a comfortable client would cost
more than the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit


async def call(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: bytes
) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: benchmark\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    header = await reader.readuntil(b"\r\n\r\n")
    lowered = header.lower()
    if not lowered.startswith((b"http/1.1 200", b"http/1.1 202")):
        raise RuntimeError(header.decode())
    if b"transfer-encoding: chunked" in lowered:
        blocks = []
        while size := int(await reader.readline(), 16):
            blocks.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return b"".join(blocks)
    length = int(lowered.split(b"content-length: ")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


async def load(
    host: str, port: int, requests: list[tuple[str, str, bytes]], connections: int
) -> tuple[float, list[bytes]]:
    waiting, answers = list(reversed(requests)), []

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 26)
        while waiting:
            answers.append(await call(reader, writer, *waiting.pop()))
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    return time.perf_counter() - begin, answers


def request_body(number: int, seconds: int, scopes: tuple[str, ...] = ("clip", "asset")) -> bytes:
    media = {
        "media_source": {"url": f"http://media.example.com/{number}.mp4"},
        "segmentation": {"strategy": "fixed", "fixed": {"duration_sec": seconds}},
        "embedding_option": ["visual", "audio", "transcription"],
        "embedding_scope": list(scopes),
    }
    return json.dumps({"input_type": "video", "model_name": "marengo3.0", "video": media}).encode()


class Server:
    """An emulator as a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        begin = time.perf_counter()
        command = [sys.executable, "-m", "embed_pipeline.emulator", "--engine", "instant", "--state", self.folder.name]
        self.process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address = urlsplit(self.process.stdout.readline().strip())
        self.start_sec = time.perf_counter() - begin
        self.host, self.port = address.hostname or "", address.port or 0

    def processor_sec(self) -> float:
        """Return the processor time the server has used, in seconds; nan where the system does not tell."""
        path = Path(f"/proc/{self.process.pid}/stat")
        if not path.exists():
            return float("nan")
        fields = path.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


async def measure(tasks: int, connections: int) -> None:
    path = "/v1.3/embed-v2/tasks"
    with Server("--instant-duration", "600") as server:
        print(f"start-up until the address is printed: {server.start_sec:.2f} s")
        creates = [("POST", path, request_body(number, 6)) for number in range(tasks)]
        took, answers = await load(server.host, server.port, creates, connections)
        ids = [json.loads(answer)["_id"] for answer in answers]
        print(f"create: {tasks / took:,.0f} requests/s ({tasks} tasks, {connections} connections)")
        begin = time.perf_counter()
        while True:
            query = f"{path}?status=processing&page_limit=1"
            _, (page,) = await load(server.host, server.port, [("GET", query, b"")], 1)
            if not json.loads(page)["page_info"]["total_results"]:
                break
            await asyncio.sleep(0.05)
        print(f"all ready {time.perf_counter() - begin + took:.1f} s after the first create (303 vectors each)")
        lists = [("GET", f"{path}?status=ready&page_limit=50&page={n % 10 + 1}", b"") for n in range(300)]
        took, _ = await load(server.host, server.port, lists, connections)
        print(f"list, 50 a page: {len(lists) / took:,.0f} requests/s")
        retrieves = [("GET", f"{path}/{task_id}", b"") for task_id in ids[:300]]
        # The first time some bodies are written for the request, others were while the server had nothing else to do.
        for turn in ("first", "second"):
            before = server.processor_sec()
            took, answers = await load(server.host, server.port, retrieves, connections)
            rate, size = len(retrieves) / took, sum(map(len, answers)) / took / 1e6
            cost = (server.processor_sec() - before) / len(retrieves) * 1000
            print(
                f"retrieve, 303 vectors, {turn} time: {rate:,.0f} requests/s, {size:,.0f} MB/s, "
                f"{cost:.1f} ms of the server's processor time each"
            )
    with Server("--instant-duration", "14400") as server:
        body = ("POST", path, request_body(0, 6, ("clip",)))
        _, (answer,) = await load(server.host, server.port, [body], 1)
        retrieve = [("GET", f"{path}/{json.loads(answer)['_id']}", b"")]
        await asyncio.sleep(2)
        took, (answer,) = await load(server.host, server.port, retrieve, 1)
        print(f"retrieve of 4 h, 7,200 vectors, written ahead: {len(answer) / 1e6:.1f} MB in {took:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=8)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.tasks, arguments.connections))
