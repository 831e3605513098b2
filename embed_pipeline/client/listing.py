"""Walking through a list whose pages shift while one reads."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from embed_pipeline.client.decoding import decode_task
from embed_pipeline.client.errors import InvalidRequestError, UnreadableResponseError
from embed_pipeline.client.exchange import Flow, Outgoing, Reply, RequestOptions, Session, path_segment, read
from embed_pipeline.client.responses import (
    EmbeddingTaskResponse,
    MediaEmbeddingTask,
    PageInfo,
    ResponseModel,
    TasksListResponse,
)

if TYPE_CHECKING:
    from embed_pipeline.client.transport import AsyncioDriver, ThreadDriver

Item = TypeVar("Item", bound=ResponseModel)
Body = TypeVar("Body", bound=ResponseModel)

MAX_PAGE_LIMIT = 50
_DEFAULT_PAGE_LIMIT = 10


def timestamp(moment: date | str | None) -> str | None:
    """Return a moment as the platform's filters take it, `2024-03-01T00:00:00Z`; text passes unchanged.

    A date is its first moment, UTC. Fractions of a second are dropped, as the filters know seconds only.

    Raises:
        InvalidRequestError: A datetime without a time zone, which is somebody's local time.
    """
    if moment is None or isinstance(moment, str):
        return moment
    if not isinstance(moment, datetime):
        return f"{moment.isoformat()}T00:00:00Z"
    if moment.tzinfo is None:
        raise InvalidRequestError(f"{moment.isoformat()} has no time zone: use datetime.now(UTC), or text with a Z.")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_utc(moment: datetime) -> datetime:
    """Return a moment of the platform, which means UTC where it names no time zone."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page as it came.

    Attributes:
        items: What is on it.
        info: Where in the list it is, as far as the platform says.
        reply: The answer it was read from.
    """

    items: list[Item]
    info: PageInfo
    reply: Reply


@dataclass
class Walk(Generic[Item]):
    """Gives every item of a paged list once, although pages shift between requests.

    New items push others to later pages: ids already seen are passed over, and from the second page on the walk is
    bounded by the newest creation time of the first. Items that leave a filtered list pull others forward, past the
    reader: when the total shrinks, the walk goes back as many pages as could have moved. It ends at the last page, at
    an empty one, or at one with nothing new (a server that ignores ``page``).

    Args:
        fetch: The request for a page, by number and by an upper bound for the creation time.
        first_page: Where to begin.
        page_limit: Items per page; None for the platform's own.
        bounded: Whether the caller set an upper bound already.
    """

    fetch: Callable[[int, str | None], Flow[Page[Item]]]
    first_page: int = 1
    page_limit: int | None = None
    bounded: bool = True
    _seen: set[str] = field(default_factory=set)
    _until: str | None = None
    _next: int | None = None
    _total: int | None = None
    _reread_up_to: int = 0
    _pages_fetched: int = 0

    def next_page(self) -> Flow[tuple[list[Item], bool, Reply]]:
        """The next page's new items, whether more may follow, and the answer."""
        number = self._next if self._next is not None else self.first_page
        page = yield from self.fetch(number, self._until)
        self._pages_fetched += 1
        fresh = self._take(page.items)
        size = page.info.limit_per_page or self.page_limit or _DEFAULT_PAGE_LIMIT
        goes_on = self._goes_on(page, number, fresh, size)
        if goes_on and self._pages_fetched == 1 and not self.bounded:
            self._until = _just_after(page.items)
        total, self._next = page.info.total_results, number + 1
        if total is not None and self._total is not None and total < self._total and number > self.first_page:
            moved = math.ceil((self._total - total) / size)
            self._reread_up_to = max(self._reread_up_to, number)
            self._next = max(self.first_page, number - moved)
            goes_on = True
        self._total = total if total is not None else self._total
        return fresh, goes_on, page.reply

    def _take(self, items: list[Item]) -> list[Item]:
        fresh = []
        for item in items:
            identifier = getattr(item, "id", None)
            if identifier is None or identifier not in self._seen:
                fresh.append(item)
                if identifier is not None:
                    self._seen.add(identifier)
        return fresh

    def _goes_on(self, page: Page[Item], number: int, fresh: list[Item], size: int) -> bool:
        if not page.items:
            return False
        if not fresh and number > self._reread_up_to and self._pages_fetched > 1:
            return False
        if page.info.total_page is not None:
            return number < page.info.total_page
        return len(page.items) >= size


def _just_after(items: list[Any]) -> str | None:
    moments = [as_utc(moment) for item in items if isinstance(moment := getattr(item, "created_at", None), datetime)]
    # One second more, because the filter knows whole seconds and may exclude the bound itself.
    return timestamp(max(moments) + timedelta(seconds=2)) if moments else None


def parse_page(model: type[Body], reply: Reply) -> Body:
    """The answer as ``model``.

    Raises:
        UnreadableResponseError: It is not JSON, or not of this shape.
    """
    try:
        return model.model_validate_json(reply.content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the body"
        raise UnreadableResponseError(
            f"The platform's answer ({reply.status_code}, {reply.headers.get('content-type', 'no content type')}, "
            f"{len(reply.content)} bytes) cannot be read: {where}: {first['msg']}.",
            retryable=first["type"] == "json_invalid",
            status_code=reply.status_code,
        ) from None


def check_page_limit(page: int | None, page_limit: int | None) -> None:
    """Refuses what the platform would refuse.

    Raises:
        InvalidRequestError: ``page`` is below 1, or ``page_limit`` is not within 1 to 50.
    """
    if page is not None and page < 1:
        raise InvalidRequestError(f"page is {page}: pages are numbered from 1.")
    if page_limit is not None and not 1 <= page_limit <= MAX_PAGE_LIMIT:
        raise InvalidRequestError(f"page_limit is {page_limit}: the platform gives 1 to {MAX_PAGE_LIMIT} items a page.")


def walk_tasks(
    session: Session,
    *,
    started_at: date | str | None = None,
    ended_at: date | str | None = None,
    status: str | None = None,
    page: int | None = None,
    page_limit: int | None = None,
    options: RequestOptions | None = None,
) -> Walk[MediaEmbeddingTask]:
    """A walk through the list of tasks, newest first."""
    check_page_limit(page, page_limit)
    params: Mapping[str, Any] = {"started_at": timestamp(started_at), "ended_at": timestamp(ended_at), "status": status}

    def fetch(number: int, until: str | None) -> Flow[Page[MediaEmbeddingTask]]:
        request = Outgoing(
            method="GET",
            path="embed-v2/tasks",
            params={**params, "ended_at": params["ended_at"] or until, "page": number, "page_limit": page_limit},
        )

        def parse(reply: Reply) -> Page[MediaEmbeddingTask]:
            body: TasksListResponse = parse_page(TasksListResponse, reply)
            return Page(body.data or [], body.page_info or PageInfo(), reply)

        return read(session, request, parse, options)

    return Walk(fetch, first_page=page or 1, page_limit=page_limit, bounded=ended_at is not None)


def retrieve_task(session: Session, task_id: str, options: RequestOptions | None = None) -> Flow[EmbeddingTaskResponse]:
    """Return one task with its result.

    Raises:
        NotFoundError: There is no such task, or its result is older than seven days.
        UnreadableResponseError: A vector is missing, not finite, or differs in length from the others; or the answer
            bears another task's id.
    """

    def parse(reply: Reply) -> EmbeddingTaskResponse:
        try:
            task = decode_task(reply.content)
        except UnreadableResponseError as error:
            raise UnreadableResponseError(
                f"Task {task_id}: {error.message}", retryable=error.retryable, status_code=reply.status_code
            ) from None
        if task.id != task_id:
            raise UnreadableResponseError(
                f"The answer for task {task_id} bears the id {task.id!r}: it is another task's result.",
                status_code=reply.status_code,
            )
        return task

    request = Outgoing(method="GET", path=f"embed-v2/tasks/{path_segment(task_id)}")
    return (yield from read(session, request, parse, options))


class SyncPager(Generic[Item]):
    """The first page of a list, and the way to the others.

    Iterating gives each item of the whole list once, in the platform's order, and stops at the end by itself.

    Attributes:
        items: The items of this page that no earlier page had.
        has_next: Whether another page may follow.
        response: The answer this page was read from.
    """

    def __init__(self, driver: ThreadDriver, walk: Walk[Item]) -> None:
        self._driver = driver
        self._walk = walk
        self._following: SyncPager[Item] | None = None
        self.items: list[Item]
        self.has_next: bool
        self.response: Reply
        self.items, self.has_next, self.response = driver.run(walk.next_page())

    def __iter__(self) -> Iterator[Item]:
        for page in self.iter_pages():
            yield from page.items

    def iter_pages(self) -> Iterator[SyncPager[Item]]:
        """This page and all that follow."""
        page: SyncPager[Item] | None = self
        while page is not None:
            yield page
            page = page.next_page()

    def next_page(self) -> SyncPager[Item] | None:
        """The page after this one, or None at the end. Asked again, it is not requested again."""
        if self.has_next and self._following is None:
            self._following = SyncPager(self._driver, self._walk)
        return self._following

    def get_next(self) -> SyncPager[Item] | None:
        """Return the page after this one; the official SDK's other name for `next_page`."""
        return self.next_page()

    def __repr__(self) -> str:
        return f"SyncPager({len(self.items)} items, has_next={self.has_next})"


class AsyncPager(Generic[Item]):
    """The same for asyncio: ``async for item in await client.v_2.tasks.list()``.

    Attributes:
        items: The items of this page that no earlier page had.
        has_next: Whether another page may follow.
        response: The answer this page was read from.
    """

    def __init__(
        self, driver: AsyncioDriver, walk: Walk[Item], items: list[Item], response: Reply, *, has_next: bool
    ) -> None:
        self._driver = driver
        self._walk = walk
        self._following: AsyncPager[Item] | None = None
        self.items = items
        self.has_next = has_next
        self.response = response

    @classmethod
    async def fetch(cls, driver: AsyncioDriver, walk: Walk[Item]) -> AsyncPager[Item]:
        """The walk's next page."""
        items, has_next, response = await driver.run(walk.next_page())
        return cls(driver, walk, items, response, has_next=has_next)

    async def __aiter__(self) -> AsyncIterator[Item]:
        async for page in self.iter_pages():
            for item in page.items:
                yield item

    async def iter_pages(self) -> AsyncIterator[AsyncPager[Item]]:
        """This page and all that follow."""
        page: AsyncPager[Item] | None = self
        while page is not None:
            yield page
            page = await page.next_page()

    async def next_page(self) -> AsyncPager[Item] | None:
        """The page after this one, or None at the end. Asked again, it is not requested again."""
        if self.has_next and self._following is None:
            self._following = await AsyncPager.fetch(self._driver, self._walk)
        return self._following

    async def get_next(self) -> AsyncPager[Item] | None:
        """Return the page after this one; the official SDK's other name for `next_page`."""
        return await self.next_page()

    def __repr__(self) -> str:
        return f"AsyncPager({len(self.items)} items, has_next={self.has_next})"
