"""Creation of tasks: what of a valid request depends on the platform's state, at once or late."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from embed_pipeline.emulator.control.faults import TASK_KINDS, task_effects
from embed_pipeline.emulator.rules.accept import accept_task
from embed_pipeline.emulator.rules.bounds import known_fault
from embed_pipeline.emulator.rules.refusal import Refusal
from embed_pipeline.emulator.rules.request import AcceptedRequest
from embed_pipeline.emulator.rules.tokens import usage_of
from embed_pipeline.emulator.rules.urls import below_root, check_url, is_file_url
from embed_pipeline.emulator.state.clock import new_id
from embed_pipeline.emulator.work.compute import reads_sources
from embed_pipeline.emulator.work.probe import UnreadableMediaError, read_header_isolated
from embed_pipeline.emulator.work.sources import check_reachable, content_hash, decoded
from embed_pipeline.emulator.work.workers import embedded_seconds
from embed_pipeline.redaction import without_credentials

if TYPE_CHECKING:
    from embed_pipeline.emulator.platform import Platform
    from embed_pipeline.emulator.state.journal import JournalEntry


class Creation:
    """Creates tasks. Blocking; safe to call from any thread.

    Args:
        platform: Where they are kept.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def create(
        self, accepted: AcceptedRequest, body: dict[str, Any], now: int, entry: JournalEntry | None = None
    ) -> str:
        """Create a task.

        Args:
            accepted: The valid request.
            body: Its JSON, which holds the bytes of a base64 source.
            now: Epoch milliseconds.
            entry: The request's line in the journal.

        Returns:
            The task's id.

        Raises:
            Refusal: If the source is not there, may not be read, or is outside the platform's bounds.
        """
        platform, settings = self._platform, self._platform.settings
        task_id = new_id(now)
        field = f"{accepted.input_type}.media_source"
        rules = platform.faults.draw("create", without_credentials(accepted.source), TASK_KINDS)
        effects = task_effects(rules)
        input_url = input_filename = None
        media = b""
        if accepted.source_kind == "url":
            input_url = accepted.source
            root, private = settings.media_root, settings.allow_private_sources
            check_url(accepted.source, media_root=root, allow_private=private, field=f"{field}.url")
            if settings.switches.source_check == "create":
                check_reachable(accepted.source, settings, field=f"{field}.url")
        elif accepted.source_kind == "base64":
            text = body[accepted.input_type]["media_source"]["base64_string"]
            media = decoded(text, settings.sizes.of_base64(accepted.input_type), field)
            accepted = replace(accepted, source=content_hash(media))
        else:
            input_filename = platform.asset_filename(accepted.source, field=f"{field}.asset_id")
        self._check_bounds(accepted, field)
        if self._count_media(accepted):
            effects["counted"] = True
        if media:
            (platform.media / task_id).write_bytes(media)
        platform.store.add(
            task_id,
            accepted,
            now=now,
            polls_left=platform.timing.after_polls,
            held=platform.timing.on_command or bool(effects.pop("held", False)),
            input_url=input_url,
            input_filename=input_filename,
            effects=effects,
        )
        if entry is not None:
            entry.task_id, entry.source = task_id, without_credentials(accepted.source)
            entry.faults += [rule.id for rule in rules]
        platform.workers.wake()
        return task_id

    def create_later(self, body: dict[str, Any], due: int) -> None:
        """Keep a valid request whose task is created when the clock reaches `due` (epoch milliseconds)."""
        self._platform.store.add_late(json.dumps(body), due=due)

    def create_due(self, now: int) -> None:
        """Create the late tasks whose time has come (epoch milliseconds); what is refused by now is dropped."""
        for due, text in self._platform.store.take_late(now):
            body = json.loads(text)
            try:
                self.create(accept_task(body, self._platform.settings.switches), body, due)
            except Refusal:
                continue  # There is no client to answer any more.

    def _check_bounds(self, request: AcceptedRequest, field: str) -> None:
        """Refuse media that what is known at creation shows to be outside the platform's bounds."""
        settings = self._platform.settings
        if not reads_sources(settings):
            return
        fault = None
        asset = self._platform.assets.get(request.source) if request.source_kind == "asset" else None
        if asset is not None:
            header = json.loads(asset.technical or "{}")
            pixels = header.get("video_width"), header.get("video_height")
            fault = known_fault(settings, request.input_type, asset.duration, asset.size, pixels)
        elif is_file_url(request.source) and settings.switches.source_check == "create":
            path = below_root(request.source, settings.media_root)
            try:
                found = read_header_isolated(path)
            except UnreadableMediaError as error:
                raise Refusal(f"{field}: {error}", field, code="video_file_broken") from None
            pixels = found.width, found.height
            fault = known_fault(settings, request.input_type, found.duration_sec, path.stat().st_size, pixels)
        if fault is not None:
            raise Refusal(f"{field}: {fault.message}.", field, code=fault.code)

    def _count_media(self, request: AcceptedRequest) -> bool:
        """Count a task's media and tokens against the limits if its length is known before it is fetched.

        Returns:
            Whether it was counted; otherwise it is when the task is done.
        """
        if not self._platform.limiter.counts_media:
            return False
        seconds = self._known_duration(request)
        if seconds is not None:
            embedded = embedded_seconds(request, seconds)
            self._platform.count(embedded, usage_of(request, embedded))
        return seconds is not None

    def _known_duration(self, request: AcceptedRequest) -> float | None:
        settings = self._platform.settings
        if not reads_sources(settings):
            return settings.instant_duration_sec
        if request.source_kind == "asset":
            asset = self._platform.assets.get(request.source)
            return None if asset is None else asset.duration
        if not is_file_url(request.source):
            return None
        try:
            return read_header_isolated(below_root(request.source, settings.media_root)).duration_sec
        except (Refusal, UnreadableMediaError):
            return None
