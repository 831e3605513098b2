"""Exact search: which segments are nearest to a vector, a segment or a media file, by cosine."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from embed_pipeline.dataset import codec
from embed_pipeline.dataset.reading import Selection, Source, refuse_mixture, stream_embeddings
from embed_pipeline.dataset.segments import MediaSegments, media_fragment
from embed_pipeline.dataset.store import EmbeddingDataset
from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import ArrayLike, NDArray

PLACE_COLUMNS = (
    "segment_id",
    "media",
    "media_uri",
    "embedding_option",
    "embedding_scope",
    "start_sec",
    "end_sec",
    "embedding",
)


@dataclass(frozen=True)
class SegmentQuery:
    """Asks for what is near to one segment of the dataset.

    Args:
        segment_id: The segment; it is left out of the answer.
    """

    segment_id: str


@dataclass(frozen=True)
class MediaQuery:
    """Asks for what is near to any segment of one media file of the dataset.

    Args:
        media: The partition key; the media file is left out of the answer.
    """

    media: str


@dataclass(frozen=True)
class Match:
    """A segment that was found.

    Args:
        segment_id: The segment's stable id.
        media: The media file's partition key.
        media_uri: Where the media file is.
        embedding_option: What was embedded.
        embedding_scope: `clip` or `asset`.
        start_sec: Start offset in seconds.
        end_sec: End offset in seconds.
        score: The cosine, from -1 to 1; for several query vectors the highest.
        query_row: Which of the query's vectors it is nearest to, from 0.
    """

    segment_id: str
    media: str
    media_uri: str
    embedding_option: str
    embedding_scope: str
    start_sec: float
    end_sec: float
    score: float
    query_row: int = 0

    @property
    def link(self) -> str:
        """A link to the segment within its media file."""
        return media_fragment(self.media_uri, self.start_sec, self.end_sec)


def nearest(
    dataset: EmbeddingDataset | str,
    query: ArrayLike | SegmentQuery | MediaQuery | MediaSegments,
    *,
    k: int = 10,
    source: Source = "auto",
    **wanted: Unpack[Selection],
) -> list[Match]:
    """Finds the segments nearest to a query by exact cosine, in one pass with bounded memory.

    Args:
        dataset: The dataset, or its root.
        query: A vector (dimension,), several (q, dimension), a segment or a media file of the dataset, or the segments
            of a media file that is not in it. Of several vectors the nearest counts.
        k: How many to find.
        source: What to search; see `read_embeddings`.
        **wanted: Where to search: `media`, `option`, `scope`, `start_sec`, `end_sec`, `space`, `settings_digest`.

    Returns:
        At most `k` matches, best first.

    Raises:
        DatasetError: There is no such segment or media file, the query is of another vector space, or the dataset holds
            several and none is named.
    """
    import numpy as np

    if isinstance(dataset, str):
        dataset = EmbeddingDataset(dataset)
    if k < 1:
        raise DatasetError(f"Ask for at least one match, not {k}.")
    space, vectors = _resolve(dataset, query, source, wanted.get("space"))
    if space is not None:
        wanted["space"] = space
    queries = unit_rows(vectors)
    best: list[tuple[float, int, Match]] = []
    seen = 0
    for table in stream_embeddings(dataset, columns=PLACE_COLUMNS, source=source, **wanted):
        table = _without_self(table, query)
        scores = unit_rows(_matrix_like(table, queries)) @ queries.T
        score, row = scores.max(axis=1), scores.argmax(axis=1)
        floor = best[0][0] if len(best) == k else -np.inf
        candidates = np.flatnonzero(score > floor)
        if len(candidates) > k:
            candidates = candidates[np.argpartition(-score[candidates], k - 1)[:k]]
        for place, position in zip(_places(table, candidates), candidates.tolist(), strict=True):
            # Of equal scores the one that was read first stays.
            entry = (
                float(score[position]),
                -seen,
                Match(**place, score=float(score[position]), query_row=int(row[position])),
            )
            seen += 1
            if len(best) < k:
                heapq.heappush(best, entry)
            else:
                heapq.heappushpop(best, entry)
    return [match for _, _, match in sorted(best, key=lambda entry: (-entry[0], -entry[1]))]


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales every row to length 1, so that products are cosines; a row of zeros stays one and is near to nothing."""
    import numpy as np

    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, np.newaxis]
    scaled: NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled


def _resolve(
    dataset: EmbeddingDataset, query: Any, source: Source, space: str | None
) -> tuple[str | None, NDArray[np.float32]]:
    import numpy as np

    if isinstance(query, MediaSegments):
        if space not in (None, query.space):
            raise DatasetError(
                f"The query is of the vector space {query.space!r}, which cannot be compared to {space!r}."
            )
        return query.space, query.embedding
    if isinstance(query, SegmentQuery | MediaQuery):
        return _stored(dataset, query, source, space)
    vectors = np.atleast_2d(np.asarray(query, np.float32))
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise DatasetError(f"The query is no finite vector or matrix of vectors; its shape is {vectors.shape}.")
    if space is None:
        # A bare vector does not say which space it is of; its length at least narrows it down.
        held = _spaces(dataset, source)
        fitting = [name for name in held if name.endswith(f"-{vectors.shape[1]}")]
        if held and not fitting:
            raise DatasetError(f"The query has {vectors.shape[1]} components; the dataset holds {', '.join(held)}.")
        refuse_mixture(dataset.root, fitting)
        space = fitting[0] if fitting else None
    return space, vectors


def _stored(
    dataset: EmbeddingDataset, query: SegmentQuery | MediaQuery, source: Source, space: str | None
) -> tuple[str, NDArray[np.float32]]:
    import numpy as np
    import pyarrow.compute as pc

    media = query.media if isinstance(query, MediaQuery) else _media_of_segment(dataset, query, source, space)
    found: dict[str, list[NDArray[np.float32]]] = {}
    stored = stream_embeddings(
        dataset, columns=["segment_id", "embedding"], source=source, mix_spaces=True, media=media, space=space
    )
    for table in stored:
        if isinstance(query, SegmentQuery):
            table = table.filter(pc.equal(table["segment_id"], query.segment_id))
        if len(table):
            dimension = table.schema.field("embedding").type.list_size
            found.setdefault(table["space"][0].as_py(), []).append(codec.matrix(table["embedding"], dimension))
    if not found:
        raise DatasetError(f"The dataset {dataset.root} holds no segments of media file {media!r}.")
    refuse_mixture(dataset.root, found)
    name, parts = next(iter(found.items()))
    return name, np.concatenate(parts)


def _media_of_segment(dataset: EmbeddingDataset, query: SegmentQuery, source: Source, space: str | None) -> str:
    import pyarrow.compute as pc

    # Ids alone are a small part of the data; the vector is then fetched from one media file only.
    for table in stream_embeddings(
        dataset, columns=["segment_id", "media"], source=source, mix_spaces=True, space=space
    ):
        row = pc.index(table["segment_id"], query.segment_id).as_py()
        if row >= 0:
            return str(table["media"][row].as_py())
    raise DatasetError(f"The dataset {dataset.root} holds no segment {query.segment_id!r}.")


def _spaces(dataset: EmbeddingDataset, source: Source) -> list[str]:
    current = None if source == "segments" else dataset.snapshot()
    return dataset.spaces() if current is None else current.spaces


def _without_self(table: pa.Table, query: object) -> pa.Table:
    import pyarrow.compute as pc

    if isinstance(query, SegmentQuery):
        return table.filter(pc.not_equal(table["segment_id"], query.segment_id))
    if isinstance(query, MediaQuery):
        return table.filter(pc.not_equal(table["media"], query.media))
    return table


def _matrix_like(table: pa.Table, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    dimension = table.schema.field("embedding").type.list_size
    if dimension != queries.shape[1]:
        raise DatasetError(f"The query has {queries.shape[1]} components, the segments searched have {dimension}.")
    return codec.matrix(table["embedding"], dimension)


def _places(table: pa.Table, rows: NDArray[np.intp]) -> list[dict[str, Any]]:
    places: list[dict[str, Any]] = table.drop_columns(["embedding"]).take(rows).to_pylist()
    return places
