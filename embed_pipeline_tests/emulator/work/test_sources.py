from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from embed_pipeline.emulator import EmulatorSettings, Switches, Timing
from embed_pipeline.emulator.work.sources import SourceError, fetch
from embed_pipeline.testing import TEST_SETTINGS

REAL = EmulatorSettings(engine="instant", timing=Timing(on_command=True), workers=1)


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """A web server with a file, redirects, and a file that lies about its size."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/file":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x" * 1000)
            elif path == "/endless":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"x" * 5000)
            elif path == "/cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x" * 10)
            elif path.startswith("/drip"):
                # A byte now and then, within the head or the body, for as long as somebody listens.
                head, body = (
                    (b"HTTP/1.1 200 OK\r\n", b"x: ") if path == "/drip/head" else (b"HTTP/1.1 200 OK\r\n\r\n", b"")
                )
                with suppress(OSError):
                    self.wfile.write(head + body)
                    while True:
                        self.wfile.write(b"x")
                        time.sleep(0.01)
            elif path == "/to":
                self.send_response(302)
                self.send_header("Location", query)
                self.end_headers()
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_file_is_embedded_and_a_missing_one_fails_with_the_words_of_the_platform(start, media_folder):
    emulator = start(replace(REAL, media_root=media_folder))
    film = emulator.finished(emulator.created(f"file://{quote(str(media_folder / 'silent film.mp4'))}"))
    assert film["metadata"]["duration"] == pytest.approx(12.0, abs=0.1)
    for name, words in (
        ("absent.mp4", "failed to fetch or materialize source media"),
        ("text.mp4", "We could not process your media for embedding."),
    ):
        failed = emulator.finished(emulator.created(f"file://{media_folder}/{name}"))
        assert (failed["status"], failed["data"]) == ("failed", None)
        assert failed["error"]["message"].startswith(words)


def test_a_missing_source_may_be_refused_at_creation(start, media_folder, web):
    settings = replace(
        REAL, media_root=media_folder, allow_private_sources=True, switches=Switches(source_check="create")
    )
    emulator = start(settings)
    assert emulator.create(f"file://{media_folder}/tone.wav").status_code == 202
    assert emulator.create(f"{web}/file").status_code == 202
    for url in (f"file://{media_folder}/absent.mp4", f"{web}/absent"):
        answer = emulator.create(url)
        assert answer.status_code == 400
        assert "failed to fetch" in answer.text


def test_a_name_that_leads_to_a_private_address_is_not_followed(tmp_path, web):
    port = web.rpartition(":")[2]

    def resolve(host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    with pytest.raises(SourceError, match="private network"):
        fetch(
            f"http://media.example.com:{port}/file", tmp_path / "a", limit=10**6, allow_private=False, resolve=resolve
        )
    fetch(f"http://media.example.com:{port}/file", tmp_path / "a", limit=10**6, allow_private=True, resolve=resolve)
    assert (tmp_path / "a").stat().st_size == 1000


def test_every_hop_of_a_redirect_is_held_to_the_rule(tmp_path, web):
    port = web.rpartition(":")[2]
    asked: list[str] = []

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    for target, reason in (("file:///etc/hostname", "not http"), ("gopher://a/b", "not http")):
        with pytest.raises(SourceError, match=reason):
            fetch(f"{web}/to?{target}", tmp_path / "a", limit=10**6, allow_private=True)
    with pytest.raises(SourceError, match="too many redirects"):
        fetch(f"{web}/to?/to?/to?/to?/to?/to?/to?/file", tmp_path / "a", limit=10**6, allow_private=True)
    fetch(
        f"{web}/to?http://other.example:{port}/file", tmp_path / "a", limit=10**6, allow_private=True, resolve=resolve
    )
    assert asked == ["127.0.0.1", "other.example"]


@pytest.mark.parametrize(
    ("path", "words"), [("/file", "File size"), ("/endless", "File size"), ("/cut", "failed to fetch")]
)
def test_a_download_that_is_too_large_or_breaks_off_is_refused(tmp_path, web, path, words):
    with pytest.raises(SourceError, match=words):
        fetch(f"{web}{path}", tmp_path / "a", limit=10**6 if path == "/cut" else 500, allow_private=True)


@pytest.mark.parametrize("path", ["/drip/head", "/drip/body", "/to?/drip/body"])
def test_a_download_that_drips_ends_with_its_time(tmp_path, web, path, monkeypatch):
    monkeypatch.setattr("embed_pipeline.emulator.work.sources._FETCH_SEC", 0.2)
    with pytest.raises(SourceError, match=r"it took longer than 0\.2 s"):
        fetch(f"{web}{path}", tmp_path / "a", limit=10**9, allow_private=True)


def test_a_signature_stays_out_of_failures(start):
    emulator = start(replace(REAL, allow_private_sources=True))
    failed = emulator.finished(emulator.created("http://127.0.0.1:9/a.mp4?Signature=s3cr3t"))
    assert failed["status"] == "failed"
    assert "s3cr3t" not in failed["error"]["message"]


def test_the_journal_keeps_no_key_and_no_signature(start):
    emulator = start(TEST_SETTINGS)
    emulator.create("https://u:p4ss@media.example.com/a.mp4?Signature=s3cr3t")
    emulator.create("bad://u:p4ss@media.example.com/a.mp4?Signature=s3cr3t")
    text = str(emulator.emulator.journal()) + str(emulator.emulator.summary())
    assert "https://media.example.com/a.mp4" in text
    for secret in ("s3cr3t", "p4ss", "tlk_secret"):
        assert secret not in text


def test_media_shorter_than_the_platform_takes_fails_with_its_length(start, media_folder: Path):
    emulator = start(replace(REAL, media_root=media_folder, min_duration_sec=10.0))
    failed = emulator.finished(emulator.created(f"file://{media_folder}/tone.wav"))
    assert failed["error"]["message"].startswith("Duration (8.")
