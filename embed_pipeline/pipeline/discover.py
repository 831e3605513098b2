"""Discovery: the media library and the dataset compared with the ledger."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from embed_pipeline.errors import DatasetError
from embed_pipeline.ledger import Content, MediaFacts, TaskRow, TaskState, Written
from embed_pipeline.pipeline.context import EMULATOR, PipelineContext
from embed_pipeline.pipeline.settings import EmbeddingSettings, Segmentation

if TYPE_CHECKING:
    from embed_pipeline.dataset import DamagedFile, StoredResult
    from embed_pipeline.ledger.media import KnownFile
    from embed_pipeline.media import Listing, MediaFile

# A file that changed within so many seconds of its listing may change again without another time stamp.
_SETTLED_SEC = 5.0
_IMPORT_BATCH = 500
_DAMAGED_SHOWN = 3


@dataclass(frozen=True)
class DiscoveryPlan:
    """Work of one discovery.

    Args:
        record: Partition keys whose content is new, changed or back, in the library's order.
        refresh: Partition keys whose content is known and whose token is not.
        gone: Partition keys that vanished.
        retire: Vanished partition keys to remove, with their segments.
        left: How many files wait for the next discovery.
        withheld: How many vanished files stay until every file of the library has been read: one of those that were
            not may be one of them under a new name.
    """

    record: tuple[str, ...]
    refresh: tuple[str, ...]
    gone: tuple[str, ...]
    retire: tuple[str, ...]
    left: int = 0
    withheld: int = 0


@dataclass(frozen=True)
class DiscoveryReport:
    """Outcome of one discovery.

    Args:
        files: Media files in the library.
        new: Partition keys that are new.
        changed: Partition keys whose content changed, or that are back.
        gone: Partition keys that vanished.
        retired: Partition keys that were removed.
        forgotten: Partition keys that were removed and never had a task.
        left: How many files wait for the next discovery.
        withheld: How many vanished files are kept until every file has been read.
        problems: Sentences about entries that a person may want to look at.
        left_out: What the library holds besides media files, in words; empty for nothing.
    """

    files: int
    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()
    left: int = 0
    withheld: int = 0
    problems: Sequence[str] = ()
    left_out: str = ""

    def __str__(self) -> str:
        parts = [
            f"{self.files} media files",
            f"{len(self.new)} new",
            f"{len(self.changed)} changed",
            f"{len(self.gone)} gone",
            *([f"{len(self.retired)} retired"] if self.retired else []),
            *([f"{len(self.forgotten)} forgotten"] if self.forgotten else []),
            *([f"{self.withheld} kept until every file of the library has been read"] if self.withheld else []),
            *([f"{self.left} left to the next tick"] if self.left else []),
            *([f"left out: {self.left_out}"] if self.left_out else []),
        ]
        return ", ".join(parts)


@dataclass(frozen=True)
class Retired:
    """Outcome of retiring.

    Args:
        keys: The media files, in the order in which they went.
        files_removed: Files that the dataset had of them.
    """

    keys: tuple[str, ...] = ()
    files_removed: int = 0


def plan_discovery(
    listed: Sequence[str],
    fingerprints: Mapping[str, str],
    tokens: Mapping[str, str | None],
    known: Mapping[str, KnownFile],
    *,
    unsure: Collection[str] = (),
    awaited: Collection[str] = (),
    limit: int,
    when_vanished: Literal["keep", "retire"],
) -> DiscoveryPlan:
    """Compare the library with what the ledger knows.

    Args:
        listed: The partition keys of every media file in the library, in its order.
        fingerprints: The content of those that had to be read, as far as they were.
        tokens: The library's cheap sign of each listed file's content.
        known: What the ledger knows, by partition key.
        unsure: The keys that are not listed and may be there all the same: files that are being written, or all of them
            where part of the library cannot be read.
        awaited: Contents that a present file waits for: a file that is gone may have all that is left of them.
        limit: New, changed, vanished and retired files in one discovery, at the most.
        when_vanished: What becomes of a file that is no longer in the library.
    """
    due, refresh, unread = [], [], 0
    for key in listed:
        before = known.get(key)
        if key not in fingerprints:
            # Not read because its token says that nothing changed, or because there was no time.
            unread += before is None or before.is_gone or before.token is None or before.token != tokens.get(key)
        elif before is None or before.is_gone or before.fingerprint != fingerprints[key]:
            due.append(key)
        elif before.token != tokens.get(key):
            refresh.append(key)
    now = due[:limit]
    present = set(listed)
    missing = [key for key in known if key not in present and key not in unsure]
    unmarked = [key for key in missing if not known[key].is_gone]
    gone = unmarked[: limit - len(now)]
    # A file is retired a tick after it was seen to be gone, by when a renamed one is known by its new name, and not
    # before that name is served. One that never had a task leaves nothing to be kept.
    retire = [
        key
        for key in missing
        if known[key].is_gone
        and (not known[key].has_task or (when_vanished == "retire" and known[key].fingerprint not in awaited))
    ]
    retire, withheld = (retire, 0) if not unsure and not unread else ([], len(retire))
    retire_now = retire[: limit - len(now) - len(gone)]
    left = len(due) - len(now) + len(unmarked) - len(gone) + len(retire) - len(retire_now) + unread
    return DiscoveryPlan(tuple(now), tuple(refresh), tuple(gone), tuple(retire_now), left, withheld)


def discover(pipeline: PipelineContext, *, budget_sec: float | None = None) -> DiscoveryReport:
    """List the media library, read what is new or changed, and record the difference in the ledger.

    Args:
        pipeline: The pipeline.
        budget_sec: Seconds after which the rest is left to the next discovery; None for no limit.

    Raises:
        MediaError: The library cannot be read.
        LedgerError: The ledger cannot be reached.
        DatasetError: The dataset is another pipeline's.
    """
    started = time.monotonic()
    policy, library, ledger = pipeline.policy, pipeline.library, pipeline.ledger
    import_results(pipeline)
    listing = library.list()
    files = {file.key: file for file in listing.files}
    tokens = {key: content_token(file) for key, file in files.items()}
    known = ledger.media.known(pipeline.name)
    noted_left_out = ledger.noted(pipeline.name)["left_out"]
    problems = list(listing.problems)
    left_sec = None if budget_sec is None else max(budget_sec - (time.monotonic() - started), 1.0)
    fingerprints = library.fingerprints(
        [file for key, file in files.items() if _must_be_read(known.get(key), tokens[key])],
        budget_sec=left_sec,
        on_problem=lambda _, error: problems.append(str(error)),
    )
    retiring = policy.when_a_file_vanishes == "retire"
    awaited = ledger.awaited_contents(pipeline.target) if retiring else set()
    plan = plan_discovery(
        list(files),
        fingerprints,
        tokens,
        known,
        unsure=_unsure(listing, known),
        awaited=awaited
        | {one for key, one in fingerprints.items() if key not in known or known[key].fingerprint != one},
        limit=policy.new_files_per_tick,
        when_vanished=policy.when_a_file_vanishes,
    )
    facts = [facts_of(files[key], fingerprints[key], tokens[key]) for key in (*plan.record, *plan.refresh)]
    ledger.media.record(pipeline.target, facts)
    left_out = left_out_in_words(listing)
    if left_out != (noted_left_out or ""):
        ledger.note(pipeline.name, left_out=left_out)
    if plan.gone:
        ledger.media.mark_gone(pipeline.name, plan.gone)
    forgotten = [key for key in plan.retire if not known[key].has_task]
    if forgotten:
        ledger.media.forget(pipeline.name, forgotten, retired=False)
    retired = retire(
        pipeline,
        [key for key in plan.retire if known[key].has_task],
        # Half of what is left of the time: new files wait too.
        budget_sec=None if budget_sec is None else max((budget_sec - (time.monotonic() - started)) / 2, 1.0),
    )
    return DiscoveryReport(
        files=len(files),
        new=tuple(key for key in plan.record if key not in known),
        changed=tuple(key for key in plan.record if key in known),
        gone=plan.gone,
        retired=retired.keys,
        forgotten=tuple(forgotten),
        left=plan.left,
        withheld=plan.withheld,
        problems=problems,
        left_out=left_out,
    )


def left_out_in_words(listing: Listing, *, names: int = 3) -> str:
    """Return what a library holds besides media files: counts by reason, endings, and the first names.

    Args:
        listing: The library's content.
        names: Names of each reason, at the most; hidden entries are only counted.
    """
    parts = []
    for reason, count in sorted(listing.skipped.items()):
        shown = [one.path for one in listing.left_out if one.reason == reason][:names]
        if reason == "unsupported" and listing.endings:
            endings = [f"{ending or 'no ending'} {number}" for ending, number in listing.endings.items()]
            parts.append(f"{count} unsupported ({', '.join(endings[:names])}: {', '.join(shown)})")
        elif reason == "hidden" or not shown:
            parts.append(f"{count} {reason}")
        else:
            parts.append(f"{count} {reason} ({', '.join(shown)}{', ...' if count > len(shown) else ''})")
    return ", ".join(parts)


def import_results(pipeline: PipelineContext, *, again: bool = False) -> int:
    """Record what the dataset holds in a ledger that does not know it, so that it is not paid for again.

    Args:
        pipeline: The pipeline.
        again: Also where that was done before; then files that do not open are left out.

    Returns:
        How many results were new to the ledger.

    Raises:
        DatasetError: The dataset cannot be read, or is another pipeline's, or holds files that do not open: nothing is
            paid for again before somebody knows of it.
    """
    ledger = pipeline.ledger
    if not again and ledger.noted(pipeline.name)["imported_at"] is not None:
        return 0
    count = 0
    if pipeline.dataset.spaces():
        pipeline.dataset.claim(pipeline.name)
    damaged: list[DamagedFile] = []
    results = _stored(pipeline, damaged)
    while batch := list(islice(results, _IMPORT_BATCH)):
        count += ledger.tasks.adopt_results(pipeline.target, (_imported(pipeline, one) for one in batch))
    if damaged and not again:
        raise DatasetError(
            f"{len(damaged)} results of {pipeline.dataset.root} cannot be read, so this new ledger cannot tell what "
            f"was paid for: {'; '.join(one.error for one in damaged[:_DAMAGED_SHOWN])} Or run `embed-pipeline ledger "
            "import`, which leaves them out: their media files are embedded again."
        )
    ledger.note(pipeline.name, imported_at=ledger.now())
    return count


def retire(pipeline: PipelineContext, keys: Sequence[str], *, budget_sec: float | None = None) -> Retired:
    """Remove media files that are gone: their segments from the dataset, and themselves from the ledger.

    Args:
        pipeline: The pipeline.
        keys: The partition keys of the media files.
        budget_sec: Seconds after which the rest is left; None for no limit. One is always retired.

    Raises:
        DatasetError: The dataset cannot be written, or is another pipeline's.
    """
    if not keys:
        return Retired()
    pipeline.dataset.claim(pipeline.name)
    deadline = None if budget_sec is None else time.monotonic() + budget_sec
    # Only segments of settings that the pipeline has used: another program may keep its own below the same root.
    used = {pipeline.target.audio_digest, pipeline.target.video_digest} | pipeline.ledger.tasks.digests(pipeline.name)
    done: list[str] = []
    removed = 0
    for key in keys:
        if done and deadline is not None and time.monotonic() > deadline:
            break
        # Recorded before it is done, so that a file which comes back is never taken for embedded.
        pipeline.ledger.media.remove_segments(pipeline.name, [key])
        removed += sum(pipeline.dataset.delete(key, digest) for digest in sorted(used))
        pipeline.ledger.media.forget(pipeline.name, [key], retired=True)
        done.append(key)
    return Retired(tuple(done), removed)


def content_token(file: MediaFile, now: float | None = None) -> str | None:
    """Return the library's cheap sign of a file's content; None where there is none, or it may stand for two contents.

    Args:
        file: The file, as it was listed.
        now: The time of the listing in seconds since 1970; by default the clock's.
    """
    if file.version is None and file.modified is None:
        return None
    if file.modified is not None and (time.time() if now is None else now) - file.modified < _SETTLED_SEC:
        return None
    return f"{file.version or ''}|{file.size}|{file.modified}"


def facts_of(file: MediaFile, fingerprint: str, token: str | None) -> MediaFacts:
    """Return a media file as the ledger takes it."""
    from embed_pipeline.redaction import without_credentials

    return MediaFacts(file.key, without_credentials(file.uri), file.media_type, fingerprint, file.size, token)


def _must_be_read(before: KnownFile | None, token: str | None) -> bool:
    return before is None or before.is_gone or before.token is None or before.token != token


def _unsure(listing: Listing, known: Collection[str]) -> Collection[str]:
    """Return the keys that must not be taken for gone. An empty library is more likely a disk that is not mounted."""
    if not listing.files or listing.skipped.get("unreadable"):
        return frozenset(known)
    return listing.settling


def _stored(pipeline: PipelineContext, damaged: list[DamagedFile]) -> Iterator[StoredResult]:
    from embed_pipeline.dataset import StoredResult

    for result in pipeline.dataset.results():
        if isinstance(result, StoredResult):
            yield result
        else:
            damaged.append(result)


def _imported(pipeline: PipelineContext, result: StoredResult) -> tuple[TaskRow, str, Written]:
    """Return a stored result as a task and what was written of it."""
    # The platform's vectors bear its model's name, the emulator's that of their engine.
    settings = _settings(result.settings, pipeline.settings)
    emulated = result.model_name != settings.model_name
    platform = EMULATOR if emulated else (pipeline.platform if pipeline.platform != EMULATOR else "api.twelvelabs.io")
    created_at = result.created_at.timestamp()
    minutes = None if result.duration_sec is None else settings.embedded_minutes(result.duration_sec)
    row = TaskRow(
        id=0,
        content=Content(result.fingerprint, result.settings_digest, platform),
        attempt=1,
        tries=1,
        state=TaskState.COLLECTED,
        pipeline=pipeline.name,
        key=result.media,
        run_id="import",
        owner="import",
        claimed_at=created_at,
        sent_at=None,
        in_doubt_until=None,
        source_url=None,
        source_filename=None,
        asset_id=None,
        media_type=result.media_type,
        settings=settings.spelled_out().model_dump(mode="json"),
        config_digest=pipeline.target.config_digest,
        minutes=minutes,
        task_id=result.task_id,
        origin="imported",
        created_at=created_at,
        ready_at=None,
        ended_at=created_at,
        expires_at=None,
        retry_at=None,
        error=None,
    )
    written = Written(result.media, result.rows, result.space, result.size_bytes, result.duration_sec)
    return row, result.media_uri, written


def _settings(request: Mapping[str, object], default: EmbeddingSettings) -> EmbeddingSettings:
    """Return the settings that a request was made with, as far as it tells; else those of the pipeline."""
    media_type = request.get("input_type")
    media = request.get(str(media_type))
    if not isinstance(media, Mapping) or media_type not in {"audio", "video"}:
        return default
    cut = media.get("segmentation") or {}
    cut = cut.get("temporal", cut) if isinstance(cut, Mapping) else {}
    strategy = cut.get("strategy")
    values: dict[str, object] = {
        "model_name": request.get("model_name", default.model_name),
        "scopes": tuple(media.get("embedding_scope") or default.scopes),
        "types": tuple(media.get("embedding_type") or default.types),
        "start_sec": media.get("start_sec"),
        "end_sec": media.get("end_sec"),
        f"{media_type}_options": tuple(media.get("embedding_option") or ()),
    }
    if "embedding_dimension" in request:
        values["embedding_dimension"] = request["embedding_dimension"]
    if strategy in {"fixed", "dynamic"} and isinstance(cut.get(strategy), Mapping):
        values[f"{media_type}_segmentation"] = Segmentation(
            strategy=strategy, seconds=int(next(iter(cut[strategy].values())))
        )
    try:
        return EmbeddingSettings.model_validate(values)
    except ValueError:
        return default
