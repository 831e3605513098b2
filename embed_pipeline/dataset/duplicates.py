"""Near-duplicates: pairs of segments of different media files with almost equal vectors."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from embed_pipeline.dataset.codec import matrix
from embed_pipeline.dataset.reading import Selection, Source, opened, stream_embeddings
from embed_pipeline.dataset.search import PLACE_COLUMNS, KnownValues, Match, unit_rows
from embed_pipeline.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from embed_pipeline.dataset.store import SegmentStore

_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class DuplicatePair:
    """Two segments that are nearly the same.

    Args:
        first: The one that comes first in the dataset; its score is the pair's.
        second: The other.
        score: Their cosine.
    """

    first: Match
    second: Match
    score: float


def near_duplicates(
    dataset: SegmentStore | str,
    *,
    threshold: float = 0.95,
    limit: int = 1000,
    within_media: bool = False,
    source: Source = "auto",
    **wanted: Unpack[Selection],
) -> list[DuplicatePair]:
    """Find pairs of segments with a high cosine, exactly.

    Only segments of the same option and scope are compared. The work grows with the square of their number: a hundred
    thousand vectors take minutes, a million hours, so compare whole media files (`scope="asset"`) where there are many.
    Memory holds two blocks of vectors and about a hundred bytes a segment; the vectors wait in a temporary file.

    Args:
        dataset: The dataset, or its root.
        threshold: The least cosine of a pair.
        limit: The largest number of pairs to return.
        within_media: True also finds pairs within one media file.
        source: The rows to compare; see `read_embeddings`.
        **wanted: Filters: `media`, `exclude_media`, `option`, `scope`, `start_sec`, `end_sec`, `space`,
            `settings_digest`.

    Returns:
        The best pairs, best first.

    Raises:
        DatasetError: The dataset holds several vector spaces and none is named, or has no such option or scope.
    """
    if not -1 <= threshold <= 1 or limit < 1:
        raise DatasetError(
            f"Near-duplicates need a threshold from -1 to 1 and a limit from 1, not {threshold}, {limit}."
        )
    store = opened(dataset)
    known = KnownValues(store, source, wanted)
    with tempfile.TemporaryFile(prefix="embed-pipeline-") as spool:
        rows = stream_embeddings(store, columns=PLACE_COLUMNS, source=source, **wanted)
        places, dimension = _spool(rows, spool, known)
        known.refuse_unknown()
        if places is None:
            return []
        import numpy as np

        vectors = np.memmap(spool, np.float32, "r", shape=(len(places), dimension))
        groups, media = _codes(places, "embedding_option", "embedding_scope"), _codes(places, "media")
        best = _best_pairs(vectors, groups, None if within_media else media, threshold, limit)
        del vectors
    return [
        DuplicatePair(_match(places, first, score), _match(places, second, score), score)
        for score, first, second in best
    ]


def _spool(tables: Iterator[pa.Table], spool: Any, known: KnownValues) -> tuple[pa.Table | None, int]:
    """Write the vectors to a file, scaled to length 1, and return the other columns and the dimension."""
    import pyarrow as pa

    places = []
    dimension = 0
    for table in tables:
        known.add(table)
        dimension = table.schema.field("embedding").type.list_size
        spool.write(unit_rows(matrix(table["embedding"], dimension)).data)
        rest = table.drop_columns(["embedding"])
        for name in ("media", "media_uri", "embedding_option", "embedding_scope"):
            rest = rest.set_column(rest.column_names.index(name), name, rest[name].dictionary_encode())
        places.append(rest)
    spool.flush()
    return (pa.concat_tables(places).unify_dictionaries() if places else None), dimension


def _codes(places: pa.Table, *names: str) -> NDArray[np.int64]:
    """Number the distinct values of some columns."""
    import numpy as np

    codes = np.zeros(len(places), np.int64)
    for name in names:
        column = places[name].combine_chunks()
        codes = codes * (len(column.dictionary) + 1) + column.indices.to_numpy()
    return codes


def _best_pairs(
    vectors: NDArray[np.float32],
    groups: NDArray[np.int64],
    media: NDArray[np.int64] | None,
    threshold: float,
    limit: int,
) -> list[tuple[float, int, int]]:
    import numpy as np

    found: list[tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp]]] = []
    count = 0
    floor = threshold
    for top in range(0, len(vectors), _BLOCK_ROWS):
        block = np.array(vectors[top : top + _BLOCK_ROWS])
        for left in range(top, len(vectors), _BLOCK_ROWS):
            scores = block @ vectors[left : left + _BLOCK_ROWS].T
            rows, columns = np.nonzero(scores >= floor)
            value = scores[rows, columns]
            rows, columns = rows + top, columns + left
            keep = (rows < columns) & (groups[rows] == groups[columns])
            if media is not None:
                keep &= media[rows] != media[columns]
            found.append((value[keep], rows[keep], columns[keep]))
            count += int(keep.sum())
            if count > 2 * limit:
                found = [_strongest(found, limit)]
                count = limit
                floor = max(floor, float(found[0][0][-1]))
    if not found:
        return []
    score, first, second = _strongest(found, limit)
    return list(zip(np.minimum(score, 1.0).tolist(), first.tolist(), second.tolist(), strict=True))


def _strongest(
    found: list[tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp]]], limit: int
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp]]:
    import numpy as np

    score, first, second = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((second, first, -score))[:limit]
    return score[order], first[order], second[order]


def _match(places: pa.Table, row: int, score: float) -> Match:
    return Match(**places.slice(row, 1).to_pylist()[0], score=score)
