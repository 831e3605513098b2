"""Search of the platform's list for tasks by source: the one place that decides whether a create made a task.

A task carries no tag of its creator. The list is the only evidence: it names the source of a task (a URL, or the file
name of an upload), most settings, and when the task was created by the platform's clock.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from embed_pipeline.client.errors import InvalidRequestError
from embed_pipeline.client.exchange import Call, Flow, RequestOptions, Session
from embed_pipeline.client.listing import MAX_PAGE_LIMIT, as_utc, walk_tasks
from embed_pipeline.client.requests import AudioInputRequest, CreateTaskRequest, MediaSource, VideoInputRequest
from embed_pipeline.client.responses import MediaEmbeddingMetadata, MediaEmbeddingTask
from embed_pipeline.redaction import without_credentials

Verdict = Literal["same", "other", "unknown"]
KnownTasks = Callable[[Sequence[str]], Collection[str]]

# The list is read from a little earlier on, because its clock is not ours.
_CLOCK_MARGIN = timedelta(minutes=5)
# The Date header, by which the platform's clock is known, has whole seconds, and the answer takes time on its way.
_DATE_TOLERANCE = timedelta(seconds=2)
# Query parameters that sign a URL or bound its life: they differ between two URLs of the same object.
_SIGNING = re.compile(
    r"(?i)^(x-amz-.*|x-goog-.*|x-ms-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id|token|"
    r"access_token|sig|se|sp|sv|sr|st|spr|skoid|sktid|skt|ske|sks|skv|x-id)$"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class SourceRef:
    """Reference to a source as the list shows it: a URL or a file name.

    Args:
        url: The source's URL, or None. Never shown with its query.
        filename: The name under which the asset was uploaded, or None.
    """

    url: str | None = None
    filename: str | None = None

    @classmethod
    def of(cls, source: MediaSource | str) -> SourceRef | None:
        """Return the reference of a source; None for base64 and for an asset, which the list does not show."""
        if isinstance(source, MediaSource):
            return cls(url=source.url) if source.url is not None else None
        return cls(url=source) if "://" in source else cls(filename=source)

    def __repr__(self) -> str:
        return f"SourceRef({self.describe()})"

    def describe(self) -> str:
        """Return the reference for messages, without the URL's credentials and query."""
        return without_credentials(self.url) if self.url is not None else f"the file name {self.filename!r}"


@dataclass(frozen=True, slots=True)
class CreateSearch:
    """Description of a task that a create may have made, by what the platform lists of it.

    Args:
        request: What was asked for. Its media source is not looked at.
        sources: Sources the task may name, for instance a file's former URL; empty for one that leaves no trace in the
            list, such as base64.
        since: The earliest moment of its creation, by this machine's clock, with a time zone.
        until: The latest moment of its creation, likewise; None for now.
    """

    request: CreateTaskRequest
    sources: tuple[SourceRef, ...]
    since: datetime
    until: datetime | None = None

    def __post_init__(self) -> None:
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None and moment.tzinfo is None:
                raise InvalidRequestError(f"{name} of a CreateSearch has no time zone: use datetime.now(UTC).")


@dataclass(frozen=True, slots=True)
class CreateSearchResult:
    """Outcome of one search.

    Args:
        task: The task as listed, whatever its status; None if there is none, or if it cannot be told.
        undecided: A sentence why it cannot be told whether there is a task; None if it is certain.
    """

    task: MediaEmbeddingTask | None = None
    undecided: str | None = None


def same_url(ours: str, listed: str) -> bool:
    """Compare what two URLs name.

    Signatures, expiry times and fragments do not count. Other query parameters count if both URLs have any, since the
    platform may echo a URL with or without its query.
    """
    return _address(ours) == _address(listed) and _queries_agree(ours, listed)


def _address(url: str) -> tuple[object, ...]:
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme.lower())
        return (parts.scheme.lower(), parts.hostname, port, unquote(parts.path))
    except ValueError:  # half an IPv6 address, or a port that is no number
        return (url,)


def _queries_agree(ours: str, listed: str) -> bool:
    mine, theirs = _meaningful_query(ours), _meaningful_query(listed)
    return not mine or not theirs or mine == theirs


def source_identity(source: MediaSource) -> str:
    """Return a text that is the same for two sources if they name the same media."""
    if source.url is not None:
        return f"url {_address(source.url)} {_meaningful_query(source.url)}"
    return f"asset {source.asset_id}" if source.asset_id is not None else f"base64 {source.base_64_string}"


def _meaningful_query(url: str) -> list[tuple[str, str]]:
    query = url.partition("#")[0].partition("?")[2]
    return sorted(pair for pair in parse_qsl(query, keep_blank_values=True) if not _SIGNING.match(pair[0]))


def compare_source(task: MediaEmbeddingTask, source: SourceRef) -> Verdict:
    """Compare the source of a listed task with a reference.

    Returns:
        `unknown` if the list does not name the task's source at all.
    """
    media = task.media
    if media is None or (media.input_url is None and media.input_filename is None):
        return "unknown"
    if source.url is not None:
        return "same" if media.input_url is not None and same_url(source.url, media.input_url) else "other"
    return "same" if media.input_filename == source.filename else "other"


def settings_agree(task: MediaEmbeddingTask, request: CreateTaskRequest) -> bool:
    """Compare the settings of a listed task with a request, as far as the list shows them."""
    if task.model_name is not None and task.model_name != request.model_name:
        return False
    if task.input_type is not None and task.input_type != request.input_type:
        return False
    media, asked = task.media, request.media
    if media is None or asked is None:
        return True
    if _differ(media.embedding_options, asked.embedding_option):
        return False
    if _differ(_as_clip(media.embedding_scopes), _as_clip(asked.embedding_scope)):
        return False
    return not (isinstance(asked, AudioInputRequest | VideoInputRequest) and _windows_differ(task, asked))


def _differ(listed: Iterable[str] | None, asked: Iterable[str] | None) -> bool:
    return listed is not None and asked is not None and set(listed) != set(asked)


def _as_clip(scopes: Iterable[str] | None) -> list[str] | None:
    return None if scopes is None else ["clip" if scope == "local" else scope for scope in scopes]


def _windows_differ(task: MediaEmbeddingTask, asked: AudioInputRequest | VideoInputRequest) -> bool:
    media = task.media
    if media is None:
        return False
    fixed = getattr(getattr(asked.segmentation, "temporal", asked.segmentation), "fixed", None)
    if media.video_clip_length is not None and fixed is not None and media.video_clip_length != fixed.duration_sec:
        return True
    pairs = ((media.start_offset_sec, asked.start_sec), (media.end_offset_sec, asked.end_sec))
    return any(listed is not None and wanted is not None and abs(listed - wanted) > 0.001 for listed, wanted in pairs)


def find_tasks(
    session: Session,
    source: MediaSource | str,
    *,
    started_at: date | str | None = None,
    ended_at: date | str | None = None,
    status: str | None = None,
    model_name: str | None = None,
    options: RequestOptions | None = None,
) -> Flow[list[MediaEmbeddingTask]]:
    """Return all listed tasks that were made from a source, newest first.

    Raises:
        InvalidRequestError: The source leaves nothing in the list by which its tasks could be known.
    """
    wanted = SourceRef.of(source)
    if wanted is None:
        raise InvalidRequestError(
            "The list does not tell from which base64 string or asset a task was made: "
            "give the URL, or the file name under which the asset was uploaded."
        )
    walk = walk_tasks(
        session, started_at=started_at, ended_at=ended_at, status=status, page_limit=MAX_PAGE_LIMIT, options=options
    )
    found: list[MediaEmbeddingTask] = []
    goes_on = True
    while goes_on:
        items, goes_on, _ = yield from walk.next_page()
        found.extend(
            task for task in items if compare_source(task, wanted) == "same" and model_name in (None, task.model_name)
        )
    return found


def find_created(
    session: Session,
    searches: Sequence[CreateSearch],
    *,
    known: KnownTasks | None = None,
    options: RequestOptions | None = None,
) -> Flow[list[CreateSearchResult]]:
    """Search the list once for tasks that creates with an unknown outcome may have made.

    A task is given to one search at most: of several that it fits, to the one with the latest `since` that is not after
    its creation. If several tasks of one URL fit a search, the oldest is given.

    Args:
        session: The client's shared state.
        searches: What to look for.
        known: Called with ids from each page; returns those that belong to somebody already, which are never given.
            None for the tasks that clients of this process have already answered with.
        options: For each page's request.

    Returns:
        One result for each search, in their order.

    Raises:
        ApiError: The list could not be read to its end.
    """
    if not searches:
        return []
    while True:
        assumed = session.clock_offset_sec
        candidates = yield from _walk(session, searches, known, options)
        learnt = session.clock_offset_sec
        if assumed is not None or learnt is None or abs(learnt) <= _CLOCK_MARGIN.total_seconds() / 2:
            break
        # The two clocks are so far apart that the filter may have hidden a task: look again by the platform's.
    while True:
        results = candidates.decide(learnt)
        if known is not None:
            session.registry.claim_all(_ids(results))
            return results
        taken = session.registry.claim_free(_ids(results))
        if not taken:
            return results
        candidates.drop(taken)  # another create of this process was quicker


def _ids(results: Iterable[CreateSearchResult]) -> list[str]:
    return [result.task.id for result in results if result.task is not None and result.task.id is not None]


def _walk(
    session: Session, searches: Sequence[CreateSearch], known: KnownTasks | None, options: RequestOptions | None
) -> Flow[_Candidates]:
    offset = timedelta(seconds=session.clock_offset_sec or 0.0)
    ends = [search.until for search in searches]
    latest = None if None in ends else max(end for end in ends if end is not None)
    walk = walk_tasks(
        session,
        started_at=min(search.since for search in searches) + offset - _CLOCK_MARGIN,
        ended_at=None if latest is None else latest + offset + _CLOCK_MARGIN,
        page_limit=MAX_PAGE_LIMIT,
        options=options,
    )
    candidates = _Candidates(searches)
    goes_on = True
    while goes_on:
        items, goes_on, _ = yield from walk.next_page()
        fresh = candidates.add(items)
        if known is None:
            candidates.drop(task_id for task_id in fresh if session.registry.is_claimed(task_id))
        elif fresh:
            # It may ask a database, so it must not run on an event loop.
            candidates.drop((yield Call(partial(known, fresh))))
    return candidates


@dataclass(frozen=True, slots=True)
class _Fit:
    """A listed task, and the searches that it fits by source and settings.

    Args:
        task: The task.
        searches: Numbers of the searches.
        by_filename: Those of them that it fits by a file name.
    """

    task: MediaEmbeddingTask
    searches: tuple[int, ...]
    by_filename: frozenset[int]


@dataclass
class _Candidates:
    """Tasks of the list that fit a search by source and settings.

    Args:
        searches: What is looked for.
    """

    searches: Sequence[CreateSearch]
    _named: dict[str, _Fit] = field(default_factory=dict)
    _nameless: dict[str, MediaEmbeddingTask] = field(default_factory=dict)
    # Kinds of source that the list names, by the status of the tasks: it may name them for finished tasks only.
    _kinds: set[tuple[str, str | None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._by_address: dict[tuple[object, ...], list[tuple[int, str]]] = defaultdict(list)
        self._by_filename: dict[str, list[int]] = defaultdict(list)
        for number, search in enumerate(self.searches):
            for source in search.sources:
                if source.url is not None:
                    self._by_address[_address(source.url)].append((number, source.url))
                elif source.filename is not None:
                    self._by_filename[source.filename].append(number)

    def add(self, tasks: Iterable[MediaEmbeddingTask]) -> list[str]:
        """Take up the tasks of a page that fit a search, and return their ids."""
        fresh = []
        for task in tasks:
            if task.id is None:
                continue
            media = task.media
            if media is None or not (media.input_url or media.input_filename):
                if any(settings_agree(task, search.request) for search in self.searches):
                    self._nameless[task.id] = task
                    fresh.append(task.id)
            elif (fit := self._fit(task, media)).searches:
                self._named[task.id] = fit
                fresh.append(task.id)
        return fresh

    def _fit(self, task: MediaEmbeddingTask, media: MediaEmbeddingMetadata) -> _Fit:
        by_url: list[int] = []
        by_filename: list[int] = []
        if media.input_url is not None:
            self._kinds.add(("url", task.status))
            same_address = self._by_address.get(_address(media.input_url), ())
            by_url = [number for number, url in same_address if _queries_agree(url, media.input_url)]
        if media.input_filename is not None:
            self._kinds.add(("filename", task.status))
            by_filename = self._by_filename.get(media.input_filename, [])
        numbers = (
            number
            for number in dict.fromkeys(by_url + by_filename)
            if settings_agree(task, self.searches[number].request)
        )
        return _Fit(task, tuple(numbers), frozenset(by_filename))

    def drop(self, task_ids: Iterable[str]) -> None:
        """Set aside tasks that belong to somebody."""
        for task_id in task_ids:
            self._named.pop(task_id, None)
            self._nameless.pop(task_id, None)

    def decide(self, clock_offset_sec: float | None) -> list[CreateSearchResult]:
        """Return what was found for each search.

        Args:
            clock_offset_sec: How far the platform's clock is ahead of ours, in seconds; None if it is not known.
        """
        groups = self._assign(clock_offset_sec)
        results = [CreateSearchResult()] * len(self.searches)
        for number, fits in groups.items():
            if len(fits) > 1 and any(number in fit.by_filename for fit in fits):
                # A name may be shared by different contents, and a wrong task would give a file another file's vectors.
                results[number] = CreateSearchResult(undecided=_several(fits))
            else:
                results[number] = CreateSearchResult(task=fits[0].task)
        for number, search in enumerate(self.searches):
            if number in groups:
                continue
            for task in self._nameless.values():
                if (
                    not self._would_be_named(task, search)
                    and _in_time(task, search, clock_offset_sec)
                    and settings_agree(task, search.request)
                ):
                    results[number] = CreateSearchResult(undecided=_nameless(task))
                    break
        return results

    def _assign(self, clock_offset_sec: float | None) -> dict[int, list[_Fit]]:
        """Give each task to one search, oldest task first; what a URL has too many of goes to its other searches."""
        groups: dict[int, list[_Fit]] = {}
        spare: list[_Fit] = []
        for fit in sorted(self._named.values(), key=lambda fit: (_created(fit.task), str(fit.task.id))):
            best = self._best(fit, groups, clock_offset_sec)
            if best is None:
                continue
            if best in groups and not any(best in each.by_filename for each in (*groups[best], fit)):
                spare.append(fit)
            else:
                groups.setdefault(best, []).append(fit)
        for fit in spare:
            best = self._best(fit, groups, clock_offset_sec, free=True)
            if best is not None:
                groups[best] = [fit]
        return groups

    def _best(
        self, fit: _Fit, groups: dict[int, list[_Fit]], clock_offset_sec: float | None, *, free: bool = False
    ) -> int | None:
        """Return the search with the latest beginning before the task, or None if its time is in none of them."""
        numbers = [
            number
            for number in fit.searches
            if _in_time(fit.task, self.searches[number], clock_offset_sec) and not (free and number in groups)
        ]
        if not numbers:
            return None
        latest = _created(fit.task) - timedelta(seconds=clock_offset_sec or 0.0) + _DATE_TOLERANCE
        before = [number for number in numbers if self.searches[number].since <= latest]
        if not before:
            return min(numbers, key=lambda number: self.searches[number].since)
        # Of searches with one beginning, as those of two creates at once, the one that has no task yet.
        return max(before, key=lambda number: (self.searches[number].since, number not in groups))

    def _would_be_named(self, task: MediaEmbeddingTask, search: CreateSearch) -> bool:
        kinds = {"url" if source.url is not None else "filename" for source in search.sources}
        return bool(kinds) and all((kind, task.status) in self._kinds for kind in kinds)


def _created(task: MediaEmbeddingTask) -> datetime:
    if task.created_at is None:
        return datetime.max.replace(tzinfo=UTC) - timedelta(days=366)
    return as_utc(task.created_at)


def _in_time(task: MediaEmbeddingTask, search: CreateSearch, clock_offset_sec: float | None) -> bool:
    """Return True if the task was created within the time of the search, or the list does not say when.

    By our clock a creation lies up to about a second after the truth, since the offset is known in whole seconds. So
    the end is compared as it is: what was created later than that is never taken for older.
    """
    if task.created_at is None:
        return True
    at = _created(task) - timedelta(seconds=clock_offset_sec or 0.0)
    tolerance = _CLOCK_MARGIN if clock_offset_sec is None else _DATE_TOLERANCE
    return search.since - tolerance <= at and (search.until is None or at <= search.until)


def _several(fits: Sequence[_Fit]) -> str:
    names = ", ".join(str(fit.task.id) for fit in fits)
    media = fits[0].task.media
    return f"The list has several new tasks from the file name {media.input_filename if media else None!r}: {names}."


def _nameless(task: MediaEmbeddingTask) -> str:
    return f"The list has a new task that does not name its source, and its settings fit: {task.id}."
