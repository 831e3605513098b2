from __future__ import annotations

import io
import json
import os
import tracemalloc
from dataclasses import dataclass, field
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

import pytest

from embed_pipeline.client import (
    InvalidRequestError,
    PollPolicy,
    Upload,
    UploadError,
    WaitTimeoutError,
)
from embed_pipeline.client.assets.operations import unique_filename
from embed_pipeline_tests.client.scripted_server import Handler, Recorded, ScriptedServer, answering, resetting

OFTEN = PollPolicy(initial_sec=0.02, max_sec=0.05)
CHUNK = 64 * 1024


@dataclass
class UploadStore:
    """The platform's side of uploads in parts, with URLs that are good for one use."""

    platform: ScriptedServer
    first_urls: int = 2
    chunks: dict[int, bytes] = field(default_factory=dict)
    reported: dict[int, str] = field(default_factory=dict)
    puts: list = field(default_factory=list)
    used_urls: set = field(default_factory=set)
    size: int = 0
    status: str = "active"
    urls_made: int = 0
    keeps_content: bool = True

    def __call__(self, handler: Handler) -> bool:
        method, path = handler.recorded.method, handler.recorded.path.removeprefix("/v1.3")
        if method == "POST" and path == "/assets":
            self.platform.assets["direct"] = {"_id": "direct", "status": "ready", "filename": "f"}
            handler.answer(201, {"_id": "direct", "status": "processing", "method": "direct"})
        elif method == "POST" and path == "/assets/multipart-uploads":
            self.size = handler.recorded.json["total_size"]
            self.platform.assets["parts"] = {"_id": "parts", "status": "ready", "filename": "f"}
            urls = [self.url(number) for number in range(1, min(self.total, self.first_urls) + 1)]
            headers = {"x-amz-meta-upload": "u1"}
            body = {"upload_id": "u1", "asset_id": "parts", "upload_urls": urls, "upload_headers": headers}
            handler.answer(201, {**body, "chunk_size": CHUNK, "total_chunks": self.total})
        elif method == "POST" and path.endswith("/presigned-urls"):
            asked = handler.recorded.json
            assert 1 <= asked["count"] <= 50
            assert asked["start"] + asked["count"] - 1 <= self.total
            numbers = range(asked["start"], asked["start"] + asked["count"])
            handler.answer(200, {"upload_id": "u1", "upload_urls": [self.url(number) for number in numbers]})
        elif method == "POST":
            for part in handler.recorded.json["completed_chunks"]:
                assert part["proof"] == f"etag-{part['chunk_index']}"
                self.reported[part["chunk_index"]] = part["proof"]
            handler.answer(200, {"asset_id": "parts", "total_completed": len(self.reported)})
        elif method == "GET" and "multipart-uploads" in path:
            page = int(handler.recorded.query["page"])
            numbers = sorted(self.reported)[(page - 1) * 50 : page * 50]
            parts = [{"index": number, "status": "completed"} for number in numbers]
            handler.answer(200, {"upload_id": "u1", "status": self.status, "uploaded_chunks": parts})
        elif method == "PUT":
            self.put(handler)
        else:
            return False
        return True

    @property
    def total(self) -> int:
        return -(-self.size // CHUNK)

    def url(self, number: int) -> dict:
        self.urls_made += 1
        address = f"{self.platform.address}/store/{number}?X-Amz-Signature=topsecret{self.urls_made}"
        return {"chunk_index": number, "url": address}

    def put(self, handler: Handler) -> None:
        number = int(urlsplit(handler.path).path.rpartition("/")[2])
        signature = parse_qs(urlsplit(handler.path).query)["X-Amz-Signature"][0]
        assert "x-api-key" not in handler.recorded.headers
        assert handler.recorded.headers["x-amz-meta-upload"] == "u1"
        if signature in self.used_urls:
            handler.answer(403, b"<Error>used</Error>", content_type="application/xml")
            return
        self.used_urls.add(signature)
        if self.puts:
            self.puts.pop()(handler)
            return
        self.chunks[number] = handler.recorded.body if self.keeps_content else b""
        if not self.keeps_content:
            handler.recorded.body = b""
        handler.answer(200, b"", {"ETag": f'"etag-{number}"'})

    @property
    def content(self) -> bytes:
        return b"".join(self.chunks[number] for number in sorted(self.chunks))


@pytest.fixture
def store(platform: ScriptedServer) -> UploadStore:
    platform.extension = UploadStore(platform)
    return platform.extension


@pytest.fixture
def media(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(os.urandom(9 * CHUNK + 123))
    return path


def test_a_small_file_goes_in_one_request_under_a_unique_name(client, platform, store, media):
    names = set()
    for _ in range(2):
        assert client.assets.upload(media, type="video", poll=OFTEN).id == "direct"
        sent = platform.requests_to("POST", "/assets")[-1].body
        assert media.read_bytes() in sent
        assert b'name="method"\r\n\r\ndirect' in sent
        names.add(sent.partition(b'name="filename"\r\n\r\n')[2].partition(b"\r\n")[0])
    assert len(names) == 2
    assert all(name.startswith(b"film-") and name.endswith(b".mp4") for name in names)


def test_a_large_file_goes_in_parts_and_nothing_is_written_beside_it(client, store, media):
    media.chmod(0o444)
    progress = []
    asset = client.assets.upload(
        media, type="video", direct_up_to=1, poll=OFTEN, on_progress=lambda sent, size: progress.append((sent, size))
    )
    assert asset.media_source.asset_id == "parts"
    assert store.content == media.read_bytes()
    assert progress[-1] == (media.stat().st_size, media.stat().st_size)
    assert list(media.parent.iterdir()) == [media]


@pytest.mark.parametrize(
    "fault", [answering(500), answering(403), resetting, answering(503, b"", {"Retry-After": "0"})]
)
def test_a_part_that_fails_is_sent_again_with_a_fresh_url(client, store, media, fault):
    store.puts.extend([fault, fault])
    client.assets.upload(media, type="video", direct_up_to=1, poll=OFTEN)
    assert store.content == media.read_bytes()


def test_an_upload_that_broke_off_is_resumed_without_sending_parts_twice(client, store, media):
    media.write_bytes(os.urandom(60 * CHUNK))
    kept: list[str] = []

    def go_down(sent: int, size: int) -> None:
        raise RuntimeError("the machine went down")

    with pytest.raises(RuntimeError):
        client.assets.upload(
            media,
            type="video",
            direct_up_to=1,
            on_upload=lambda upload: kept.append(upload.to_json()),
            on_progress=go_down,
        )
    assert "topsecret" not in kept[0]
    before = dict(store.chunks)
    store.chunks.clear()
    client.assets.upload(media, type="video", resume=Upload.from_json(kept[0]), poll=OFTEN)
    assert not before.keys() & store.chunks.keys()
    store.chunks.update(before)
    assert store.content == media.read_bytes()


def test_a_file_that_changed_is_not_resumed(client, store, media):
    kept = []
    client.assets.upload(media, type="video", direct_up_to=1, poll=OFTEN, on_upload=kept.append)
    media.write_bytes(b"other")
    with pytest.raises(UploadError, match="changed"):
        client.assets.upload(media, type="video", resume=kept[0])


def test_a_file_that_changes_while_it_is_sent_is_noticed(client, store, media):
    def spoil(handler: Handler) -> None:
        media.write_bytes(b"shorter")
        handler.answer(200, b"", {"ETag": '"etag-1"'})

    store.puts.append(spoil)
    with pytest.raises(UploadError, match=r"changed|shorter"):
        client.assets.upload(media, type="video", direct_up_to=1)


@pytest.mark.parametrize("status", ["expired", "failed"])
def test_an_upload_that_is_over_says_so(client, store, media, status):
    kept = []
    client.assets.upload(media, type="video", direct_up_to=1, poll=OFTEN, on_upload=kept.append)
    store.status = status
    with pytest.raises(UploadError, match=status):
        client.assets.upload(media, type="video", resume=kept[0])


def test_only_a_few_parts_are_in_memory(client, store, media):
    media.write_bytes(bytes(200 * CHUNK))

    store.keeps_content = False
    tracemalloc.start()
    try:
        client.assets.upload(media, type="video", direct_up_to=1, poll=OFTEN)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # At most four parts at once, each of them once on our side and once or twice on the server's, in this same process.
    assert peak < 20 * CHUNK + 4_000_000


def test_neither_error_nor_log_shows_a_signed_url(client, store, media, caplog):
    store.puts.extend([answering(400, b"<Error>https://s/x?X-Amz-Signature=topsecret1</Error>")] * 99)
    with caplog.at_level("DEBUG"), pytest.raises(Exception, match="/store/") as raised:
        client.assets.upload(media, type="video", direct_up_to=1)
    shown = f"{raised.value} {raised.value!r} {raised.value.body}" + "".join(
        each.getMessage() for each in caplog.records
    )
    assert "topsecret" not in shown


def test_waiting_for_an_asset_ends_with_its_status_or_the_deadline(client, platform):
    platform.assets["a"] = {"_id": "a", "status": "processing", "filename": "x.mp4"}
    with pytest.raises(WaitTimeoutError, match="asset a"):
        client.assets.wait("a", timeout_sec=0.1, poll=OFTEN)
    platform.assets["a"]["status"] = "failed"
    platform.assets["a"]["error"] = {"message": "codec unknown"}
    with pytest.raises(UploadError, match="codec unknown"):
        client.assets.wait("a", poll=OFTEN)


def test_an_upload_whose_outcome_is_unknown_is_not_repeated(client, platform, store, media):
    platform.posts.append(resetting)
    with pytest.raises(Exception, match="did not arrive whole"):
        client.assets.upload(media, type="video")
    assert len(platform.requests_to("POST", "/assets")) == 1


def test_after_429_the_whole_form_is_sent_again(client, platform, store, media):
    platform.posts.append(answering(429, b"", {"Retry-After": "0"}))
    client.assets.create(method="direct", file=media, user_metadata={"k": 1})
    first, second = (each.body for each in platform.requests_to("POST", "/assets"))
    assert len(first) == len(second)
    assert json.dumps({"k": 1}).encode() in second


class Unseekable(io.RawIOBase):
    """A stream that can be read once, like a pipe."""

    def __init__(self, content: bytes) -> None:
        self._left = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


def opened(path: Path) -> BinaryIO:
    file = path.open("rb")
    file.read(7)
    return file


WAYS = {
    "path": lambda path: path,
    "path as text": str,
    "open file": opened,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "function": lambda path: lambda: path.open("rb"),
    "named path": lambda path: ("own.mp4", path),
    "named bytes": lambda path: ("own.mp4", path.read_bytes()),
    "named open file": lambda path: ("own.mp4", opened(path)),
    "named file with type": lambda path: ("own.mp4", opened(path), "video/x-own"),
    "named file with type and headers": lambda path: (
        "own.mp4",
        io.BytesIO(path.read_bytes()),
        "video/x-own",
        {"X-A": "1"},
    ),
    "without a name": lambda path: (None, path.read_bytes()),
}


def form_of(request: Recorded) -> dict[str, Message]:
    content_type = request.headers["content-type"].encode()
    message = BytesParser().parsebytes(b"Content-Type: " + content_type + b"\r\n\r\n" + request.body)
    return {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}


@pytest.mark.parametrize("way", WAYS)
def test_a_file_can_be_named_in_every_way_of_the_official_sdk(client, platform, store, media, way):
    platform.posts.append(answering(429, b"", {"Retry-After": "0"}))
    file = WAYS[way](media)
    client.assets.create(method="direct", file=file)
    name = (
        "own.mp4" if way.startswith("named") else "film.mp4" if way in ("path", "path as text", "open file") else None
    )
    first, second = platform.requests_to("POST", "/assets")
    assert len(first.body) == len(second.body)
    form = form_of(second)
    assert form["file"].get_payload(decode=True) == media.read_bytes()
    assert form["file"].get_filename() == (name or "upload")
    assert ("filename" in form) == (name is not None)
    if name is not None:
        assert form["filename"].get_payload(decode=True).decode() == name
    if "type" in way:
        assert form["file"].get_content_type() == "video/x-own"
    assert form["file"].get("X-A") == ("1" if "headers" in way else None)
    assert not getattr(file[1] if isinstance(file, tuple) else file, "closed", False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("direct_up_to", [1, 10**9], ids=["in parts", "in one request"])
def test_upload_takes_every_way_as_well(client, platform, store, media, way, direct_up_to):
    asset = client.assets.upload(WAYS[way](media), type="video", direct_up_to=direct_up_to, poll=OFTEN)
    if direct_up_to == 1:
        assert (asset.id, store.content) == ("parts", media.read_bytes())
    else:
        sent = form_of(platform.requests_to("POST", "/assets")[0])
        assert sent["file"].get_payload(decode=True) == media.read_bytes()
        assert len(sent["filename"].get_payload()) > 12


def test_a_pipe_is_sent_once_and_never_half_a_second_time(client, platform, store):
    assert client.assets.create(method="direct", file=Unseekable(b"content")).id == "direct"
    platform.posts.append(answering(429, b"", {"Retry-After": "0"}))
    with pytest.raises(UploadError, match="second time"):
        client.assets.create(method="direct", file=Unseekable(b"content"))
    with pytest.raises(UploadError, match="give its path"):
        client.assets.upload(Unseekable(b"content"), type="video")


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (lambda path: path.open(), r"open\(path, 'rb'\)"),
        (lambda path: io.StringIO("text"), r"open\(path, 'rb'\)"),
        (lambda path: io.BytesIO(), "is empty"),
        (lambda path: 7, "this is a int"),
        (lambda path: ("a", b"b", "c", {}, "d"), "tuple of 5"),
        (lambda path: b"", "is empty"),
        (lambda path: "nowhere.mp4", r"nowhere\.mp4 cannot be read"),
        (lambda path: "a\0b", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused_in_words(client, platform, media, file, why):
    with pytest.raises((InvalidRequestError, UploadError), match=why):
        client.assets.create(method="direct", file=file(media))
    assert platform.recorded == []


def test_a_file_that_is_closed_already_is_refused(client, platform, media):
    with media.open("rb") as file:
        pass
    with pytest.raises(InvalidRequestError, match="closed"):
        client.assets.create(method="direct", file=file)


@pytest.mark.parametrize(
    "arguments", [{"method": "direct"}, {"method": "url"}, {"method": "url", "file": b"x", "url": "u"}]
)
def test_an_asset_needs_the_source_that_its_method_names(client, platform, arguments):
    with pytest.raises(InvalidRequestError):
        client.assets.create(**arguments)
    assert platform.recorded == []


def test_names_stay_within_255_characters():
    name = unique_filename("x" * 300 + ".mp4")
    assert len(name) == 255
    assert name.endswith(".mp4")
    assert name != unique_filename("x" * 300 + ".mp4")


def test_an_upload_of_nothing_is_refused(client, tmp_path):
    with pytest.raises(UploadError, match="cannot be read"):
        client.assets.upload(tmp_path / "absent.mp4", type="video")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(UploadError, match="empty"):
        client.assets.upload(tmp_path / "empty.mp4", type="video")
