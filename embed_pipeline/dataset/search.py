"""Exact search for the segments nearest to a vector, a segment or a media file, by cosine."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from embed_pipeline.dataset.codec import matrix
from embed_pipeline.dataset.reading import (
    Selection,
    Source,
    opened,
    refuse_mixture,
    several,
    spaces_of,
    stream_embeddings,
)
from embed_pipeline.dataset.segments import MediaSegments, media_fragment
from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    import pyarrow as pa
    from numpy.typing import ArrayLike, NDArray

    from embed_pipeline.dataset.store import SegmentStore

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
    """Query by one segment of the dataset.

    Args:
        segment_id: The segment; it and its copies are left out of the answer.
    """

    segment_id: str


@dataclass(frozen=True)
class MediaQuery:
    """Query by all segments of one media file of the dataset; the nearest counts.

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
        embedding_option: `visual`, `audio`, `transcription` or `fused`.
        embedding_scope: `clip` or `asset`.
        start_sec: Start offset in seconds.
        end_sec: End offset in seconds.
        score: The cosine, from -1 to 1; for several query vectors the highest.
        query_row: The number of the query's vector that it is nearest to, from 0.
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
    dataset: SegmentStore | str,
    query: ArrayLike | SegmentQuery | MediaQuery | MediaSegments,
    *,
    k: int = 10,
    source: Source = "auto",
    **wanted: Unpack[Selection],
) -> list[Match]:
    """Find the segments nearest to a query by exact cosine, in one pass with bounded memory.

    Args:
        dataset: The dataset, or its root.
        query: A vector (dimension,), several (q, dimension), a segment or a media file of the dataset, or the segments
            of a media file that is not in it. Of several vectors the nearest counts.
        k: The number of segments to find.
        source: The rows to search; see `read_embeddings`.
        **wanted: Filters: `media`, `exclude_media`, `option`, `scope`, `start_sec`, `end_sec`, `space`,
            `settings_digest`.

    Returns:
        At most `k` matches, best first.

    Raises:
        DatasetError: There is no such segment or media file, the dataset has no such option, scope or vector space, the
            query is of another vector space, or the dataset holds several and none is named.
    """
    import numpy as np

    store = opened(dataset)
    if k < 1:
        raise DatasetError(f"Ask for at least one match, not {k}.")
    space, vectors = _resolve(store, query, source, wanted.get("space"))
    if space is not None:
        wanted["space"] = space
    if isinstance(query, MediaQuery):
        wanted["exclude_media"] = [*several(wanted.get("exclude_media") or ()), query.media]
    queries = unit_rows(vectors)
    best: list[tuple[float, int, Match]] = []
    seen = 0
    known = KnownValues(store, source, wanted)
    for table in stream_embeddings(store, columns=PLACE_COLUMNS, source=source, **wanted):
        known.add(table)
        rows = _without_segment(table, query)
        scores = unit_rows(_vectors_like(rows, queries)) @ queries.T
        score, row = scores.max(axis=1), scores.argmax(axis=1)
        floor = best[0][0] if len(best) == k else -np.inf
        candidates = np.flatnonzero(score > floor)
        if len(candidates) > k:
            candidates = candidates[np.argpartition(-score[candidates], k - 1)[:k]]
        for place, position in zip(_places(rows, candidates), candidates.tolist(), strict=True):
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
    known.refuse_unknown()
    return [match for _, _, match in sorted(best, key=lambda entry: (-entry[0], -entry[1]))]


class KnownValues:
    """Options and scopes that a search met, to refuse a filter on one that the dataset does not have.

    A misspelt option would otherwise be answered like one of which nothing is near.

    Args:
        store: The dataset.
        source: The rows that are searched.
        wanted: The filters of the search.
    """

    def __init__(self, store: SegmentStore, source: Source, wanted: Selection) -> None:
        self._store = store
        self._source = source
        self._space = wanted.get("space")
        asked: dict[str, str | Collection[str] | None] = {
            "embedding_option": wanted.get("option"),
            "embedding_scope": wanted.get("scope"),
        }
        self._missing = {column: set(several(values)) for column, values in asked.items() if values is not None}

    def add(self, table: pa.Table) -> None:
        """Note the values of rows that were found."""
        import pyarrow.compute as pc

        for column, missing in self._missing.items():
            if missing:
                missing.difference_update(pc.unique(table[column]).to_pylist())

    def refuse_unknown(self) -> None:
        """Refuse values of the filter that no row of the dataset has.

        The rows that the other filters left out are read, one column of them, where a value was not met.

        Raises:
            DatasetError: There is such a value; the message lists those that exist.
        """
        for column in [column for column, missing in self._missing.items() if missing]:
            existing: set[str] = set()
            rows = stream_embeddings(
                self._store, columns=[column], source=self._source, mix_spaces=True, space=self._space
            )
            for table in rows:
                existing.update(table[column].unique().to_pylist())
                if self._missing[column] <= existing:
                    break
            missing = sorted(self._missing[column] - existing)
            if missing and existing:
                name = column.removeprefix("embedding_")
                raise DatasetError(
                    f"The dataset {self._store.root} has no segments of the {name} {', '.join(map(repr, missing))}; "
                    f"it has {', '.join(map(repr, sorted(existing)))}."
                )


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale every row to length 1, so that products are cosines; a row of zeros stays one and is near to nothing."""
    import numpy as np

    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, np.newaxis]
    scaled: NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled


def _resolve(
    store: SegmentStore, query: Any, source: Source, space: str | None
) -> tuple[str | None, NDArray[np.float32]]:
    import numpy as np

    held = spaces_of(store, source)
    if space is not None and held and space not in held:
        raise DatasetError(f"The dataset {store.root} has no vector space {space!r}; it has {', '.join(held)}.")
    if isinstance(query, MediaSegments):
        if space not in (None, query.space) or (held and query.space not in held):
            raise DatasetError(
                f"The query is of the vector space {query.space!r}, which cannot be compared to "
                f"{', '.join(held) if space is None else space!r}."
            )
        return query.space, query.embedding
    if isinstance(query, SegmentQuery | MediaQuery):
        return _stored(store, query, source, space)
    vectors = np.atleast_2d(np.asarray(query, np.float32))
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise DatasetError(f"The query is no finite vector or matrix of vectors; its shape is {vectors.shape}.")
    if space is None:
        # A bare vector does not name its space; its length at least narrows it down.
        fitting = [name for name in held if name.endswith(f"-{vectors.shape[1]}")]
        if held and not fitting:
            raise DatasetError(f"The query has {vectors.shape[1]} components; the dataset holds {', '.join(held)}.")
        refuse_mixture(store.root, fitting)
        space = fitting[0] if fitting else None
    return space, vectors


def _stored(
    store: SegmentStore, query: SegmentQuery | MediaQuery, source: Source, space: str | None
) -> tuple[str, NDArray[np.float32]]:
    import numpy as np
    import pyarrow.compute as pc

    media = query.media if isinstance(query, MediaQuery) else _media_of_segment(store, query, source, space)
    found: dict[str, list[NDArray[np.float32]]] = {}
    stored = stream_embeddings(
        store, columns=["segment_id", "embedding"], source=source, mix_spaces=True, media=media, space=space
    )
    for table in stored:
        rows = table
        if isinstance(query, SegmentQuery):
            rows = table.filter(pc.equal(table["segment_id"], query.segment_id))
        if len(rows):
            dimension = rows.schema.field("embedding").type.list_size
            found.setdefault(rows["space"][0].as_py(), []).append(matrix(rows["embedding"], dimension))
    if not found:
        raise DatasetError(f"The dataset {store.root} holds no segments of media file {media!r}.")
    refuse_mixture(store.root, found)
    name, parts = next(iter(found.items()))
    return name, np.concatenate(parts)


def _media_of_segment(store: SegmentStore, query: SegmentQuery, source: Source, space: str | None) -> str:
    import pyarrow.compute as pc

    # Ids alone are a small part of the data; the vector is then fetched from one media file only.
    for table in stream_embeddings(store, columns=["segment_id", "media"], source=source, mix_spaces=True, space=space):
        row = pc.index(table["segment_id"], query.segment_id).as_py()
        if row >= 0:
            return str(table["media"][row].as_py())
    raise DatasetError(f"The dataset {store.root} holds no segment {query.segment_id!r}.")


def _without_segment(table: pa.Table, query: object) -> pa.Table:
    import pyarrow.compute as pc

    if isinstance(query, SegmentQuery):
        return table.filter(pc.not_equal(table["segment_id"], query.segment_id))
    return table


def _vectors_like(table: pa.Table, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    dimension = table.schema.field("embedding").type.list_size
    if dimension != queries.shape[1]:
        raise DatasetError(f"The query has {queries.shape[1]} components, the segments searched have {dimension}.")
    return matrix(table["embedding"], dimension)


def _places(table: pa.Table, rows: NDArray[np.intp]) -> list[dict[str, Any]]:
    places: list[dict[str, Any]] = table.drop_columns(["embedding"]).take(rows).to_pylist()
    return places
