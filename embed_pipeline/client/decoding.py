"""From the bytes of a finished task to one float32 matrix, without a Python object per number.

A body of a four-hour video has some 80 MB and 3.7 million numbers. It is parsed in windows of about a megabyte, cut
between two items of ``data``: the parser then works in the cache, and its index never grows with the body. A cut is
only believed if every window, put in brackets, parses as JSON by itself and what remains of the body parses with an
empty ``data``: as each window starts where a value is expected, that is proof that the cut is right. Otherwise the
body is parsed as a whole, so a strange layout costs time and never correctness.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from embed_pipeline.client.errors import UnreadableResponseError
from embed_pipeline.client.responses import EmbeddingTaskResponse, Segments

if TYPE_CHECKING:
    from collections.abc import Iterable

    import simdjson
    from numpy import float32
    from numpy.typing import NDArray

Body = bytes | bytearray

WINDOW_BYTES = 1_000_000
_DATA_ARRAY = re.compile(rb'"data"\s*:\s*\[\s*(?=\{)')
_BETWEEN_OR_END = re.compile(rb"\}\s*(,\s*(?=\{)|\])")
_END = re.compile(rb"\}\s*\]")
_COLUMNS = ("embedding", "embedding_uncertainty", "embedding_option", "embedding_scope", "start_sec", "end_sec")


def decode_task(body: Body, *, window_bytes: int = WINDOW_BYTES) -> EmbeddingTaskResponse:
    """Reads the body of ``GET /embed-v2/tasks/{id}``.

    Args:
        body: The JSON, already decompressed. It is not modified and not referenced afterwards.
        window_bytes: About how much is parsed at a time.

    Returns:
        The task. ``.data`` and ``.segments`` hold the result, in the order of the body (which means nothing).

    Raises:
        UnreadableResponseError: The body is cut off or no JSON; or an item's vector is missing, is not finite, or
            differs in length from the others. The message names the item by its number in ``data``, from 0.
    """
    head, columns = (_decode_windows(body, window_bytes) if len(body) > 2 * window_bytes else None) or _decode_whole(
        body
    )
    return _task(head, columns)


def _decode_windows(body: Body, window_bytes: int) -> tuple[dict[str, Any], _Columns] | None:
    import simdjson

    start = _DATA_ARRAY.search(body)
    if start is None:
        return None
    parser, columns, position = simdjson.Parser(), _Columns(), start.end()
    try:
        last = False
        while not last:
            ends, last = _window_ends(body, position, window_bytes)
            end = _add_window(parser, columns, body, position, ends)
            if end is None:
                return None
            position = end
        head = parser.parse(body[: start.end()] + b"]" + body[position:], recursive=True)
    except ValueError:
        return None
    if not isinstance(head, dict) or head.pop("data", None) != []:
        return None
    return head, columns


def _window_ends(body: Body, position: int, window_bytes: int) -> tuple[Iterable[re.Match[bytes]], bool]:
    """Where the window that begins at ``position`` may end, and whether it is the last."""
    cut = _BETWEEN_OR_END.search(body, position + window_bytes)
    if cut is not None and cut[1] != b"]":
        return (cut,), False
    # The end of data may lie before the place where the search began, so it is looked for from the front.
    return _END.finditer(body, position), True


def _add_window(
    parser: simdjson.Parser, columns: _Columns, body: Body, position: int, ends: Iterable[re.Match[bytes]]
) -> int | None:
    """Add the items up to the first end that closes what was opened; where the next window begins, or None."""
    for end in ends:
        try:
            window = parser.parse(b"[" + body[position : end.start() + 1] + b"]")
        except ValueError:
            continue
        # The parser refuses to go on while a view of a window lives: this one ends with the function.
        columns.add(window)
        return end.end()
    return None


def _decode_whole(body: Body) -> tuple[dict[str, Any], _Columns | None]:
    import simdjson

    try:
        document = simdjson.Parser().parse(body)
    except (ValueError, UnicodeDecodeError) as error:
        raise _diagnose(body, error) from None
    if not isinstance(document, simdjson.Object):
        raise UnreadableResponseError("The task's JSON is no object.")
    data, head = None, {}
    for name in document.keys():  # noqa: SIM118 - simdjson's object iterates differently
        if name == "data":
            data = document[name]
        else:
            head[name] = _field(document, name)
    if data is None:
        return head, None
    if not isinstance(data, simdjson.Array):
        raise UnreadableResponseError("The task's data is no list.")
    columns = _Columns()
    columns.add(data)
    return head, columns


def _field(element: Any, name: str) -> Any:
    # simdjson looks names up as C strings, so behind a NUL it would find another name's value.
    return element.as_dict()[name] if "\0" in name else _plain(element[name])


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return value.as_dict()
    return value.as_list() if hasattr(value, "as_list") else value


class _Columns:
    """Collects items into columns, and finds the item that does not fit."""

    def __init__(self) -> None:
        self.count = 0
        self.vectors: list[NDArray[float32]] = []
        self.uncertainties: list[NDArray[float32]] = []
        self.options: list[str | None] = []
        self.scopes: list[str | None] = []
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.extra: dict[str, list[Any]] = {}
        self.dimension: int | None = None

    def add(self, items: Any) -> None:
        import numpy as np

        size = len(items)
        vectors: NDArray[float32] | None = None
        uncertainties: NDArray[float32] | None = None
        options, scopes, starts, ends = self.options, self.scopes, self.starts, self.ends
        with np.errstate(over="ignore"):  # what does not fit into float32 becomes infinite, and is refused below
            for row, item in enumerate(items):
                number = self.count + row
                try:
                    numbers = item["embedding"]
                    values = np.frombuffer(numbers.as_buffer(of_type="d"))
                except (KeyError, TypeError, ValueError, AttributeError):
                    raise self._bad(number, "has no embedding that is a list of numbers") from None
                if vectors is None:
                    if self.dimension is None:
                        self.dimension = len(values)
                    vectors = np.empty((size, self.dimension), np.float32)
                if len(values) != self.dimension or len(numbers) != self.dimension or not len(values):
                    raise self._bad(number, f"has {len(values)} numbers where the others have {self.dimension}")
                vectors[row] = values
                option, scope = item.get("embedding_option"), item.get("embedding_scope")
                start, end = item.get("start_sec"), item.get("end_sec")
                options.append(option)
                scopes.append(scope)
                starts.append(self._seconds(start, number))
                ends.append(self._seconds(end, number))
                if len(item) > 5 or option is None or scope is None or start is None or end is None:
                    uncertainties = self._further(item, number, row, size, uncertainties)
        if vectors is None:
            return
        self._check_finite(vectors)
        self.vectors.append(vectors)
        if uncertainties is not None and not self.uncertainties and self.count:
            raise self._bad(0, "has no embedding_uncertainty, and others have one")
        if uncertainties is not None:
            self.uncertainties.append(uncertainties)
        elif self.uncertainties:
            raise self._bad(self.count, "has no embedding_uncertainty, and others have one")
        self.count += size
        for column in self.extra.values():
            column.extend([None] * (self.count - len(column)))

    def _further(
        self, item: Any, number: int, row: int, size: int, uncertainties: NDArray[float32] | None
    ) -> NDArray[float32] | None:
        import numpy as np

        for name in item.keys():  # noqa: SIM118
            if name not in _COLUMNS:
                column = self.extra.setdefault(name, [])
                column.extend([None] * (number - len(column)))
                column.append(_field(item, name))
        raw = item.get("embedding_uncertainty")
        if raw is None:
            return uncertainties
        try:
            values = np.frombuffer(raw.as_buffer(of_type="d"))
        except (TypeError, ValueError, AttributeError):
            raise self._bad(number, "has an embedding_uncertainty that is no list of numbers") from None
        if len(values) != self.dimension:
            raise self._bad(number, f"has {len(values)} uncertainties for {self.dimension} dimensions")
        if uncertainties is None:
            uncertainties = np.full((size, len(values)), np.nan, np.float32)
        uncertainties[row] = values
        return uncertainties

    def _check_finite(self, vectors: NDArray[float32]) -> None:
        import numpy as np

        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise self._bad(self.count + int(np.argmin(finite)), "has a number that is not finite in float32")

    def _seconds(self, value: Any, number: int) -> float:
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._bad(number, "has a start_sec or end_sec that is no number")
        return float(value)

    @staticmethod
    def _bad(number: int, what: str) -> UnreadableResponseError:
        return UnreadableResponseError(f"Item {number} of the task's data {what}.", retryable=False)

    def segments(self) -> Segments:
        import numpy as np

        def joined(blocks: list[NDArray[float32]]) -> NDArray[float32]:
            return np.ascontiguousarray(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))

        uncertainty = joined(self.uncertainties) if self.uncertainties else None
        if uncertainty is not None:
            bad = ~np.isfinite(uncertainty).all(axis=1)
            if bad.any():
                raise self._bad(int(np.argmax(bad)), "has no embedding_uncertainty, or one that is not finite")
        return Segments(
            embedding=joined(self.vectors) if self.vectors else np.empty((0, 0), np.float32),
            embedding_option=self.options,
            embedding_scope=self.scopes,
            start_sec=np.array(self.starts, np.float64),
            end_sec=np.array(self.ends, np.float64),
            embedding_uncertainty=uncertainty,
            extra=self.extra or None,
        )


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
    """Why the fast parser gave up: NaN and Infinity are no JSON, and the slow parser can say which item has them."""
    try:
        document = json.loads(body)
    except ValueError:
        shown = "is empty" if not body.strip() else "is cut off, or is no JSON"
        return UnreadableResponseError(f"The task's body of {len(body)} bytes {shown} ({error}).")
    for number in _not_finite(document):
        return _Columns._bad(number, "has a number that is not finite")
    return UnreadableResponseError(f"The task's JSON cannot be read ({error}).", retryable=False)


def _not_finite(document: Any) -> Iterator[int]:
    items = document.get("data") if isinstance(document, dict) else None
    for number, item in enumerate(items if isinstance(items, list) else []):
        vector = item.get("embedding") if isinstance(item, dict) else None
        if isinstance(vector, list) and any(isinstance(value, float) and not math.isfinite(value) for value in vector):
            yield number
