"""Creates and list pages per second: the client against bare httpx, same server, same concurrency, in one run.

    python benchmarks/client_throughput.py [--creates 1500] [--pages 600] [--threads 8] [--rounds 3]

The server is a process of its own that answers at once, so that only the clients' own work is compared. The two take
turns, round by round, and the best round of each counts. On a machine that is busy with other things, look at the
processor time for each call instead of the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx

from embed_pipeline.client import AsyncEmbedClient, EmbedClient, MediaSource, VideoInputRequest

PAGE = json.dumps(
    {
        "data": [
            {
                "_id": f"{number:024x}",
                "model_name": "marengo3.0",
                "status": "processing",
                "created_at": "2026-11-22T07:00:00.000Z",
                "updated_at": "2026-11-22T07:00:00.000Z",
                "video_embedding": {
                    "metadata": {
                        "input_url": f"https://media.example/{number}.mp4",
                        "video_embedding_scope": ["clip"],
                        "duration": 600.0,
                    }
                },
            }
            for number in range(50)
        ],
        "page_info": {"limit_per_page": 50, "page": 1, "total_page": 1, "total_results": 50},
    }
).encode()
CREATED = b'{"_id":"64f8d2c7e4a1b37f8a9c5d12","status":"processing","data":null}'


async def serve() -> None:
    """A server with one answer per method, as quick as asyncio allows."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line.partition(b":")[2]))
                body, status = (CREATED, b"202 Accepted") if head.startswith(b"POST") else (PAGE, b"200 OK")
                writer.write(
                    b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (status, len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Pace(NamedTuple):
    """Calls a second by the wall clock, and processor seconds of this process for each call."""

    per_sec: float
    cpu_sec: float


class Clock:
    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def pace(self, count: int) -> Pace:
        return Pace(count / (time.perf_counter() - self.wall), (time.process_time() - self.cpu) / count)


def media(number: int) -> dict:
    return {
        "media_source": {"url": f"https://media.example/{number}.mp4"},
        "embedding_option": ["visual", "audio"],
        "embedding_scope": ["clip", "asset"],
    }


def our_create(client: EmbedClient, number: int) -> str:
    fields = media(number)
    video = VideoInputRequest(
        media_source=MediaSource(url=fields["media_source"]["url"]),
        embedding_option=fields["embedding_option"],
        embedding_scope=fields["embedding_scope"],
    )
    return client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=video).id


def bare_create(http: httpx.Client, url: str, number: int) -> str:
    body = {"input_type": "video", "model_name": "marengo3.0", "video": media(number)}
    return http.post(f"{url}/embed-v2/tasks", json=body, headers={"x-api-key": "key"}).json()["_id"]


def bare_page(http: httpx.Client, url: str) -> int:
    params = {"page": 1, "page_limit": 50}
    return len(http.get(f"{url}/embed-v2/tasks", params=params, headers={"x-api-key": "key"}).json()["data"])


def rate(count: int, threads: int, call) -> Pace:
    with ThreadPoolExecutor(threads) as pool:
        clock = Clock()
        for _ in pool.map(call, range(count)):
            pass
        return clock.pace(count)


async def async_rate(count: int, at_once: int, call) -> Pace:
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    clock = Clock()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return clock.pace(count)


async def async_rates(url: str, count: int, at_once: int, *, ours: bool) -> Pace:
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    if ours:
        async with AsyncEmbedClient(api_key="key", base_url=url) as client:

            async def create(number: int) -> None:
                video = VideoInputRequest.model_validate(media(number))
                await client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=video)

            return await async_rate(count, at_once, create)
    async with httpx.AsyncClient(limits=limits) as http:

        async def post(number: int) -> None:
            body = {"input_type": "video", "model_name": "marengo3.0", "video": media(number)}
            (await http.post(f"{url}/embed-v2/tasks", json=body, headers={"x-api-key": "key"})).json()

        return await async_rate(count, at_once, post)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--creates", type=int, default=1500)
    parser.add_argument("--pages", type=int, default=600)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
        return
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1.3"
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    rounds: dict[str, list[tuple[Pace, Pace]]] = {}

    def keep(name: str, bare: Pace, ours: Pace) -> None:
        rounds.setdefault(name, []).append((bare, ours))

    creates, pages, threads = arguments.creates, arguments.pages, arguments.threads
    try:
        with httpx.Client(limits=limits) as http, EmbedClient(api_key="key", base_url=url) as client:
            for _ in range(arguments.rounds):
                keep(
                    "creates, threads",
                    rate(creates, threads, lambda number: bare_create(http, url, number)),
                    rate(creates, threads, lambda number: our_create(client, number)),
                )
                keep(
                    "creates, asyncio",
                    asyncio.run(async_rates(url, creates, threads, ours=False)),
                    asyncio.run(async_rates(url, creates, threads, ours=True)),
                )
                keep(
                    "list pages, threads",
                    rate(pages, threads, lambda _: bare_page(http, url)),
                    rate(pages, threads, lambda _: len(client.v_2.tasks.list(page_limit=50).items)),
                )
    finally:
        server.terminate()
        server.wait(10)
    print(f"{'':20} {'bare httpx':>11} {'ours':>11} {'share':>7} {'bare cpu':>10} {'our cpu':>10} {'share':>7}")
    for name, paces in rounds.items():
        bare, ours = (max(pair[side].per_sec for pair in paces) for side in (0, 1))
        bare_cpu, our_cpu = (min(pair[side].cpu_sec for pair in paces) for side in (0, 1))
        print(
            f"{name:20} {bare:9.0f}/s {ours:9.0f}/s {ours / bare:7.0%} "
            f"{bare_cpu * 1e6:7.0f} us {our_cpu * 1e6:7.0f} us {bare_cpu / our_cpu:7.0%}"
        )
    print("budget: 80%")


if __name__ == "__main__":
    main()
