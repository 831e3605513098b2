"""The local commands from the outside: what they take, what they say, and how they end."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import httpx
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from embed_pipeline import cli
from embed_pipeline.commands.context import ProjectDir, find_context
from embed_pipeline.commands.platform import configured_platform, emulator_process, running_emulator
from embed_pipeline.commands.signals import interrupted_in_order
from embed_pipeline.commands.status import status_table
from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.ledger import Ledger, MediaState
from embed_pipeline.ledger.database import default_url
from embed_pipeline.pipeline.publish import MediaStatus
from embed_pipeline_tests.world import write_sound

_OURS = ("EMBED_API_KEY", "TWELVE_LABS_API_KEY", "EMBED_BASE_URL", "TWELVELABS_BASE_URL", "EMBED_MEDIA", "EMBED_OUTPUT")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_OURS, "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    for seed, name in enumerate(("tone [eng].wav", "tone [/red].wav")):
        write_sound(folder / name, seed, 20.0)
    return folder


@pytest.fixture
def locked_platform(media: Path) -> Iterator[str]:
    """A platform that takes one key only."""
    settings = EmulatorSettings(engine="instant", media_root=media, workers=1, api_key="the right key")
    with Emulator(settings) as emulator:
        yield emulator.base_url


def run(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(cli.cli, [str(one) for one in arguments], env={"COLUMNS": "200", **environment})


def message(result: Result) -> str:
    assert isinstance(result.exception, EmbedPipelineError), result.output
    return result.exception.message


def test_the_demo_takes_files_that_were_copied_just_now_and_an_emulator_that_runs(tmp_path: Path, media: Path) -> None:
    state = ProjectDir.for_library(tmp_path / "home", media).emulator_state
    with emulator_process(state=state, media_root=media, engine="instant") as url:
        result = run("demo", "--home", tmp_path / "home", "--media", media)

        assert result.exit_code == 0, result.output
        assert f"Using the emulator that runs at {url}" in result.output
        assert running_emulator(state) == url, "another command's emulator is left as it was"
    assert running_emulator(state) is None
    assert "tone [eng].wav" in result.output
    assert "tone [/red].wav" in result.output
    assert result.output.count("embedded") == 2


def test_a_wrong_key_ends_the_demo_with_one_message(tmp_path: Path, media: Path, locked_platform: str) -> None:
    result = run(
        "demo", "--home", tmp_path, "--media", media, EMBED_BASE_URL=locked_platform, EMBED_API_KEY="a wrong key"
    )

    assert "401" in message(result)
    assert "Check EMBED_API_KEY" in message(result)
    assert "a wrong key" not in result.output + message(result)


def test_an_absent_platform_ends_the_demo_with_one_message(tmp_path: Path, media: Path) -> None:
    result = run("demo", "--home", tmp_path, "--media", media, EMBED_BASE_URL="http://127.0.0.1:9")

    assert message(result).startswith("The platform cannot be reached. Check EMBED_BASE_URL.")


def test_a_platform_that_refuses_every_task_ends_the_demo_with_the_words_of_the_run(
    tmp_path: Path, media: Path
) -> None:
    settings = EmulatorSettings(engine="instant", media_root=media, workers=1)
    with Emulator(settings) as emulator:
        emulator.platform.faults.replace([{"kind": "status", "status": 403, "on": "create"}], seed=0)
        result = run("demo", "--home", tmp_path, "--media", media, EMBED_BASE_URL=emulator.base_url)

    assert "403" in message(result)
    assert message(result).count("403") == 1, "what stands in the way of all is said once"


@pytest.mark.parametrize("command", ["demo", "dev"])
def test_a_folder_that_is_not_there_is_named_before_anything_starts(tmp_path: Path, command: str) -> None:
    result = run(command, "--home", tmp_path / "home", "--media", tmp_path / "nowhere")

    assert f"{str(tmp_path / 'nowhere')!r} does not exist" in message(result)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", ["demo", "dev"])
def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, media: Path, command: str) -> None:
    (tmp_path / "file").touch()

    assert "cannot be written (Not a directory). Name another context with --home" in message(
        run(command, "--home", tmp_path / "file" / "home", "--media", media)
    )


def test_a_plan_for_an_empty_folder_says_that_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()

    result = run("plan", "--home", tmp_path / "home", "--media", tmp_path / "media")

    assert result.output.strip() == "The media library holds no media files: no task would be created."


def test_an_empty_folder_is_told_with_what_lies_in_it_instead(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "notes.txt").write_text("words")

    result = run("demo", "--home", tmp_path / "home", "--media", tmp_path / "media")

    assert "There are no media files in" in message(result)
    assert "left out: 1 unsupported" in message(result)


def test_a_port_that_is_taken_is_named(tmp_path: Path, media: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("dev", "--home", tmp_path, "--media", media, "--port", port)

    assert f"Port {port} is taken" in message(result)


def test_retry_says_why_its_run_failed(tmp_path: Path, media: Path, locked_platform: str) -> None:
    (media / "broken.wav").write_bytes(b"no media")
    shared = ("--home", tmp_path / "home", "--media", media)
    result = run("demo", *shared, EMBED_BASE_URL=locked_platform, EMBED_API_KEY="the right key")
    assert result.exit_code == 0, result.output
    write_sound(media / "broken.wav", seed=7, seconds=20.0)

    result = run("retry", "--all", *shared, EMBED_BASE_URL=locked_platform, EMBED_API_KEY="a wrong key")

    assert result.exit_code == 1
    assert "The run failed" in result.output
    assert "Check EMBED_API_KEY" in result.output


def test_an_address_is_kept_as_it_was_named(tmp_path: Path) -> None:
    for environment, media in (({"EMBED_MEDIA": "s3://bucket/prefix"}, None), ({}, "s3://bucket/prefix")):
        context = find_context(tmp_path, media, environment)

        assert context.environment["EMBED_MEDIA"] == "s3://bucket/prefix"
        assert context.project is not None
        assert context.project.folder is None
    manifest = tmp_path / "list.txt"
    manifest.write_text("https://media.example.com/one.mp4\n")
    context = ProjectDir.for_library(tmp_path, manifest)
    assert context.location == str(manifest)
    assert context.folder is None
    assert ProjectDir.for_library(tmp_path, f"file://{tmp_path}/a%20b").folder == tmp_path / "a b"


def test_a_command_takes_an_address(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/library/notes.txt", b"words")

    result = run("plan", "--home", tmp_path, "--media", "memory://library", "--json")

    assert result.exit_code == 0, result.output
    assert '"tasks": 0' in result.stdout


def test_the_platform_is_named_without_what_its_address_may_hold() -> None:
    assert configured_platform({"EMBED_BASE_URL": "https://me:secret@api.example.com/v1.3?key=1"}) == "api.example.com"
    assert configured_platform({"TWELVE_LABS_API_KEY": "key"}) == "api.twelvelabs.io"
    assert configured_platform({}) is None


def test_names_and_reasons_that_look_like_markup_are_shown_as_they_are() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    rows = [MediaStatus("tone [eng].wav", MediaState.FAILED, reason="the box [/moov] is missing [bold]")]

    console.print(status_table(rows, "States"))

    shown = console.export_text()
    assert "tone [eng].wav" in shown
    assert "the box [/moov] is missing [bold]" in shown


def test_an_error_that_looks_like_markup_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "[eng] [/red]"
    monkeypatch.setattr(
        sys, "argv", ["embed-pipeline", "plan", "--home", str(tmp_path / "home"), "--media", str(missing)]
    )

    with pytest.raises(SystemExit):
        cli.main()

    assert "[eng] [/red]" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_supervisor_and_a_closed_terminal_end_a_command_as_ctrl_c_does(name: str) -> None:
    before = signal.getsignal(signal.Signals[name])
    with pytest.raises(KeyboardInterrupt), interrupted_in_order():
        signal.raise_signal(signal.Signals[name])
    assert signal.getsignal(signal.Signals[name]) is before


def test_an_interrupt_that_comes_within_a_finalizer_is_not_lost() -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        Finalized()
        time.sleep(5)

    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), interrupted_in_order():
        work()
    assert sys.unraisablehook is hook


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupted_in_order():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_demo_goes_on_where_one_that_was_killed_left_off(tmp_path: Path, media: Path) -> None:
    context = ProjectDir.for_library(tmp_path / "home", media)
    with emulator_process(state=context.emulator_state, media_root=media, engine="instant") as address:
        faults = [{"kind": "latency", "on": "create", "seconds": 5.0}]
        httpx.put(httpx.URL(address).join("/_emulator/faults"), json={"faults": faults}).raise_for_status()
        command = [
            sys.executable,
            "-m",
            "embed_pipeline.cli",
            "demo",
            "--home",
            str(tmp_path / "home"),
            "--media",
            media,
        ]
        with dg.DagsterInstance.from_config(str(context.dagster_home())) as instance:
            patience = {"EMBED_DOUBT_MARGIN": "1"}
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **patience}
            )
            started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
            deadline = time.monotonic() + 60
            with Ledger(default_url(str(context.dataset))) as ledger:
                while not (instance.get_runs(started) and ledger.tasks.claims("")):
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            process.kill()
            process.wait()
            assert instance.get_runs(started)
            httpx.put(httpx.URL(address).join("/_emulator/faults"), json={"faults": []}).raise_for_status()

            # The requests that were on their way were dropped with their client: nobody made a task of them.
            result = run("demo", "--home", tmp_path / "home", "--media", media, **patience)

            assert result.exit_code == 0, result.output
            assert not instance.get_runs(started)


@pytest.mark.slow
def test_sigterm_ends_the_demo_and_its_emulator(tmp_path: Path, media: Path) -> None:
    state = ProjectDir.for_library(tmp_path / "home", media).emulator_state
    with emulator_process(state=state, media_root=media, engine="instant", hold=True):
        command = ["demo", "--home", str(tmp_path / "home"), "--media", str(media)]
        process = subprocess.Popen(
            [sys.executable, "-m", "embed_pipeline.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        # Tasks are held: without a signal it would wait for an hour.
        time.sleep(8)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) != 0
