from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from embed_pipeline.emulator import EmulatorSettings
from embed_pipeline.emulator.server import Emulator
from embed_pipeline_tests.emulator.api import sdk_conversation, sdk_queries
from embed_pipeline_tests.emulator.still_media import write_image

# Each version lies in a folder of its own within the virtual environment, which it would disturb as a package.
FOLDER = Path(os.environ.get("TWELVELABS_SDK_FOLDER", Path(sys.prefix) / "sdk"))
pytestmark = pytest.mark.server


def told_by(script: ModuleType, version: str, server: Emulator, *arguments: Path) -> dict[str, Any]:
    """What a script says that an official SDK made of the emulator's answers."""
    done = subprocess.run(
        [sys.executable, str(script.__file__), str(FOLDER / version), *map(str, arguments)],
        env={**os.environ, "TWELVELABS_BASE_URL": server.base_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert f"/{version}/" in seen["version"]
    return seen


@pytest.mark.parametrize("version", ["1.2.9", "1.3.6"])
def test_the_official_sdk_speaks_with_it_unchanged(version, media_folder):
    if not (FOLDER / version).is_dir():
        pytest.skip(f"the official SDK {version} is not installed below {FOLDER}")
    film = media_folder / "silent film.mp4"
    with Emulator(EmulatorSettings(media_root=media_folder, engine="instant", api_key="any")) as server:
        seen = told_by(sdk_conversation, version, server, film)
        assert seen["create_status"] == "processing"
        assert seen["statuses"] == ["ready", "ready", "ready", "failed"]
        assert seen["rows"] == [(3 + 1) * 2, (3 + 1) * 3, 2, 0]
        assert seen["lengths"] == [512]
        assert [name.rpartition("_")[2] for name in seen["metadata"][:3]] == ["Video", "Video", "Audio"]
        assert (seen["clip_length"], seen["filename"]) == (5, "silent film.mp4")
        assert seen["error"] == "failed to fetch or materialize source media"
        assert seen["listed"] == seen["created"][::-1]
        heard = seen["list_scopes"][1]
        assert (heard.get("audio_embedding_scope") or heard["audio_embedding_scopes"]) == ["clip"]
        assert seen["assets"] == ["silent film.mp4", "silent film.mp4"]
        assert seen["incomplete"] == 0
        assert seen["bad_source"] == ["BadRequestError", 400]
        assert seen["not_found"] == ["NotFoundError", 404]
        assert seen["bad_page"] == ["BadRequestError", 400]
        assert seen["no_key"] == ["ApiError", 401]
        assert seen["deleted"][1] == 404
        assert seen["429"] == ["TooManyRequestsError" if version == "1.3.6" else "ApiError", 429]
        assert seen["500"] == ["InternalServerError", 500]
        assert seen["steps"] == [["pending"], True, 1, ["completed"]]
        assert "failed to fetch" in seen["by_url"]
        assert seen["user_metadata"] == [{"shelf": 3, "row": ["left"]}, None]
        assert seen["inside"] == "ready"
        assert seen["technical"] == 480
        for name, status in (("bad_upload", 400), ("no_upload", 404), ("bad_asset", 400)):
            assert seen[name][1] == status, name
        assert seen["async"] == {"created": "processing", "rows": 8, "listed": True, "assets": 4}
        if version == "1.3.6":
            assert seen["newer_model"] == {
                "told": 256,
                "options": ["audio", "fused", "visual"],
                "scopes": ["clip"],
                "lengths": [256],
                "uncertain": True,
                "tokens": True,
            }
        # Exactly the tasks that the SDK knows of were made: none by a refused or failed request.
        assert server.platform.journal.summary()["tasks_created"] == (7 if version == "1.3.6" else 6)


@pytest.mark.parametrize("version", ["1.2.9", "1.3.6"])
def test_the_official_sdk_embeds_at_once(version, media_folder, tmp_path):
    if not (FOLDER / version).is_dir():
        pytest.skip(f"the official SDK {version} is not installed below {FOLDER}")
    write_image(tmp_path / "still.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "tone.wav").write_bytes((media_folder / "tone.wav").read_bytes())
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(32 * 1024**2 + 1)
    with Emulator(EmulatorSettings(media_root=tmp_path, engine="instant", api_key="any")) as server:
        seen = told_by(sdk_queries, version, server, tmp_path)
        summary = server.platform.journal.summary()
    assert seen["text"] == [512, None, None, "NoneType"]
    assert seen["image"] == [512, None, None, "Image"]
    assert seen["text_image"] == [512, None, None, "TextImage"]
    assert seen["audio"] == [512, "audio", 0.0, "Audio"]
    assert seen["multi_input"] == [512, None, None, "MultiInput"]
    assert (seen["no text"], seen["no key"]) == (["BadRequestError", 400], ["ApiError", 401])
    if version == "1.2.9":
        assert (summary["embedded_at_once"], summary["tasks_created"]) == (5, 0)
        return
    assert (summary["embedded_at_once"], summary["tasks_created"]) == (7, 0)
    assert [seen[name] for name in ("mixed", "alone", "image task", "document task")] == [["BadRequestError", 400]] * 4
    assert seen["large"] == ["ContentTooLargeError", 413]
    assert (seen["several"], seen["several_usage"]) == ([512, None, None, "MultiInput"], ["audio", "image", "text"])
    assert seen["words"][0] == 256
