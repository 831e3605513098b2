"""Keeps secrets out of what people read: messages, reprs and log lines never show a key or a signed query."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_URL_WITH_QUERY = re.compile(r"(?P<address>\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s\"'<>?#\\]*)[?#][^\s\"'<>]*")
_USER_INFO = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@\"'<>]+@")
# A shorter key, such as the "k" of a test against the emulator, is part of ordinary words.
_SHORTEST_SECRET = 6
_SECRET_HEADERS = frozenset({"x-api-key", "authorization", "cookie", "set-cookie", "proxy-authorization"})


def without_query(url: str) -> str:
    """The URL without user info, query and fragment, which is all of it that may be shown.

    Args:
        url: Any URL. Text that is no URL comes back unchanged up to the first ``?``.
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def redact(text: str, *secrets: str) -> str:
    """The text with every URL cut before its query and every one of the given secrets replaced by ``***``."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return _URL_WITH_QUERY.sub(r"\g<address>?…", _USER_INFO.sub(r"\g<scheme>", text))


def redact_value(value: Any, *secrets: str) -> Any:
    """The same for every string inside a parsed JSON value; other values come back as they are."""
    if isinstance(value, str):
        return redact(value, *secrets)
    if isinstance(value, Mapping):
        return {redact(str(key), *secrets): redact_value(item, *secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_value(item, *secrets) for item in value]
    return value


def redact_headers(headers: Mapping[str, str], *secrets: str) -> dict[str, str]:
    """Response headers with lower-case names, without cookies and credentials, and with redacted values."""
    return {
        name.lower(): redact(value, *secrets) for name, value in headers.items() if name.lower() not in _SECRET_HEADERS
    }


class _SignedQueryFilter(logging.Filter):
    """Cuts queries off the URLs that httpx writes into its own log lines (one line per request, at INFO)."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.args:
            record.msg, record.args = redact(record.getMessage()), None
        return True


def guard_httpx_log() -> None:
    """Makes the ``httpx`` logger drop queries: it would otherwise log presigned upload URLs with their signatures."""
    log = logging.getLogger("httpx")
    if not any(isinstance(present, _SignedQueryFilter) for present in log.filters):
        log.addFilter(_SignedQueryFilter())
