"""Writing an ONNX model: the few messages of the format that a plain convolutional network takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embed_pipeline.emulator.engine.request import FloatArray

_INT, _STRING, _INTS = 2, 3, 7  # AttributeProto.AttributeType
_OPSET = 13
_IR_VERSION = 8


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


class Graph:
    """A graph with one input and one output, grown node by node.

    Args:
        name: The graph's name.
        channels: How many channels the input picture has; its other sizes are free.
    """

    def __init__(self, name: str, channels: int) -> None:
        self._name = name
        self._channels = channels
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._count = 0

    def constant(self, values: FloatArray) -> str:
        """Add numbers, and return the name to refer to them by."""
        self._count += 1
        name = f"c{self._count}"
        dims = b"".join(_number(1, size) for size in values.shape)
        raw = np.ascontiguousarray(values, "<f4").tobytes()
        self._constants.append(_bytes(5, dims + _number(2, 1) + _bytes(8, name) + _bytes(9, raw)))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: int | str | Sequence[int]) -> str:
        """Add an operation, and return the name of its output.

        Args:
            kind: The operator, such as `Conv`.
            inputs: The names of its inputs.
            attributes: Its attributes: whole numbers, lists of them, or text.
        """
        self._count += 1
        name = f"n{self._count}"
        body = b"".join(_bytes(1, source) for source in inputs) + _bytes(2, name) + _bytes(4, kind)
        for key, value in attributes.items():
            if isinstance(value, int):
                told = _number(3, value) + _number(20, _INT)
            elif isinstance(value, str):
                told = _bytes(4, value) + _number(20, _STRING)
            else:
                told = b"".join(_number(8, entry) for entry in value) + _number(20, _INTS)
            body += _bytes(5, _bytes(1, key) + told)
        self._nodes.append(_bytes(1, body))
        return name

    def model(self, output: str, width: int) -> bytes:
        """The model, as bytes of an ONNX file, from the input `picture` to the named output of `width` values."""
        picture = self._value("picture", ["n", self._channels, "h", "w"])
        result = self._value(output, ["n", width])
        graph = b"".join(self._nodes) + _bytes(2, self._name) + b"".join(self._constants)
        graph += _bytes(11, picture) + _bytes(12, result)
        return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _bytes(1, "") + _number(2, _OPSET))

    @staticmethod
    def _value(name: str, shape: list[int | str]) -> bytes:
        sizes = b"".join(_bytes(1, _number(1, size) if isinstance(size, int) else _bytes(2, size)) for size in shape)
        return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, sizes)))
