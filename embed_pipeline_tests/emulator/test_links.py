from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from embed_pipeline.emulator.links import not_media


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
