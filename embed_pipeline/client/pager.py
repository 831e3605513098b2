"""Pages as the official SDK gives them: iterate over the pager for all items, or go from page to page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Generic, TypeVar

from embed_pipeline.client.drivers import AsyncioDriver, ThreadDriver
from embed_pipeline.client.exchange import Reply
from embed_pipeline.client.listing import Walk
from embed_pipeline.client.responses import ResponseModel

Item = TypeVar("Item", bound=ResponseModel)


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

    def __repr__(self) -> str:
        return f"AsyncPager({len(self.items)} items, has_next={self.has_next})"
