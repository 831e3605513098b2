"""The command line: demo, dev, emulator, plan, status, retry and search."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console

from embed_pipeline import __version__
from embed_pipeline.errors import EmbedPipelineError

_HOME = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".embed_pipeline"),
    show_default=True,
    help="Where Dagster's instance, the emulator's state and the dataset are kept.",
)
_MEDIA = click.option(
    "--media",
    type=click.Path(path_type=Path),
    default=lambda: os.environ.get("EMBED_MEDIA"),
    help="The folder to embed; EMBED_MEDIA, or else a sample library that is made for you.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Keep a library of audio and video embedded, with Dagster."""


@cli.command()
@_MEDIA
@_HOME
def demo(media: Path | None, home: Path) -> None:
    """Embed a folder from beginning to end and show what came of it."""
    from embed_pipeline.demo import run_demo

    sys.exit(run_demo(media, home.resolve(), Console()))


@cli.command()
@_MEDIA
@_HOME
@click.option("--port", type=int, default=3000, show_default=True, help="The port of Dagster's UI.")
def dev(media: Path | None, home: Path, port: int) -> None:
    """Run the emulator, Dagster's daemon and its UI over a folder."""
    from embed_pipeline.dev import run_dev

    sys.exit(run_dev(media, home.resolve(), port, Console()))


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def emulator(arguments: tuple[str, ...]) -> None:
    """Run the emulator of the platform; --help lists what it takes."""
    from embed_pipeline.emulator.server import main as run_emulator

    sys.exit(run_emulator(list(arguments)))


def main() -> None:
    """The entry point: an error of ours is one sentence on standard error and exit code 2."""
    try:
        cli()
    except EmbedPipelineError as error:
        Console(stderr=True).print(f"[red]Error:[/] {error.message}", highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
