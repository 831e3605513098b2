"""The segments of one media file: the value that is written to the dataset and read from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from embed_pipeline.dataset.codec import matrix
from embed_pipeline.dataset.paths import check_name
from embed_pipeline.dataset.schema import FileMetadata, segment_schema
from embed_pipeline.errors import DatasetError
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from embed_pipeline.dataset.schema import Layout


@dataclass(frozen=True, eq=False)
class MediaSegments:
    """The segments of one media file under one set of embedding settings.

    Construction checks the whole value, so that whatever holds a `MediaSegments` may rely on it: at least one segment,
    columns of one length, finite vectors, offsets that are finite, not negative and in order. Rows may come in any
    order; the dataset sorts them.

    Args:
        media: The media file's partition key.
        media_uri: Where the media file is. Credentials and signed queries are taken out.
        fingerprint: The identity of the media file's content.
        media_type: `audio` or `video`.
        duration_sec: Its duration in seconds; None where it is not known.
        embedding_option: n values such as `visual`, `audio`, `transcription` or `fused`.
        embedding_scope: n values such as `clip` or `asset`.
        start_sec: (n,) start offsets in seconds from the start of the media file.
        end_sec: (n,) end offsets in seconds; never before the start.
        embedding: (n, dimension) float32.
        embedding_uncertainty: (n, dimension) float32 where it was asked for, else None.
        model_name: The platform's model or the emulator's engine that computed the vectors.
        space: The vector space, `vector_space(model_name, dimension)`.
        settings: The canonical embedding settings; must be JSON.
        settings_digest: The digest of the settings.
        task_id: The embedding task that made the vectors.
        created_at: When that task was created; must carry a time zone.

    Raises:
        DatasetError: Something does not fit; the message names the media file, the field and the row.
    """

    media: str
    media_uri: str
    fingerprint: str
    media_type: Literal["audio", "video"]
    duration_sec: float | None
    embedding_option: Sequence[str]
    embedding_scope: Sequence[str]
    start_sec: NDArray[np.float64]
    end_sec: NDArray[np.float64]
    embedding: NDArray[np.float32]
    embedding_uncertainty: NDArray[np.float32] | None
    model_name: str
    space: str
    settings: Mapping[str, Any]
    settings_digest: str
    task_id: str
    created_at: datetime

    def __post_init__(self) -> None:
        import numpy as np

        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("media_uri", without_credentials(self.media_uri))
        put("embedding_option", tuple(self.embedding_option))
        put("embedding_scope", tuple(self.embedding_scope))
        for name, kind in (("start_sec", np.float64), ("end_sec", np.float64), ("embedding", np.float32)):
            put(name, self._array(name, getattr(self, name), kind))
        if self.embedding_uncertainty is not None:
            put("embedding_uncertainty", self._array("embedding_uncertainty", self.embedding_uncertainty, np.float32))
        self._check_identity()
        self._check_shapes()
        self._check_values()

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def dimension(self) -> int:
        """The number of components of a vector."""
        return int(self.embedding.shape[1])

    @property
    def segment_ids(self) -> list[str]:
        """The n stable ids, in the order of the rows; see `segment_id`."""
        seen: dict[tuple[str, str, float, float], int] = {}
        ids: list[str] = []
        starts, ends = self.start_sec.tolist(), self.end_sec.tolist()
        for row in zip(self.embedding_option, self.embedding_scope, starts, ends, strict=True):
            repeat = seen.get(row, 0)
            seen[row] = repeat + 1
            ids.append(segment_id(self.fingerprint, self.settings_digest, *row, repeat=repeat))
        return ids

    @property
    def file_metadata(self) -> FileMetadata:
        """The metadata of the Parquet file that holds these segments."""
        return FileMetadata(
            model=self.model_name,
            dimension=self.dimension,
            space=self.space,
            settings=self.settings,
            settings_digest=self.settings_digest,
            media=self.media,
            media_uri=self.media_uri,
            fingerprint=self.fingerprint,
            media_type=self.media_type,
            task_id=self.task_id,
            created_at=self.created_at,
            duration_sec=self.duration_sec,
        )

    def to_arrow(self, layout: Layout = "fixed") -> pa.Table:
        """Convert to rows of the dataset's schema, sorted by option, scope and start, with the file's metadata.

        Args:
            layout: The type of vectors.

        Returns:
            One row per segment; a nullable column of which the segments hold nothing is left out.
        """
        import numpy as np
        import pyarrow as pa

        rows = len(self)
        options, scopes = np.asarray(self.embedding_option), np.asarray(self.embedding_scope)
        order = np.lexsort((self.end_sec, self.start_sec, scopes, options))
        options, scopes = options[order], scopes[order]
        values: dict[str, Any] = {
            "segment_id": np.asarray(self.segment_ids)[order],
            "embedding_option": options,
            "embedding_scope": scopes,
            "segment_index": _positions(options, scopes),
            "start_sec": self.start_sec[order],
            "end_sec": self.end_sec[order],
        }
        constants = {
            "media": self.media,
            "media_uri": self.media_uri,
            "fingerprint": self.fingerprint,
            "media_type": self.media_type,
            "model_name": self.model_name,
            "settings_digest": self.settings_digest,
            "task_id": self.task_id,
            "created_at": self.created_at,
        }
        vectors = {"embedding": self.embedding, "embedding_uncertainty": self.embedding_uncertainty}
        fields, columns = [], []
        for field in segment_schema(self.dimension, layout):
            if field.name in constants:
                column = pa.repeat(pa.scalar(constants[field.name], field.type), rows)
            elif field.name in values:
                column = pa.array(values[field.name], field.type)
            elif (vector := vectors.get(field.name)) is not None:
                column = _vectors(vector[order], field.type)
            else:
                # Several readers cannot take a column of fixed-size lists that holds nulls; none misses an absent one.
                continue
            fields.append(field)
            columns.append(column)
        return pa.table(columns, schema=pa.schema(fields, self.file_metadata.encode()))

    def to_pandas(self) -> pd.DataFrame:
        """Convert to a frame of the same rows and columns as `to_arrow`; `embedding` holds one array per row."""
        return self.to_arrow().to_pandas()

    @classmethod
    def from_arrow(cls, table: pa.Table, metadata: FileMetadata) -> MediaSegments:
        """Convert the rows of one media file back.

        Args:
            table: All rows and columns of one media file.
            metadata: The metadata of its Parquet file.

        Raises:
            DatasetError: There are no rows, or they do not fit together.
        """
        if not len(table):
            raise DatasetError(f"The file of media file {metadata.media!r} holds not one segment.")

        def first(name: str) -> Any:
            return table.column(name)[0].as_py()

        uncertainty = table.column("embedding_uncertainty")
        return cls(
            media=first("media"),
            media_uri=first("media_uri"),
            fingerprint=first("fingerprint"),
            media_type=first("media_type"),
            duration_sec=metadata.duration_sec,
            embedding_option=table.column("embedding_option").to_pylist(),
            embedding_scope=table.column("embedding_scope").to_pylist(),
            start_sec=table.column("start_sec").to_numpy(),
            end_sec=table.column("end_sec").to_numpy(),
            embedding=matrix(table.column("embedding"), metadata.dimension),
            embedding_uncertainty=matrix(uncertainty, metadata.dimension) if uncertainty.null_count == 0 else None,
            model_name=first("model_name"),
            space=metadata.space,
            settings=json.loads(json.dumps(metadata.settings)),
            settings_digest=first("settings_digest"),
            task_id=first("task_id"),
            created_at=first("created_at"),
        )

    def _refuse(self, problem: str) -> DatasetError:
        return DatasetError(f"The segments of media file {self.media!r} cannot be stored: {problem}.")

    def _array(self, name: str, value: object, kind: type[np.generic]) -> NDArray[Any]:
        import numpy as np

        try:
            return np.ascontiguousarray(value, dtype=kind)
        except (TypeError, ValueError) as error:
            raise self._refuse(f"{name} is not an array of numbers ({error})") from None

    def _check_identity(self) -> None:
        for name in ("media", "media_uri", "fingerprint", "model_name", "settings_digest", "task_id"):
            if not getattr(self, name):
                raise self._refuse(f"{name} is empty")
        if self.media_type not in ("audio", "video"):
            raise self._refuse(f"media_type is {self.media_type!r}, expected 'audio' or 'video'")
        if self.created_at.tzinfo is None:
            raise self._refuse("created_at has no time zone; pass UTC")
        check_name("settings_digest", self.settings_digest)

    def _check_shapes(self) -> None:
        rows = len(self.embedding_option)
        if rows == 0:
            raise self._refuse("there is not one segment")
        if self.embedding.ndim != 2 or self.embedding.shape[1] == 0:
            raise self._refuse(f"embedding has the shape {self.embedding.shape}, expected (segments, dimension)")
        for name in ("embedding_scope", "start_sec", "end_sec", "embedding"):
            if len(getattr(self, name)) != rows:
                raise self._refuse(f"{name} has {len(getattr(self, name))} rows where embedding_option has {rows}")
        for name in ("start_sec", "end_sec"):
            if getattr(self, name).ndim != 1:
                raise self._refuse(f"{name} has the shape {getattr(self, name).shape}, expected (segments,)")
        uncertainty = self.embedding_uncertainty
        if uncertainty is not None and uncertainty.shape != self.embedding.shape:
            raise self._refuse(f"embedding_uncertainty has the shape {uncertainty.shape}, not {self.embedding.shape}")
        expected = vector_space(self.model_name, self.dimension)
        if self.space != expected:
            raise self._refuse(
                f"space is {self.space!r}, but vectors of {self.dimension} components made by {self.model_name!r} "
                f"belong to {expected!r}; model_name must name what computed the vectors"
            )

    def _check_values(self) -> None:
        import numpy as np

        def first(bad: NDArray[np.bool_]) -> str:
            row = int(np.argmax(bad))
            return f"row {row} ({self.embedding_option[row]}, {self.embedding_scope[row]})"

        for name in ("embedding_option", "embedding_scope"):
            for row, value in enumerate(getattr(self, name)):
                if not isinstance(value, str) or not value:
                    raise self._refuse(f"{name} of row {row} is {value!r}, expected a word")
        for name in ("start_sec", "end_sec"):
            bad = ~np.isfinite(getattr(self, name)) | (getattr(self, name) < 0)
            if bad.any():
                raise self._refuse(f"{name} of {first(bad)} is {getattr(self, name)[bad][0]}, expected seconds from 0")
        backwards = self.end_sec < self.start_sec
        if backwards.any():
            start, end = self.start_sec[backwards][0], self.end_sec[backwards][0]
            raise self._refuse(f"{first(backwards)} ends at {end} s, before it starts at {start} s")
        for name in ("embedding", "embedding_uncertainty"):
            vectors = getattr(self, name)
            # One pass over all numbers; the search for the first bad row is only paid for when there is one.
            if vectors is not None and not np.isfinite(vectors).all():
                raise self._refuse(f"{name} of {first(~np.isfinite(vectors).all(axis=1))} is not finite")


def vector_space(model_or_engine: str, dimension: int) -> str:
    """Name the vector space of a model or engine and a dimension: only vectors of one space may be compared.

    Args:
        model_or_engine: The platform's model, or the emulator's engine.
        dimension: The number of components of a vector.

    Returns:
        `"<model or engine>-<dimension>"`, such as `marengo3.0-512`.

    Raises:
        DatasetError: The name could not be part of a path, or the dimension is not positive.
    """
    check_name("model or engine", model_or_engine)
    if dimension < 1:
        raise DatasetError(f"A vector space needs a positive dimension, not {dimension}.")
    return f"{model_or_engine}-{dimension}"


def segment_id(
    fingerprint: str,
    settings_digest: str,
    option: str,
    scope: str,
    start_sec: float,
    end_sec: float,
    *,
    repeat: int = 0,
) -> str:
    """Derive a segment's stable id.

    The id depends on content and settings alone, not on the media file's name: a renamed or copied media file keeps its
    ids, and embedding the same content again under the same settings gives the same ids. So the key of a row is the id
    together with the media file's partition key (`KEY_COLUMNS`).

    Args:
        fingerprint: The identity of the media file's content.
        settings_digest: The digest of the embedding settings.
        option: The embedding option.
        scope: The embedding scope.
        start_sec: Start offset in seconds; microseconds count, anything finer does not.
        end_sec: End offset in seconds, likewise.
        repeat: The number of earlier rows of the same result with the same option, scope and offsets.

    Returns:
        32 hexadecimal digits.
    """
    parts = [fingerprint, settings_digest, option, scope, f"{start_sec:.6f}", f"{end_sec:.6f}"]
    if repeat:
        parts.append(str(repeat))
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


def media_fragment(uri: str, start_sec: float, end_sec: float) -> str:
    """Link to a segment within its media file, as a W3C media fragment.

    Args:
        uri: The media file's URI.
        start_sec: Start offset in seconds.
        end_sec: End offset in seconds.

    Returns:
        `uri#t=start,end`, such as `https://example.com/a.mp4#t=12.5,18`.
    """
    return f"{uri.partition('#')[0]}#t={_seconds(start_sec)},{_seconds(end_sec)}"


def _positions(options: NDArray[np.str_], scopes: NDArray[np.str_]) -> NDArray[np.int32]:
    """Count from 0 within each run of equal option and scope; the rows are sorted by them."""
    import numpy as np

    rows = np.arange(len(options))
    begins = np.ones(len(options), bool)
    begins[1:] = (options[1:] != options[:-1]) | (scopes[1:] != scopes[:-1])
    return (rows - np.maximum.accumulate(np.where(begins, rows, 0))).astype(np.int32)


def _vectors(vectors: NDArray[np.float32], kind: pa.DataType) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    rows, dimension = vectors.shape
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float32())
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * dimension, pa.int32()), flat, type=kind)


def _seconds(value: float) -> str:
    # Never an exponent, which the recommendation's grammar does not know.
    return f"{value:.3f}".rstrip("0").rstrip(".")
