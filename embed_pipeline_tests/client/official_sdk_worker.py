"""Run with the official SDK's folder as the first argument: does on standard input's request what the SDK would do.

One JSON object per line in, one out. ``{"call", "arguments"}`` answers the HTTP request that the SDK puts on the wire;
with a ``body`` it answers what the SDK reads from that response.
"""

from __future__ import annotations

import base64
import json
import sys

sys.path.insert(0, sys.argv[1])

import httpx
import twelvelabs
from twelvelabs import types


def build(tree):
    if isinstance(tree, dict) and "$" in tree:
        return getattr(types, tree["$"])(**{name: build(value) for name, value in tree["fields"].items()})
    if isinstance(tree, list):
        return [build(each) for each in tree]
    return tree


def main() -> None:
    seen: list[httpx.Request] = []
    answer = {"body": b"{}"}

    def respond(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        return httpx.Response(200, content=answer["body"], headers={"content-type": "application/json"})

    client = twelvelabs.TwelveLabs(
        api_key="key",
        base_url="http://platform.example/v1.3",
        httpx_client=httpx.Client(transport=httpx.MockTransport(respond)),
    )
    for line in sys.stdin:
        asked = json.loads(line)
        seen.clear()
        answer["body"] = base64.b64decode(asked["body"]) if "body" in asked else b'{"_id":"1","status":"processing"}'
        target = client
        for step in asked["call"].split("."):
            target = getattr(target, step)
        try:
            result = target(**{name: build(value) for name, value in asked["arguments"].items()})
        except Exception as error:  # what the SDK makes of it is the answer
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
            continue
        request = seen[0]
        if hasattr(result, "items") and not hasattr(result, "model_dump"):
            dump = [each.model_dump(mode="json") for each in result.items or ()]
        else:
            dump = result.model_dump(mode="json")
        sent = {
            "method": request.method,
            "path": request.url.path,
            "query": sorted(request.url.params.multi_items()),
            "key": request.headers.get("x-api-key"),
            "content_type": request.headers.get("content-type", "").partition(";")[0],
            "body": base64.b64encode(request.content).decode(),
        }
        print(json.dumps({"request": sent, "read": dump}), flush=True)


main()
