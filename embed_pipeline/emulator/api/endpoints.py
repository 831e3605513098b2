"""Names for what a request asks: fault rules, limits and the journal speak of endpoints by these."""

from __future__ import annotations

ENDPOINTS = (
    "create",
    "embed",
    "list",
    "retrieve",
    "asset_create",
    "asset_list",
    "asset_retrieve",
    "asset_delete",
    "asset_metadata",
    "upload_create",
    "upload_urls",
    "upload_report",
    "upload_list",
    "upload_status",
    "chunk",
    "other",
)
_UPLOADS = "/v1.3/assets/multipart-uploads"


def endpoint_of(method: str, path: str) -> str:
    """Name the endpoint that a request asks.

    Args:
        method: The HTTP method.
        path: The path, with the base path in front.

    Returns:
        One of `ENDPOINTS`; `other` for what the platform does not serve.
    """
    parts = path.rstrip("/").split("/")[1:]
    if parts[:1] == ["_upload"]:
        return "chunk"
    if parts[:3] == ["v1.3", "embed-v2", "tasks"]:
        return {("POST", 3): "create", ("GET", 3): "list", ("GET", 4): "retrieve"}.get((method, len(parts)), "other")
    if parts == ["v1.3", "embed-v2"] and method == "POST":
        return "embed"
    if path.startswith(_UPLOADS):
        by_shape = {
            ("POST", 3): "upload_create",
            ("GET", 3): "upload_list",
            ("POST", 4): "upload_report",
            ("GET", 4): "upload_status",
            ("POST", 5): "upload_urls",
        }
        return by_shape.get((method, len(parts)), "other")
    if parts[:2] == ["v1.3", "assets"]:
        by_shape = {
            ("POST", 2): "asset_create",
            ("GET", 2): "asset_list",
            ("GET", 3): "asset_retrieve",
            ("DELETE", 3): "asset_delete",
            **{(verb, 4): "asset_metadata" for verb in ("PUT", "PATCH", "DELETE")},
        }
        return by_shape.get((method, len(parts)), "other")
    return "other"
