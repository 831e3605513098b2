from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embed_pipeline.emulator import EmulatorSettings
from embed_pipeline.emulator.server import Emulator
from embed_pipeline_tests.emulator import sdk_conversation

# Each version lies in a folder of its own within the virtual environment, which it would disturb as a package.
FOLDER = Path(os.environ.get("TWELVELABS_SDK_FOLDER", Path(sys.prefix) / "sdk"))
pytestmark = pytest.mark.server


@pytest.mark.parametrize("version", ["1.2.9", "1.3.6"])
def test_the_official_sdk_speaks_with_it_unchanged(version, media_folder):
    if not (FOLDER / version).is_dir():
        pytest.skip(f"the official SDK {version} is not installed below {FOLDER}")
    film = media_folder / "silent film.mp4"
    with Emulator(EmulatorSettings(media_root=media_folder, engine="instant", api_key="any")) as server:
        done = subprocess.run(
            [sys.executable, sdk_conversation.__file__, str(FOLDER / version), str(film)],
            env={**os.environ, "TWELVELABS_BASE_URL": server.base_url},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        assert f"/{version}/" in seen["version"]
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
        # Exactly the tasks that the SDK knows of were made: none by a refused or failed request.
        assert server.platform.journal.summary()["tasks_created"] == 4
