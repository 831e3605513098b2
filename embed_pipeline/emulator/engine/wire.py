"""Messages between a worker process and its parent: a JSON head and raw numbers, never pickles.

A worker decodes strangers' files. Should one of them take it over, all it can do to its parent is to send wrong
numbers.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any, BinaryIO

import numpy as np

from embed_pipeline.emulator.engine.request import (
    Dynamic,
    EmbedRequest,
    EngineLimits,
    EngineResult,
    Fixed,
)

_SIZES = struct.Struct(">IQ")
_MAX_HEAD = 64 << 20
_MAX_BODY = 2 << 30


class WireError(Exception):
    """Invalid message."""


def send(pipe: BinaryIO, head: dict[str, Any], *arrays: np.ndarray) -> None:
    """Write one message.

    Args:
        pipe: Where to.
        head: Plain JSON values.
        arrays: Numbers that follow it, of any shape.
    """
    described = [[array.dtype.str, list(array.shape)] for array in arrays]
    text = json.dumps({**head, "arrays": described}).encode()
    bodies = [np.ascontiguousarray(array).tobytes() for array in arrays]
    pipe.write(_SIZES.pack(len(text), sum(map(len, bodies))))
    pipe.write(text)
    pipe.writelines(bodies)
    pipe.flush()


def receive(pipe: BinaryIO) -> tuple[dict[str, Any], list[np.ndarray]] | None:
    """Read one message.

    Returns:
        The head and the arrays, or None where the pipe has ended.

    Raises:
        WireError: What arrived is not a message.
    """
    sizes = pipe.read(_SIZES.size)
    if len(sizes) < _SIZES.size:
        return None
    head_size, body_size = _SIZES.unpack(sizes)
    if head_size > _MAX_HEAD or body_size > _MAX_BODY:
        raise WireError(f"a message of {head_size} + {body_size} bytes is too large")
    text, body = pipe.read(head_size), pipe.read(body_size)
    if len(text) < head_size or len(body) < body_size:
        return None
    try:
        head = json.loads(text)
        arrays, offset = [], 0
        for kind, shape in head.pop("arrays"):
            if kind not in {"<f4", "<f8"}:
                raise WireError(f"numbers of the kind {kind!r} are not expected")
            count = int(np.prod(shape, dtype=np.int64))
            arrays.append(np.frombuffer(body, np.dtype(kind), count, offset).reshape(shape).copy())
            offset += arrays[-1].nbytes
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WireError(f"not a message: {error}") from error
    return head, arrays


def pack_request(request: EmbedRequest) -> dict[str, Any]:
    """A request as plain JSON values."""
    return {**dataclasses.asdict(request), "fixed": isinstance(request.segmentation, Fixed)}


def unpack_request(values: dict[str, Any]) -> EmbedRequest:
    """The request that `pack_request` made these values from."""
    fixed, segmentation = values.pop("fixed"), values.pop("segmentation")
    for name in ("options", "scopes", "embedding_types"):
        values[name] = tuple(values[name])
    return EmbedRequest(
        **values,
        segmentation=Fixed(**segmentation) if fixed else Dynamic(**segmentation),
    )


def pack_limits(limits: EngineLimits) -> dict[str, Any]:
    """Limits as plain JSON values."""
    return dataclasses.asdict(limits)


def pack_result(result: EngineResult) -> tuple[dict[str, Any], list[np.ndarray]]:
    """A result as the head and the arrays of a message."""
    head = {
        "duration_sec": result.duration_sec,
        "options": result.options,
        "scopes": result.scopes,
        "missing": result.missing,
        "engine": result.engine,
    }
    arrays = [
        np.asarray(result.start_sec, "<f8"),
        np.asarray(result.end_sec, "<f8"),
        np.asarray(result.vectors, "<f4"),
    ]
    if result.uncertainty is not None:
        arrays.append(np.asarray(result.uncertainty, "<f4"))
    return head, arrays


def unpack_result(head: dict[str, Any], arrays: list[np.ndarray]) -> EngineResult:
    """The result that `pack_result` made these from.

    Raises:
        WireError: They do not fit together.
    """
    try:
        start, end, vectors, *rest = arrays
        rows = len(head["options"])
        fits = len(head["scopes"]) == len(start) == len(end) == len(vectors) == rows and vectors.ndim == 2
        if not fits or any(spread.shape != vectors.shape for spread in rest):
            raise WireError("the columns of a result differ in length")
        return EngineResult(
            duration_sec=float(head["duration_sec"]),
            options=tuple(map(str, head["options"])),
            scopes=tuple(map(str, head["scopes"])),
            start_sec=start,
            end_sec=end,
            vectors=vectors,
            uncertainty=rest[0] if rest else None,
            missing={str(option): str(why) for option, why in head["missing"].items()},
            engine=str(head["engine"]),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise WireError(f"not a result: {error}") from error
