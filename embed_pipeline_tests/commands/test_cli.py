"""The command line over a home in which something has run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from embed_pipeline import cli
from embed_pipeline.commands.context import exported, find_context
from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline.errors import ConfigurationError
from embed_pipeline_tests.world import write_sound


@dataclass(frozen=True)
class Shell:
    """Runs commands over one home, media folder and platform."""

    home: Path
    media: Path
    environment: Mapping[str, str]

    def run(self, command: str, *arguments: str) -> Result:
        folder = "--library" if command == "search" else "--media"
        return self.bare(command, "--home", str(self.home), folder, str(self.media), *arguments)

    def bare(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli.cli, list(arguments), env=dict(self.environment))

    def json(self, command: str, *arguments: str) -> dict | list:
        result = self.run(command, *arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A home in which the demo's own driver has embedded a small folder, one file of which is broken."""
    root = tmp_path_factory.mktemp("command line")
    media = root / "media"
    for seed, name in enumerate(("one.wav", "talks/two, or so.wav")):
        write_sound(media / name, seed, 20.0)
    (media / "broken.wav").write_bytes(b"no media")
    for file in media.rglob("*.wav"):
        # Old enough not to be taken for files that are still being written.
        os.utime(file, (time.time() - 60, time.time() - 60))
    with Emulator(EmulatorSettings(engine="instant", media_root=media, workers=1)) as emulator:
        shell = Shell(root / "home", media, {"EMBED_BASE_URL": emulator.base_url, "COLUMNS": "200"})
        embed(shell)
        yield shell


def embed(shell: Shell) -> None:
    import dagster as dg

    from embed_pipeline.orchestration.daemon import InProcessDaemon
    from embed_pipeline.orchestration.definitions import build_definitions
    from embed_pipeline.orchestration.environment import blueprint_from_environment

    context = find_context(shell.home, shell.media, {**shell.environment, "EMBED_SENSOR_INTERVAL": "5"})
    assert context.project is not None
    context.project.dagster_home()
    with exported(context.environment), dg.DagsterInstance.from_config(str(context.dagster_home)) as instance:
        blueprint = blueprint_from_environment(context.environment)
        driver = InProcessDaemon(build_definitions(blueprint), instance, blueprint.names)
        driver.discover()
        driver.collect_ready()


def words(result: Result) -> str:
    return " ".join(result.output.split())


def test_status_tells_the_one_state_of_each_file(shell: Shell) -> None:
    told = shell.json("status")

    assert told["counts"] == {
        "unsubmitted": 0,
        "processing": 0,
        "embedded": 2,
        "failed": 1,
        "expired": 0,
        "gone": 0,
    }
    by_key = {row["media"]: row for row in told["media"]}
    assert by_key["talks/two%2C or so.wav"]["state"] == "embedded"
    assert by_key["talks/two%2C or so.wav"]["segments"] > 0
    assert "not playable" in by_key["broken.wav"]["reason"]
    table = shell.run("status")
    assert "talks/two, or so.wav" in table.output
    assert "3 media files: 2 embedded, 1 failed." in words(table)


def test_status_can_be_narrowed_to_a_state(shell: Shell) -> None:
    rows = shell.json("status", "--state", "failed")["media"]

    assert [row["media"] for row in rows] == ["broken.wav"]


def test_a_home_where_nothing_ran_is_answered_with_what_to_do(shell: Shell, tmp_path: Path) -> None:
    for command in (["status"], ["retry", "--all"]):
        result = shell.bare(*command, "--home", str(tmp_path), "--media", str(shell.media))
        assert isinstance(result.exception, ConfigurationError)
        assert "embed-pipeline demo" in result.exception.message
        assert str(tmp_path) in result.exception.message


def test_plan_tells_what_is_left_to_do(shell: Shell) -> None:
    plan = shell.json("plan")

    assert plan["counts"]["unchanged"] == 2
    assert plan["counts"]["refused"] == 1
    assert plan["tasks"] == 0


def test_plan_works_before_anything_has_run(shell: Shell, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli.cli,
        ["plan", "--home", str(tmp_path), "--media", str(shell.media)],
        env={**shell.environment, "EMBED_PRICE_PER_MINUTE": "3", "EMBED_REQUESTS_PER_MINUTE": "1"},
    )

    assert result.exit_code == 0
    assert "2 tasks would be created for 0.7 media minutes, about 2.00 at 3 a minute." in words(result)
    assert "Under requests_per_minute (1) submitting takes at least 1 min." in words(result)
    assert not any(tmp_path.iterdir()), "a plan leaves nothing behind"


def test_retry_wants_to_know_what(shell: Shell) -> None:
    assert shell.run("retry").exit_code == 2
    assert "Name the media files to retry, or say --all." in shell.run("retry").output


def test_retry_suggests_the_nearest_name(shell: Shell) -> None:
    result = shell.run("retry", "brokn.wav")

    assert "Did you mean 'broken.wav'?" in result.exception.message


def test_retry_leaves_what_is_embedded_alone(shell: Shell) -> None:
    assert "one.wav is embedded" in shell.run("retry", "one.wav").exception.message


def test_retry_tells_what_became_of_it_and_fails_if_it_failed_again(shell: Shell) -> None:
    result = shell.run("retry", "--all")

    assert result.exit_code == 1
    assert "Retrying 1 media files" in words(result)
    assert "not playable" in words(result)


def test_search_by_media_file_finds_the_other_one(shell: Shell) -> None:
    matches = shell.json("search", "--media", "talks/two, or so.wav", "-k", "3")

    assert len(matches) == 3
    assert {match["media"] for match in matches} == {"one.wav"}
    assert matches[0]["link"].startswith("file://")


def test_search_by_segment_and_by_vector_agree(shell: Shell, tmp_path: Path) -> None:
    first = shell.json("search", "--media", "one.wav", "-k", "1")[0]
    context = find_context(shell.home, shell.media, shell.environment)
    from embed_pipeline.dataset import read_embeddings

    columns = ("segment_id", "embedding")
    rows = read_embeddings(context.environment["EMBED_OUTPUT"], columns=columns, source="segments").to_pylist()
    vector = next(row["embedding"] for row in rows if row["segment_id"] == first["segment_id"])
    np.save(tmp_path / "vector.npy", np.asarray(vector, np.float32))
    (tmp_path / "vector.json").write_text(json.dumps([float(value) for value in vector]))

    by_segment = shell.json("search", "--segment", first["segment_id"], "-k", "2")
    by_array = shell.json("search", "--vector", str(tmp_path / "vector.npy"), "-k", "3")
    by_json = shell.json("search", "--vector", str(tmp_path / "vector.json"), "-k", "3")

    assert by_array[0]["segment_id"] == by_json[0]["segment_id"] == first["segment_id"]
    assert [match["segment_id"] for match in by_array[1:]] == [match["segment_id"] for match in by_segment]


def test_search_embeds_a_file_that_is_not_in_the_dataset(shell: Shell, tmp_path: Path) -> None:
    unknown = write_sound(tmp_path / "unknown.wav", seed=0, seconds=20.0)  # the content of one.wav

    matches = shell.json("search", "--media", str(unknown), "-k", "2")

    assert matches[0]["media"] == "one.wav"
    assert matches[0]["score"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name one thing to search for"),
        (("--segment", "x", "--text", "y"), "Name one thing to search for"),
        (("--media", "nowhere.wav"), "neither a media file of the dataset nor a file"),
        (("--vector", "nowhere.npy"), "nowhere.npy cannot be read: No such file or directory."),
        (("--text", "bells"), "only among vectors of the emulator's engine"),
        (("--media", "one.wav", "--option", "visual"), "has no segments of the option 'visual'; it has 'audio', "),
    ],
)
def test_a_search_that_makes_no_sense_says_what_does(shell: Shell, arguments: tuple[str, ...], message: str) -> None:
    assert message in shell.run("search", *arguments).exception.message


def test_an_error_is_one_sentence_and_no_traceback(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["embed-pipeline", "status", "--home", str(tmp_path)])

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("Error: There is no Dagster instance")


def test_dagster_home_is_used_unless_a_home_is_named(tmp_path: Path) -> None:
    environment = {"DAGSTER_HOME": str(tmp_path / "team"), "EMBED_MEDIA": "s3://bucket/library"}

    assert find_context(None, None, environment).dagster_home == tmp_path / "team"
    assert find_context(None, None, environment).environment["EMBED_MEDIA"] == "s3://bucket/library"
    assert find_context(tmp_path / "home", tmp_path / "media", environment).project is not None
