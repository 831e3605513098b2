"""Command line: demo, dev, emulator, plan, status, retry, check, ledger and search."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from embed_pipeline import __version__
from embed_pipeline.commands.code_location import CodeLocation
from embed_pipeline.commands.context import find_context
from embed_pipeline.errors import EmbedPipelineError

_HOME = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".embed_pipeline"),
    show_default=True,
    help="Where Dagster's instance, the emulator's state and the dataset are kept.",
)
_HOME_OR_INSTANCE = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="The --home of demo and dev. Otherwise DAGSTER_HOME where it is set, else .embed_pipeline.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output instead of a table.")
_MEDIA = click.option(
    "--media",
    # Not a path: that would make s3:/bucket of s3://bucket. EMBED_MEDIA is read where the place is looked for, because
    # a variable must not count as if somebody had named a library other than that of a code location.
    default=None,
    help="The folder, prefix or manifest to embed; EMBED_MEDIA, or else a sample library that is made for you.",
)


def _code_location(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options by which Dagster's own command line names a code location."""

    @click.option("--module-name", "-m", "module", help="The Python module with the pipeline's definitions.")
    @click.option(
        "--python-file",
        "-f",
        "file",
        type=click.Path(path_type=Path),
        help="The Python file with the pipeline's definitions.",
    )
    @click.option(
        "--workspace", "-w", type=click.Path(path_type=Path), help="The workspace file that names the code locations."
    )
    @click.option("--pipeline", help="The pipeline's name, where there are several.")
    @functools.wraps(command)
    def with_code(
        *, module: str | None, file: Path | None, workspace: Path | None, pipeline: str | None, **others: Any
    ) -> None:
        command(code=CodeLocation(module, file, workspace, pipeline), **others)

    return with_code


def _console() -> Console:
    """Where things are shown; a pipe or a log has no width of its own, and 80 columns fold every file name."""
    return Console(width=None if sys.stdout.isatty() else 120)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Keep a library of audio and video embedded, with Dagster."""


@cli.command()
@_MEDIA
@_HOME
def demo(media: str | None, home: Path) -> None:
    """Embed a folder from beginning to end and show what came of it."""
    from embed_pipeline.commands.demo import run_demo

    sys.exit(run_demo(find_context(home, media, os.environ), _console()))


@cli.command()
@_MEDIA
@_HOME
@click.option("--port", type=int, default=3000, show_default=True, help="The port of Dagster's UI.")
def dev(media: str | None, home: Path, port: int) -> None:
    """Run the emulator, Dagster's daemon and its UI over a folder."""
    from embed_pipeline.commands.dev import run_dev

    sys.exit(run_dev(find_context(home, media, os.environ), port, _console()))


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def emulator(arguments: tuple[str, ...]) -> None:
    """Run the emulator of the platform; --help lists what it takes."""
    from embed_pipeline.emulator.server import main as run_emulator

    sys.exit(run_emulator(list(arguments)))


@cli.command()
@_code_location
@_MEDIA
@_HOME_OR_INSTANCE
@_JSON
def plan(code: CodeLocation, media: str | None, home: Path | None, as_json: bool) -> None:
    """Show what would be created, what it would cost and how long it would take. Spends nothing."""
    from embed_pipeline.commands.plan import run_plan

    sys.exit(run_plan(find_context(home, media, os.environ, code), as_json, _console()))


@cli.command()
@_code_location
@_MEDIA
@_HOME_OR_INSTANCE
@_JSON
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["unsubmitted", "processing", "embedded", "failed", "expired", "gone"]),
    help="Only media files in this state; may be given more than once.",
)
def status(code: CodeLocation, media: str | None, home: Path | None, as_json: bool, states: tuple[str, ...]) -> None:
    """Show the one state of each media file, and why it failed if it did."""
    from embed_pipeline.commands.status import run_status

    sys.exit(run_status(find_context(home, media, os.environ, code), states, as_json, _console()))


@cli.command()
@_code_location
@_MEDIA
@_HOME_OR_INSTANCE
@click.option("--all", "everything", is_flag=True, help="All that failed or expired.")
@click.option("--wait/--no-wait", default=None, help="Wait for results and write them, or leave that to the sensor.")
@click.argument("keys", nargs=-1, metavar="[KEY...]")
def retry(
    code: CodeLocation, media: str | None, home: Path | None, everything: bool, wait: bool | None, keys: tuple[str, ...]
) -> None:
    """Create new tasks for media files that failed or expired: those named by KEY or path, or --all."""
    from embed_pipeline.commands.retry import run_retry

    if bool(keys) == everything:
        raise click.UsageError("Name the media files to retry, or say --all.")
    sys.exit(run_retry(find_context(home, media, os.environ, code), keys, wait, _console()))


@cli.command()
@_code_location
@_MEDIA
@_HOME_OR_INSTANCE
@_JSON
@click.option("--repair", is_flag=True, help="Fetch results again, import what is unknown, report what is missing.")
def check(code: CodeLocation, media: str | None, home: Path | None, as_json: bool, repair: bool) -> None:
    """Compare ledger, dataset and Dagster; --repair mends what it can without paying again."""
    from embed_pipeline.commands.check import run_check

    sys.exit(run_check(find_context(home, media, os.environ, code), repair, as_json, _console()))


@cli.group()
def ledger() -> None:
    """The store of what is known and was paid for."""


@ledger.command("import")
@_code_location
@_MEDIA
@_HOME_OR_INSTANCE
def import_(code: CodeLocation, media: str | None, home: Path | None) -> None:
    """Record what the dataset holds in the ledger, so that it is not paid for again."""
    from embed_pipeline.commands.check import run_import

    sys.exit(run_import(find_context(home, media, os.environ, code), _console()))


@cli.command()
@_code_location
@click.option("--library", help="What was embedded: the --media of demo and dev.")
@_HOME_OR_INSTANCE
@_JSON
@click.option("--segment", help="A segment id, as in the column segment_id.")
@click.option("--media", help="A media file of the dataset, or the path of any other: that one is embedded first.")
@click.option("--vector", type=click.Path(path_type=Path), help="A .npy or .json file with one vector or several.")
@click.option("--text", help="Words; among transcriptions that the emulator's engine has embedded.")
@click.option("-k", "--count", type=click.IntRange(1), default=10, show_default=True, help="How many to find.")
@click.option("--option", help="Only segments of this embedding option, such as visual.")
@click.option(
    "--scope",
    type=click.Choice(["clip", "asset", "any"]),
    default="clip",
    show_default=True,
    help="Segments, whole files, or both.",
)
@click.option("--space", help="The vector space, where the dataset has several.")
def search(
    code: CodeLocation,
    library: str | None,
    home: Path | None,
    as_json: bool,
    segment: str | None,
    media: str | None,
    vector: Path | None,
    text: str | None,
    count: int,
    option: str | None,
    scope: str,
    space: str | None,
) -> None:
    """Find the segments nearest to a segment, a media file, a vector or some words."""
    from embed_pipeline.commands.search import SearchRequest, run_search

    request = SearchRequest(segment, media, vector, text, count, option, None if scope == "any" else scope, space)
    sys.exit(run_search(find_context(home, library, os.environ, code), request, as_json, _console()))


def main() -> None:
    """The entry point: an error of ours is one sentence on standard error and exit code 2."""
    try:
        cli()
    except EmbedPipelineError as error:
        Console(stderr=True).print(Text.assemble(("Error:", "red"), f" {error.message}"), soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
