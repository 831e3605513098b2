from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
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
from embed_pipeline_tests.client.scripted_server import Handler, ScriptedServer, answering, resetting

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


@pytest.mark.parametrize(
    "arguments", [{"method": "direct"}, {"method": "url"}, {"method": "url", "file": b"x", "url": "u"}]
)
def test_an_asset_needs_the_source_that_its_method_names(client, platform, arguments):
    with pytest.raises(InvalidRequestError):
        client.assets.create(**arguments)
    assert platform.recorded == []


def test_names_stay_within_255_characters():
    name = unique_filename(Path("x" * 300 + ".mp4"))
    assert len(name) == 255
    assert name.endswith(".mp4")
    assert name != unique_filename(Path("x" * 300 + ".mp4"))


def test_an_upload_of_nothing_is_refused(client, tmp_path):
    with pytest.raises(UploadError, match="cannot be read"):
        client.assets.upload(tmp_path / "absent.mp4", type="video")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(UploadError, match="empty"):
        client.assets.upload(tmp_path / "empty.mp4", type="video")
