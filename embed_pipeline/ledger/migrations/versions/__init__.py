"""Revisions, oldest first by number."""

from __future__ import annotations

HEAD = "0001"
"""The newest revision: what this version of the package reads and writes."""
