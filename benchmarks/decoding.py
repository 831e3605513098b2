"""Decoding the result of a four-hour video: ours, the official SDK's, and the bare JSON parse, in one run.

    python benchmarks/decoding.py [--repeat 5] [--sdk 1.3.6] [--without-sdk]

The body has 7,200 vectors of 512 (14,400 s in segments of 6 s, three options), as `GET /embed-v2/tasks/{id}` sends it.
Each contender runs in a process of its own, so that peak memory means something: it is the highest resident size while
decoding, less what the process held before it had the body. Times are the best of the repetitions, and the bare parse
is that of the fastest parser found here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEGMENTS, DIMENSION = 7200, 512


def make_body(path: Path) -> None:
    import numpy as np

    vectors = np.random.default_rng(7).standard_normal((SEGMENTS, DIMENSION)) / 22.6
    options = ("visual", "audio", "transcription")
    data = [
        {
            "embedding": vectors[number].tolist(),
            "embedding_option": options[number % 3],
            "embedding_scope": "clip",
            "start_sec": number // 3 * 6.0,
            "end_sec": number // 3 * 6.0 + 6.0,
        }
        for number in range(SEGMENTS)
    ]
    metadata = {
        "input_type": "video",
        "duration": 14400.0,
        "embedding_scopes": ["clip"],
        "embedding_options": list(options),
    }
    path.write_text(
        json.dumps({"_id": "64f8d2c7e4a1b37f8a9c5d12", "status": "ready", "data": data, "metadata": metadata})
    )


def resident(which: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(which)).split()[1]) * 1024


def contender(name: str, sdk: str):
    """The function from bytes to result, with everything imported."""
    if name == "ours":
        import numpy as np  # noqa: F401 - decoding loads it; its size is not the body's
        import simdjson

        from embed_pipeline.client import decode_task

        return lambda body: decode_task(body).segments.embedding
    if name == "simdjson parse":
        import simdjson

        return lambda body: simdjson.Parser().parse(body)
    if name == "orjson parse":
        import orjson

        return orjson.loads
    if name == "json parse":
        return json.loads
    sys.path.insert(0, str(Path(sys.prefix) / "sdk" / sdk))
    import httpx
    import twelvelabs

    held: dict[str, bytes] = {}
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=held["body"])))
    client = twelvelabs.TwelveLabs(api_key="k", base_url="http://platform.example/v1.3", httpx_client=http)

    def retrieve(body: bytes):
        held["body"] = body
        return client.embed.v_2.tasks.retrieve("64f8d2c7e4a1b37f8a9c5d12")

    return retrieve


def measure(name: str, path: Path, repeat: int, sdk: str) -> dict[str, float]:
    run = contender(name, sdk)
    before = resident("VmRSS")
    body = path.read_bytes()
    times = []
    for number in range(repeat):
        began = time.perf_counter()
        result = run(body)
        times.append(time.perf_counter() - began)
        if number == 0:
            peak = resident("VmHWM") - before
        del result
    return {"first": times[0], "best": min(times), "peak": peak, "body": len(body)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--sdk", default="1.3.6")
    parser.add_argument("--without-sdk", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--body", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(measure(arguments.contender, arguments.body, arguments.repeat, arguments.sdk)))
        return
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body.json"
        make_body(body)
        names = [
            "simdjson parse",
            "orjson parse",
            "json parse",
            "ours",
            *([] if arguments.without_sdk else ["official SDK"]),
        ]
        found: dict[str, dict[str, float]] = {}
        for name in names:
            repeat = 1 if name == "official SDK" else arguments.repeat
            command = [sys.executable, __file__, "--contender", name, "--body", str(body), "--repeat", str(repeat)]
            done = subprocess.run([*command, "--sdk", arguments.sdk], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
                continue
            found[name] = json.loads(done.stdout)
    size = found["ours"]["body"]
    print(f"{SEGMENTS} vectors of {DIMENSION}, {size / 1e6:.1f} MB of JSON\n")
    print(f"{'':16} {'first':>9} {'best':>9} {'peak memory':>13} {'of the body':>12}")
    for name, figures in found.items():
        peak = figures["peak"]
        print(
            f"{name:16} {figures['first']:7.3f} s {figures['best']:7.3f} s {peak / 1e6:10.0f} MB {peak / size:11.2f}x"
        )
    bare = min(figures["best"] for name, figures in found.items() if name.endswith("parse"))
    print(f"\nours takes {found['ours']['best'] / bare:.2f} times the fastest bare parse (budget 1.30)")
    print(f"ours holds {found['ours']['peak'] / size:.2f} times the body (budget 3.00)")
    if "official SDK" in found:
        times = found["official SDK"]["best"] / found["ours"]["best"]
        print(f"ours is {times:.0f} times as fast as the official SDK {arguments.sdk} (budget 60)")


if __name__ == "__main__":
    main()
