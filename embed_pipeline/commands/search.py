"""`embed-pipeline search`: the segments that are nearest to a segment, a media file, a vector or some words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from embed_pipeline.commands.context import CommandContext, opened
from embed_pipeline.commands.platform import platform_of
from embed_pipeline.errors import ConfigurationError, DatasetError, MediaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embed_pipeline.dataset import EmbeddingDataset, Match
    from embed_pipeline.orchestration.blueprint import Blueprint
    from embed_pipeline.pipeline.settings import MediaType


@dataclass(frozen=True)
class SearchRequest:
    """What is searched for, by exactly one of the first four, and where.

    Args:
        segment: A segment id of the dataset.
        media: A media file of the dataset by partition key or path, or the path of any other audio or video file.
        vector: A file with a vector, or with several: .npy or .json.
        text: Words, where the emulator's engine computed the transcriptions.
        count: How many to find.
        option: Only segments of this embedding option.
        scope: Only segments of this scope; None for both.
        space: The vector space; None where the dataset has one.
    """

    segment: str | None = None
    media: str | None = None
    vector: Path | None = None
    text: str | None = None
    count: int = 10
    option: str | None = None
    scope: str | None = "clip"
    space: str | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.segment, self.media, self.vector, self.text) if value is not None]
        if len(given) != 1:
            raise ConfigurationError("Name one thing to search for: --segment, --media, --vector or --text.")

    @property
    def where(self) -> dict[str, Any]:
        """The conditions that were given, as the dataset takes them."""
        given = {"option": self.option, "scope": self.scope, "space": self.space}
        return {name: value for name, value in given.items() if value is not None}


def run_search(context: CommandContext, request: SearchRequest, as_json: bool, console: Console) -> int:
    """Find segments and show them.

    Args:
        context: Where the pipeline and its dataset are.
        request: What is searched for.
        as_json: JSON instead of a table.
        console: Where to show it.

    Returns:
        The exit code: 0.

    Raises:
        DatasetError: There is nothing to search, or nothing like the query in it.
        ConfigurationError: The query makes no sense.
    """
    # What is said on the way would spoil JSON.
    aside = Console(stderr=True)
    with opened(context) as (blueprint, _):
        dataset = blueprint.store.dataset()
        if not dataset.spaces():
            raise DatasetError(f"The dataset {dataset.root} is empty: there is nothing to search yet.")
        if request.media is not None and not _is_in(dataset, _key_of(request.media)):
            matches = _nearest_to_new_file(context, request, dataset, aside)
        else:
            matches = _nearest(request, dataset, blueprint)
    if as_json:
        console.out(
            json.dumps([{**asdict(match), "link": match.link} for match in matches], ensure_ascii=False, indent=2),
            highlight=False,
        )
        return 0
    if not matches:
        console.print(Text(_nothing_found(request)))
        return 0
    table = Table()
    table.add_column("score", justify="right")
    table.add_column("media file", overflow="fold")
    table.add_column("from", justify="right")
    table.add_column("to", justify="right")
    table.add_column("option")
    table.add_column("segment", overflow="fold")
    for match in matches:
        table.add_row(
            f"{match.score:.3f}",
            Text(_path_of(match.media)),
            f"{match.start_sec:.1f} s",
            f"{match.end_sec:.1f} s",
            match.embedding_option,
            match.segment_id,
        )
    console.print(table)
    return 0


def _nothing_found(request: SearchRequest) -> str:
    """That there is nothing to show, and what was looked among."""
    option = request.option or ("transcription" if request.text is not None else None)
    among = ", ".join(
        f"{name} {value}"
        for name, value in (("option", option), ("scope", request.scope), ("space", request.space))
        if value is not None
    )
    segments = "other segments" if request.segment is not None or request.media is not None else "segments"
    return f"Nothing was found: the dataset holds no {segments}{f' with {among}' if among else ''}."


def _nearest(request: SearchRequest, dataset: EmbeddingDataset, blueprint: Blueprint) -> list[Match]:
    from embed_pipeline.dataset import MediaQuery, SegmentQuery, nearest

    if request.segment is not None:
        return nearest(dataset, SegmentQuery(request.segment), k=request.count, **request.where)
    if request.media is not None:
        return nearest(dataset, MediaQuery(_key_of(request.media)), k=request.count, **request.where)
    if request.vector is not None:
        return nearest(dataset, read_vectors(request.vector), k=request.count, **request.where)
    space, embed = _text_embedder(dataset, request.space, blueprint)
    where = {**request.where, "space": space, "option": request.option or "transcription"}
    return nearest(dataset, embed(str(request.text)), k=request.count, **where)


def _nearest_to_new_file(
    context: CommandContext, request: SearchRequest, dataset: EmbeddingDataset, aside: Console
) -> list[Match]:
    """Embed a file that is not in the dataset and search with each option's vectors among segments of that option."""
    from embed_pipeline.dataset import nearest, vector_space

    path = Path(str(request.media)).expanduser()
    if not path.is_file():
        raise ConfigurationError(
            f"{request.media!r} is neither a media file of the dataset nor a file on this machine. "
            "`embed-pipeline status` lists those of the dataset."
        )
    with platform_of(context, aside) as (complete, _), opened(complete) as (blueprint, _instance):
        name, rows = _embed(path, blueprint, aside)
    space = vector_space(name, rows.embedding.shape[1])
    if space not in dataset.spaces():
        raise DatasetError(
            f"{path.name} was embedded in the vector space {space}, and the dataset holds "
            f"{', '.join(dataset.spaces())}. Vectors of different spaces cannot be compared."
        )
    found: list[Match] = []
    for option in sorted(set(rows.embedding_option)):
        if request.option not in (None, option):
            continue
        chosen = [
            index
            for index, (one, scope) in enumerate(zip(rows.embedding_option, rows.embedding_scope, strict=True))
            if one == option and request.scope in (None, scope)
        ]
        if chosen:
            where = {**request.where, "space": space, "option": option}
            found += nearest(dataset, rows.embedding[chosen], k=request.count, **where)
    return sorted(found, key=lambda match: -match.score)[: request.count]


def _embed(path: Path, blueprint: Blueprint, aside: Console) -> tuple[str, Any]:
    """Embed one file outside the pipeline: who computed the vectors, and the segments."""
    from embed_pipeline.client import MediaSource
    from embed_pipeline.media import MediaLibrary
    from embed_pipeline.pipeline.sources import typed_request, upload, upload_name

    library = MediaLibrary(path.resolve().parent, settle_seconds=0, recursive=False)
    file = library.file(_key_of(path.name))
    fingerprint, info = library.fingerprint(file), library.probe(file)
    media_type: MediaType = "video" if info.has_video else "audio"
    digest = blueprint.settings.digest(media_type)
    words = f"{path.name} is not in the dataset; embedding its {info.duration_sec / 60:.1f} minutes to search with."
    aside.print(words, markup=False, soft_wrap=True)
    with blueprint.client.client() as client:
        name = upload_name(file.path, fingerprint, digest)
        asset_id, _ = upload(file, library, client, name, look_first=False)
        source = MediaSource(asset_id=asset_id)
        task = client.v_2.tasks.create(
            **typed_request(blueprint.settings.request(media_type), source), media_duration_sec=info.duration_sec
        )
        response = client.v_2.tasks.wait(task.id)
    engine = getattr(response.metadata, "embedding_engine", None)
    return engine or blueprint.settings.model_name, response.segments


def _text_embedder(
    dataset: EmbeddingDataset, wanted: str | None, blueprint: Blueprint
) -> tuple[str, Callable[[str], NDArray[np.float32]]]:
    """What turns words into a vector of one of the dataset's spaces."""
    from embed_pipeline.dataset import vector_space
    from embed_pipeline.emulator.engine import load_engine
    from embed_pipeline.emulator.engine.features.projection import shorten

    engine = load_engine("signal")
    dimension = blueprint.settings.embedding_dimension
    space = vector_space(engine.name, dimension)
    held = dataset.spaces()
    if wanted not in (None, space) or space not in held:
        raise ConfigurationError(
            f"Words can be searched for only among vectors of the emulator's engine ({space}); the search is in "
            f"{wanted or ', '.join(held)}. Search by --segment, --media or --vector."
        )
    embed_words = getattr(engine, "embed_words")  # noqa: B009 - an engine need not have it
    return space, lambda text: shorten(embed_words(text)[None], dimension)[0]


def read_vectors(path: Path) -> NDArray[np.float32]:
    """Read a vector (dimension,) or several (n, dimension) from a .npy or .json file.

    Raises:
        ConfigurationError: The file cannot be read, or holds no numbers.
    """
    import numpy as np

    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), np.float32)
        return np.asarray(json.loads(path.read_text()), np.float32)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{path} holds no vector: {error}. It takes a .npy file, or JSON such as [0.1, 0.2]."
        ) from None


def _is_in(dataset: EmbeddingDataset, key: str) -> bool:
    return any(
        bool(dataset.find(key, digest)) for space in dataset.spaces() for digest in dataset.settings_digests(space)
    )


def _key_of(name: str) -> str:
    """A name that people typed as a partition key: it may be one already, or a path."""
    from embed_pipeline.media import decode_partition_key, encode_partition_key

    try:
        decode_partition_key(name)
    except MediaError:
        return encode_partition_key(name.removeprefix("./"))
    return name


def _path_of(key: str) -> str:
    from embed_pipeline.media import decode_partition_key

    return decode_partition_key(key)
