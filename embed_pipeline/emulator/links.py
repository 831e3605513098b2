"""Links that look like media and are none: pages of hosting platforms, share links of cloud drives, playlists."""

from __future__ import annotations

from urllib.parse import SplitResult

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


def not_media(parts: SplitResult) -> str | None:
    """Say why a link cannot lead to the bytes of a media file; nothing is fetched.

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
