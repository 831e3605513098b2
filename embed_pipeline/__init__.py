"""Keep a library of audio and video embedded, with Dagster."""

__version__ = "0.1.0"
