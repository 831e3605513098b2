"""The networks' weights: files of installed packages, accepted only if they are the reviewed ones."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from embed_pipeline.errors import ConfigurationError


def weight_file(package: str, path: str, sha256: str) -> Path:
    """Return a file of weights of an installed package, verified by its hash.

    The packages have one maintainer each and few users: the hash makes sure that the file is the one that was reviewed.

    Args:
        package: The package's import name; it is not imported.
        path: The file within it.
        sha256: The file's SHA-256 in hexadecimal.

    Raises:
        ConfigurationError: The package is not installed, or the file differs.
    """
    found = importlib.util.find_spec(package)
    folders = list(found.submodule_search_locations or []) if found is not None else []
    if not folders or not (file := Path(folders[0]) / path).is_file():
        raise ConfigurationError(
            f"the engine 'models' needs the package {package!r} with the file {path!r}:"
            " install it with pip install 'embed-pipeline[models]', or use the engine 'signal'"
        )
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != sha256:
        raise ConfigurationError(
            f"{file.name} of the package {package!r} is not the file that the engine 'models' was made for"
            f" (SHA-256 {digest[:12]}..., expected {sha256[:12]}...): install the pinned versions with"
            " pip install 'embed-pipeline[models]', or use the engine 'signal'"
        )
    return file
