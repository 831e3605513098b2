"""Decoding of a finished task's bytes into one float32 matrix, without a Python object per number.

A body of a four-hour video has some 80 MB and 3.7 million numbers. It is parsed in windows of about a megabyte, cut
between two items of `data`: the parser then works in the cache, and its index never grows with the body. A cut is
only believed if every window, put in brackets, parses as JSON by itself and what remains of the body parses with an
empty `data`: as each window starts where a value is expected, that is proof that the cut is right. Otherwise the
body is parsed as a whole, so a strange layout costs time and never correctness.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from embed_pipeline.client.errors import UnreadableResponseError
from embed_pipeline.client.responses import EmbeddingTaskResponse, Segments

if TYPE_CHECKING:
    from numpy import float32, float64
    from numpy.typing import NDArray

Body = bytes | bytearray

WINDOW_BYTES = 1_000_000
_DATA_ARRAY = re.compile(rb'"data"\s*:\s*\[\s*(?=\{)')
_BETWEEN_OR_END = re.compile(rb"\}\s*(,\s*(?=\{)|\])")
_END = re.compile(rb"\}\s*\]")
_COLUMNS = ("embedding", "embedding_uncertainty", "embedding_option", "embedding_scope", "start_sec", "end_sec")


def decode_task(body: Body, *, window_bytes: int = WINDOW_BYTES) -> EmbeddingTaskResponse:
    """Read the body of `GET /embed-v2/tasks/{id}`.

    Args:
        body: The JSON, already decompressed. It is not modified and not referenced afterwards.
        window_bytes: About how much is parsed at a time.

    Returns:
        The task. `.data` and `.segments` hold the result, in the order of the body (which means nothing).

    Raises:
        UnreadableResponseError: The body is cut off or no JSON; or an item's vector is missing, is not finite, or
            differs in length from the others. The message names the item by its number in `data`, from 0.
    """
    reader = _reader()
    decoded = _decode_windows(reader, body, window_bytes) if len(body) > 2 * window_bytes else None
    head, columns = decoded or _decode_whole(reader, body)
    return _task(head, columns)


class _SimdReader:
    """JSON by simdjson: numbers go from its own memory straight into an array."""

    def __init__(self) -> None:
        import simdjson

        self._parser = simdjson.Parser()

    def parse(self, raw: Body) -> Any:
        """Return the document as a view, which must be gone before the next one is parsed."""
        return self._parser.parse(raw)

    def parse_plain(self, raw: Body) -> Any:
        """Return the document as Python objects."""
        return self._parser.parse(raw, recursive=True)

    @staticmethod
    def is_object(value: Any) -> bool:
        import simdjson

        return isinstance(value, simdjson.Object)

    @staticmethod
    def is_array(value: Any) -> bool:
        import simdjson

        return isinstance(value, simdjson.Array)

    @staticmethod
    def numbers(value: Any) -> NDArray[float64]:
        """Return a list of numbers as an array; raises if it is none."""
        import numpy as np

        numbers = np.frombuffer(value.as_buffer(of_type="d"))
        if len(numbers) != len(value):  # lists within the list were flattened
            raise ValueError("not a list of numbers")
        return numbers

    @staticmethod
    def field(element: Any, name: str) -> Any:
        """Return a field of an object as Python objects."""
        # simdjson looks names up as C strings, so behind a NUL it would find another name's value.
        if "\0" in name:
            return element.as_dict()[name]
        value = element[name]
        if hasattr(value, "as_dict"):
            return value.as_dict()
        return value.as_list() if hasattr(value, "as_list") else value


class _PlainReader:
    """JSON by orjson or Python's own parser, for machines for which there is no simdjson; several times slower."""

    def __init__(self) -> None:
        try:
            import orjson
        except ImportError:
            self._loads: Callable[[Any], Any] = json.loads
        else:
            self._loads = orjson.loads

    def parse(self, raw: Body) -> Any:
        try:
            return self._loads(raw)
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None

    parse_plain = parse

    @staticmethod
    def is_object(value: Any) -> bool:
        return isinstance(value, dict)

    @staticmethod
    def is_array(value: Any) -> bool:
        return isinstance(value, list)

    @staticmethod
    def numbers(value: Any) -> NDArray[float64]:
        import numpy as np

        if not isinstance(value, list) or bool in set(map(type, value)):
            raise TypeError("not a list of numbers")
        try:
            return np.frombuffer(array("d", value))
        except OverflowError:
            return np.array([math.inf] * len(value))

    @staticmethod
    def field(element: Any, name: str) -> Any:
        return element[name]


_Reader = _SimdReader | _PlainReader


def _reader() -> _Reader:
    try:
        return _SimdReader()
    except ImportError:
        return _PlainReader()


def _decode_windows(reader: _Reader, body: Body, window_bytes: int) -> tuple[dict[str, Any], _Columns] | None:
    start = _DATA_ARRAY.search(body)
    if start is None:
        return None
    columns, position = _Columns(reader), start.end()
    try:
        last = False
        while not last:
            ends, last = _window_ends(body, position, window_bytes)
            end = _add_window(reader, columns, body, position, ends)
            if end is None:
                return None
            position = end
        head = reader.parse_plain(body[: start.end()] + b"]" + body[position:])
    except ValueError:
        return None
    if not isinstance(head, dict) or head.pop("data", None) != []:
        return None
    return head, columns


def _window_ends(body: Body, position: int, window_bytes: int) -> tuple[Iterable[re.Match[bytes]], bool]:
    """Return the places where the window that begins at `position` may end, and True if it is the last one."""
    cut = _BETWEEN_OR_END.search(body, position + window_bytes)
    if cut is not None and cut[1] != b"]":
        return (cut,), False
    # The end of data may lie before the place where the search began, so it is looked for from the front.
    return _END.finditer(body, position), True


def _add_window(
    reader: _Reader, columns: _Columns, body: Body, position: int, ends: Iterable[re.Match[bytes]]
) -> int | None:
    """Add the items up to the first end that closes what was opened; return where the next window begins, or None."""
    for end in ends:
        try:
            window = reader.parse(b"[" + body[position : end.start() + 1] + b"]")
        except ValueError:
            continue
        # The parser refuses to go on while a view of a window lives: this one ends with the function.
        columns.add(window)
        return end.end()
    return None


def _decode_whole(reader: _Reader, body: Body) -> tuple[dict[str, Any], _Columns | None]:
    try:
        document = reader.parse(body)
    except ValueError as error:
        raise _diagnose(body, error) from None
    if not reader.is_object(document):
        raise UnreadableResponseError("The task's JSON is no object.")
    data, head = None, {}
    for name in document.keys():  # noqa: SIM118 - simdjson's object iterates differently
        if name == "data":
            data = document[name]
        else:
            head[name] = reader.field(document, name)
    if data is None:
        return head, None
    if not reader.is_array(data):
        raise UnreadableResponseError("The task's data is no list.")
    columns = _Columns(reader)
    columns.add(data)
    return head, columns


class _Columns:
    """Items collected into columns; finds the item that does not fit.

    Args:
        reader: The parser that the items come from.
    """

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self._count = 0
        self._dimension: int | None = None
        self._vectors: list[NDArray[float32]] = []
        self._uncertainties: list[NDArray[float32]] = []
        self._options: list[str | None] = []
        self._scopes: list[str | None] = []
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._extra: dict[str, list[Any]] = {}

    def add(self, items: Any) -> None:
        """Add the items of a list."""
        import numpy as np

        size = len(items)
        vectors: NDArray[float32] | None = None
        uncertainties: NDArray[float32] | None = None
        with np.errstate(over="ignore"):  # what does not fit into float32 becomes infinite, and is refused below
            for row, item in enumerate(items):
                number = self._count + row
                values = self._vector(item, number)
                if vectors is None:
                    vectors = np.empty((size, len(values)), np.float32)
                vectors[row] = values
                if self._add_fields(item, number):
                    uncertainties = self._add_further(item, number, row, size, uncertainties)
        if vectors is None:
            return
        self._check_finite(vectors)
        self._vectors.append(vectors)
        self._add_uncertainties(uncertainties)
        self._count += size
        for column in self._extra.values():
            column.extend([None] * (self._count - len(column)))

    def _vector(self, item: Any, number: int) -> NDArray[float64]:
        try:
            values = self._reader.numbers(item["embedding"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _bad(number, "has no embedding that is a list of numbers") from None
        if self._dimension is None:
            self._dimension = len(values)
        if len(values) != self._dimension or not self._dimension:
            raise _bad(number, f"has {len(values)} numbers where the others have {self._dimension}")
        return values

    def _add_fields(self, item: Any, number: int) -> bool:
        """Add the fields that every item has; return True if there are others, or one of these is missing."""
        option, scope = item.get("embedding_option"), item.get("embedding_scope")
        start, end = item.get("start_sec"), item.get("end_sec")
        self._options.append(option)
        self._scopes.append(scope)
        self._starts.append(_seconds(start, number))
        self._ends.append(_seconds(end, number))
        return len(item) > 5 or option is None or scope is None or start is None or end is None

    def _add_further(
        self, item: Any, number: int, row: int, size: int, uncertainties: NDArray[float32] | None
    ) -> NDArray[float32] | None:
        import numpy as np

        for name in item.keys():  # noqa: SIM118
            if name not in _COLUMNS:
                column = self._extra.setdefault(name, [])
                column.extend([None] * (number - len(column)))
                column.append(self._reader.field(item, name))
        raw = item.get("embedding_uncertainty")
        if raw is None:
            return uncertainties
        try:
            values = self._reader.numbers(raw)
        except (TypeError, ValueError, AttributeError):
            raise _bad(number, "has an embedding_uncertainty that is no list of numbers") from None
        if len(values) != self._dimension:
            raise _bad(number, f"has {len(values)} uncertainties for {self._dimension} dimensions")
        if uncertainties is None:
            uncertainties = np.full((size, len(values)), np.nan, np.float32)
        uncertainties[row] = values
        return uncertainties

    def _check_finite(self, vectors: NDArray[float32]) -> None:
        import numpy as np

        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise _bad(self._count + int(np.argmin(finite)), "has a number that is not finite in float32")

    def _add_uncertainties(self, uncertainties: NDArray[float32] | None) -> None:
        missing = "has no embedding_uncertainty, and others have one"
        if uncertainties is not None:
            if self._count and not self._uncertainties:
                raise _bad(0, missing)
            self._uncertainties.append(uncertainties)
        elif self._uncertainties:
            raise _bad(self._count, missing)

    def segments(self) -> Segments:
        """Return the items as a result."""
        import numpy as np

        def joined(blocks: list[NDArray[float32]]) -> NDArray[float32]:
            return np.ascontiguousarray(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))

        uncertainty = joined(self._uncertainties) if self._uncertainties else None
        if uncertainty is not None:
            bad = ~np.isfinite(uncertainty).all(axis=1)
            if bad.any():
                raise _bad(int(np.argmax(bad)), "has no embedding_uncertainty, or one that is not finite")
        return Segments(
            embedding=joined(self._vectors) if self._vectors else np.empty((0, 0), np.float32),
            embedding_option=self._options,
            embedding_scope=self._scopes,
            start_sec=np.array(self._starts, np.float64),
            end_sec=np.array(self._ends, np.float64),
            embedding_uncertainty=uncertainty,
            extra=self._extra or None,
        )


def _seconds(value: Any, number: int) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(number, "has a start_sec or end_sec that is no number")
    return float(value)


def _bad(number: int, what: str) -> UnreadableResponseError:
    return UnreadableResponseError(f"Item {number} of the task's data {what}.", retryable=False)


def _task(head: dict[str, Any], columns: _Columns | None) -> EmbeddingTaskResponse:
    if isinstance(head.get("error"), str):
        head["error"] = {"message": head["error"]}
    while True:
        try:
            task = EmbeddingTaskResponse.model_validate(head)
            break
        except ValidationError as error:
            # A result that was paid for is not given up because of, say, an odd timestamp beside it.
            odd = {str(problem["loc"][0]) for problem in error.errors(include_input=False)} - {"_id", "id", "status"}
            odd = {name for name in odd if head.get(name) is not None}
            if not odd:
                raise UnreadableResponseError("The task's JSON has no usable _id and status.") from None
            for name in odd:
                head[name] = None
    task._segments = columns.segments() if columns is not None else None
    return task


def _diagnose(body: Body, error: Exception) -> UnreadableResponseError:
    """Return the reason why the fast parser gave up: NaN and Infinity are no JSON, and Python's parser finds them."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        shown = "is empty" if not body.strip() else "is cut off, or is no JSON"
        return UnreadableResponseError(f"The task's body of {len(body)} bytes {shown} ({error}).")
    for number in _not_finite(document):
        return _bad(number, "has a number that is not finite")
    return UnreadableResponseError(f"The task's JSON cannot be read ({error}).", retryable=False)


def _not_finite(document: Any) -> Iterator[int]:
    items = document.get("data") if isinstance(document, dict) else None
    for number, item in enumerate(items if isinstance(items, list) else []):
        vector = item.get("embedding") if isinstance(item, dict) else None
        if isinstance(vector, list) and any(isinstance(value, float) and not math.isfinite(value) for value in vector):
            yield number
