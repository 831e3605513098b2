"""Redaction of secrets in URLs, messages, headers and log lines."""

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


def without_credentials(url: str) -> str:
    """A URL without user name, password, query and fragment: the part of it that may be shown and stored.

    Args:
        url: Any URL. A path on this machine comes back unchanged.
    """
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # not a URL after all, such as one with half an IPv6 address
        return ""
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
