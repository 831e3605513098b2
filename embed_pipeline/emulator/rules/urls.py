"""URLs as media sources: their form, and where they may lead. Pure functions; nothing is fetched or looked up."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from embed_pipeline.emulator.rules.refusal import Refusal

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HOSTING = (
    "youtube.com",
    "youtu.be",
    "youtube-nocookie.com",
    "vimeo.com",
    "dailymotion.com",
    "dai.ly",
    "twitch.tv",
    "tiktok.com",
    "instagram.com",
    "facebook.com",
    "fb.watch",
    "bilibili.com",
    "soundcloud.com",
    "spotify.com",
)
_DRIVES = (
    "drive.google.com",
    "docs.google.com",
    "photos.app.goo.gl",
    "dropbox.com",
    "onedrive.live.com",
    "1drv.ms",
    "sharepoint.com",
    "box.com",
    "icloud.com",
    "mega.nz",
    "wetransfer.com",
    "we.tl",
)


def is_file_url(url: str) -> bool:
    """Return whether a URL names a file of this machine."""
    return url[:5].lower() == "file:"


def link_fault(url: str) -> str | None:
    """Return why a URL is not the address of a file, or None if it is one.

    Args:
        url: Of the form `http://`, `https://` or `file://`. It stays out of the reason: it may be signed.
    """
    try:
        parts = urlsplit(url)
        # Parsers drop or translate these characters silently, each in its own way.
        odd = any(ord(character) < 0x20 or ord(character) == 0x7F for character in url) or (
            "\\" in url and not is_file_url(url)
        )
        if odd or parts.port == 0 or b"\0" in unquote_to_bytes(url):
            raise ValueError
    except ValueError:
        return "is not a valid URL."
    named = bool(parts.hostname) or parts.scheme == "file"
    if parts.scheme not in ("http", "https", "file") or not url.lower().startswith(f"{parts.scheme}://") or not named:
        return "must be a direct http or https link to a media file."
    return None


def check_url(url: str, *, media_root: Path | None, allow_private: bool, field: str) -> None:
    """Refuse at creation what this emulator must not read; nothing is fetched and no name is looked up.

    Args:
        url: The source.
        media_root: The folder below which `file://` sources may lie.
        allow_private: Whether http sources may lie on loopback or in private networks.
        field: The path of the request's field, for the message.

    Raises:
        Refusal: If the source lies where this emulator does not read.
    """
    if is_file_url(url):
        below_root(url, media_root, field=field)
        return
    parts = urlsplit(url)
    reason = not_media(parts)
    if reason is not None:
        raise Refusal(f"{field}: {reason}.", field)
    if allow_private:
        return
    host = (parts.hostname or "").rstrip(".").lower()
    try:
        private = not is_public(host)
    except ValueError:
        private = host == "localhost" or host.endswith(".localhost")
    if private:
        raise Refusal(
            f"{field}: the host {host} lies on this machine or in a private network; start the emulator with "
            "--allow-private-sources to let it read from there.",
            field,
        )


def below_root(url: str, media_root: Path | None, *, field: str = "url") -> Path:
    """Find the file that a `file://` URL names.

    Args:
        url: The source.
        media_root: The folder below which the file must lie once every link is resolved. None allows no file.
        field: The path of the request's field, for the message.

    Returns:
        The resolved path; whether it exists is not checked.

    Raises:
        Refusal: If it lies elsewhere. The answer is the same whether or not there is such a file.
    """
    if media_root is None:
        raise Refusal("file:// sources need an emulator that was started with --media-root.", field)
    # A name may hold `?` or `#` unescaped: a file has neither query nor fragment.
    host, slash, path = url[len("file://") :].partition("/")
    if not url.lower().startswith("file://") or host.lower() not in ("", "localhost") or not slash:
        raise Refusal(f"{field}: a file:// source names no host; write file:///path/to/file.", field)
    root = media_root.resolve()
    try:
        # A name need not be UTF-8.
        resolved = Path(os.fsdecode(b"/" + unquote_to_bytes(path))).resolve()
    except (OSError, ValueError, RuntimeError):
        resolved = Path("/")
    if not resolved.is_relative_to(root):
        raise Refusal(f"{field}: a file:// source must lie below the emulator's --media-root.", field)
    return resolved


def not_media(parts: SplitResult) -> str | None:
    """Return why a link cannot lead to the bytes of a media file; nothing is fetched.

    Args:
        parts: The link.

    Returns:
        The reason and what to do, or None if the link may be one.
    """
    host = (parts.hostname or "").rstrip(".").lower()
    if _below(host, _HOSTING):
        return f"{host} is a hosting platform, whose pages are not media files; link to the file itself"
    if _below(host, _DRIVES):
        return f"share links of a cloud drive ({host}) are not supported; link to the file itself or upload it"
    if parts.path.lower().endswith((".m3u8", ".mpd")):
        return "a playlist is not a media file, and this emulator does not follow it; link to the file itself"
    return None


def _below(host: str, domains: tuple[str, ...]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def is_public(host: str) -> bool:
    """Return whether an address is public.

    Raises:
        ValueError: If it is a name, not an address.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast
