from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.urls import below_root, check_url, link_fault, not_media
from embed_pipeline.testing import TEST_SETTINGS


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://www.youtube.com/watch?v=x", "hosting platform"),
        ("https://youtu.be/x", "hosting platform"),
        ("https://VIMEO.com./1", "hosting platform"),
        ("https://drive.google.com/file/d/x/view", "cloud drive"),
        ("https://www.dropbox.com/s/x/a.mp4?dl=0", "cloud drive"),
        ("https://team.sharepoint.com/:v:/a.mp4", "cloud drive"),
        ("https://media.example.com/live.m3u8?token=s3cret", "playlist"),
        ("https://media.example.com/live.MPD", "playlist"),
        ("https://media.example.com/youtube.com/a.mp4", None),
        ("https://notyoutube.com/a.mp4", None),
        ("https://storage.googleapis.com/bucket/a.mp4", None),
        ("https://dl.dropboxusercontent.com/s/x/a.mp4", None),
        ("https://media.example.com/m3u8", None),
    ],
)
def test_what_cannot_be_a_media_file_is_told_from_what_may(url, reason):
    found = not_media(urlsplit(url))
    assert (found is None) is (reason is None)
    if reason is not None:
        assert reason in found
        assert "link to the file itself" in found
        assert "s3cret" not in found


def test_such_links_are_refused_for_tasks_and_assets_alike(emulator):
    url = "https://www.youtube.com/watch?v=s3cret"
    for answer in (emulator.create(url), emulator.http.post("/assets", data={"method": "url", "url": url})):
        assert answer.status_code == 400
        assert "www.youtube.com is a hosting platform" in answer.text
        assert "s3cret" not in answer.text
    assert emulator.emulator.tasks() == []


def test_a_file_below_the_root_is_found_whatever_its_name(tmp_path):
    for name in ("plain.mp4", "with space, and ü.mp4", "50%25?#.mp4", "deep/er.mp4"):
        assert below_root(f"file://{quote(str(tmp_path / name))}", tmp_path) == (tmp_path / name).resolve()


def test_nothing_outside_the_root_is_read_not_even_by_a_link(tmp_path):
    root, secret = tmp_path / "root", tmp_path / "secret.mp4"
    root.mkdir()
    secret.touch()
    (root / "link.mp4").symlink_to(secret)
    (root / "folder").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    for path in (
        str(secret),
        f"{root}/../secret.mp4",
        f"{root}/%2e%2e/secret.mp4",
        f"{root}/link.mp4",
        f"{root}/folder/secret.mp4",
        f"{tmp_path}/absent.mp4",
        f"{root}-other/a.mp4",
        f"{root}/a%00b",
    ):
        with pytest.raises(Refusal) as refused:
            below_root(f"file://{path}", root)
        assert "--media-root" in refused.value.message
    with pytest.raises(Refusal, match="names no host"):
        below_root(f"file://elsewhere{root}/a.mp4", root)


def test_a_file_needs_a_media_root(emulator):
    answer = emulator.create("file:///etc/hostname")
    assert answer.status_code == 400
    assert "--media-root" in answer.text


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "LOCALHOST.", "a.localhost", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0",
        "[::1]", "[::ffff:127.0.0.1]", "[fd00::1]", "[fe80::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1",
    ],
)  # fmt: skip
def test_private_hosts_are_refused_at_creation(host):
    with pytest.raises(Refusal, match="--allow-private-sources"):
        check_url(f"http://{host}/a.mp4?Signature=s3cr3t", media_root=None, allow_private=False, field="url")
    check_url(f"http://{host}/a.mp4", media_root=None, allow_private=True, field="url")


ODD = [
    "file:/x", "file:\\\\/x", "file:x", "file:", "file:/", "file://", "FILE:/x", "file://host/x", "file:///%00",
    "file://./x",
    "http:/a.example/b", "http:a.example/b", "https:\\\\a.example/b", "http://", "http:///b", "http://a.example:0/b",
    "http://a.example:99999/b", "http://a.example:x/b", "http://[::1/b", "http://[zz]/b", "http://a.example/\x00",
    "http://a.example/\nb", " http://a.example/b", "\thttp://a.example/b", "http://a.example\\@b.example/",
    "ftp://a.example/b",
    "//a.example/b", "a.mp4", "javascript:alert(1)", "data:video/mp4;base64,AAAA", "http", ":", "://", "\\",
    "http://?", "http://#",
]  # fmt: skip


@pytest.mark.parametrize("url", ODD)
def test_an_odd_url_is_refused_for_tasks_queries_and_assets(start, media_folder, url):
    emulator = start(replace(TEST_SETTINGS, media_root=media_folder))
    image = {"input_type": "image", "model_name": "marengo3.0", "image": {"media_source": {"url": url}}}
    for answer in (
        emulator.create(url),
        emulator.http.post("/embed-v2", json=image),
        emulator.http.post("/assets", data={"method": "url", "url": url}),
    ):
        assert answer.status_code == 400, answer.text
    assert emulator.emulator.tasks() == []


@given(
    st.sampled_from(
        ["", "file:", "file://", "file:///", "http://", "https://a.example", "HTTPS://", "http://a.example:"]
    ),
    st.text(max_size=30) | st.text(alphabet="/\\:@[]%?#.a0 ", max_size=20),
)
def test_any_text_is_a_url_or_refused_and_nothing_else(start_of, rest):
    url = f"{start_of}{rest}"
    if link_fault(url) is None:
        for root in (None, Path("/srv")):
            with suppress(Refusal):
                check_url(url, media_root=root, allow_private=False, field="field")


def test_a_file_whose_name_is_not_utf_8_is_found(tmp_path):
    name = os.fsdecode(b"caf\xe9 ?#.mp4")
    (tmp_path / name).touch()
    for url in ((tmp_path / name).as_uri(), f"FILE://localhost{tmp_path}/caf%e9%20?#.mp4"):
        assert link_fault(url) is None
        assert below_root(url, tmp_path).is_file()
