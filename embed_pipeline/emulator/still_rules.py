"""The rules for what has no length: images and documents. JSON in, an accepted request or a refusal out.

What a document may be asked for depends on its kind, which its name tells, or else only its bytes: so a document's
request is accepted as far as it can be, and settled once the kind is known.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from embed_pipeline.emulator.engine.documents import is_pdf
from embed_pipeline.emulator.refusal import Refusal
from embed_pipeline.emulator.request import AcceptedRequest, Division
from embed_pipeline.emulator.rules import NOT_PROVIDED, Rules

DocumentKind: TypeAlias = Literal["pdf", "text"]

# What a kind of document may be embedded by (option and scope), the default first.
PAIRS: dict[DocumentKind, tuple[tuple[str, str], ...]] = {
    "pdf": (("visual", "local"), ("visual", "asset"), ("text", "asset")),
    "text": (("text", "asset"), ("text", "local")),
}
_SEPARATE = ("separate_embedding",)
_FIELDS = {"media_source", "embedding_option", "embedding_scope", "embedding_type"}
MANY_SENTENCES = 10_000
_ENDINGS: dict[str, DocumentKind] = {".pdf": "pdf", ".txt": "text", ".md": "text", ".markdown": "text"}


def accept_image(rules: Rules, image: dict[str, Any], *, dimension: int, uncertainty: bool) -> AcceptedRequest:
    """Hold a request for an image to the rules; every list allows one value only.

    Args:
        rules: The rules of single fields.
        image: The request's `image` object.
        dimension: How long the vector is to be.
        uncertainty: Whether it comes with its uncertainty.

    Raises:
        Refusal: If the platform would answer 400.
    """
    rules.known(image, _FIELDS, "image")
    kind, source = rules.source(image, "image.media_source")
    options, scopes, types = (
        rules.words(image, f"embedding_{name}", only, "image", only)
        for name, only in (("option", ("visual",)), ("scope", ("asset",)), ("type", _SEPARATE))
    )
    return AcceptedRequest(
        input_type="image",
        model_name="marengo3.5",
        source_kind=kind,
        source=source,
        options=options,
        scopes=scopes,
        types=types,
        dimension=dimension,
        uncertainty=uncertainty,
    )


def accept_document(rules: Rules, document: dict[str, Any], *, dimension: int, uncertainty: bool) -> AcceptedRequest:
    """Hold a request for a document to the rules that do not depend on its kind.

    Args:
        rules: The rules of single fields.
        document: The request's `document` object.
        dimension: How long the vectors are to be.
        uncertainty: Whether they come with their uncertainty.

    Returns:
        The request, to be given to `settle_document` once the kind is known.

    Raises:
        Refusal: If the platform would answer 400 whatever the kind.
    """
    rules.known(document, _FIELDS | {"segmentation"}, "document")
    kind, source = rules.source(document, "document.media_source")
    options = rules.words(document, "embedding_option", ("visual", "text"), "document", ("text",))
    scopes = rules.words(document, "embedding_scope", ("local", "asset"), "document", ("asset",))
    types = rules.words(document, "embedding_type", (*_SEPARATE, "fused_embedding"), "document", _SEPARATE)
    if "fused_embedding" in types:
        message = "document.embedding_type fused_embedding is not available for documents."
        raise Refusal(message, "document.embedding_type", list(types))
    return AcceptedRequest(
        input_type="document",
        model_name="marengo3.5",
        source_kind=kind,
        source=source,
        options=options if "embedding_option" in document else (),
        scopes=scopes if "embedding_scope" in document else (),
        types=types,
        dimension=dimension,
        uncertainty=uncertainty,
        division=_division(rules, document.get("segmentation")),
    )


def _division(rules: Rules, value: Any) -> Division | None:
    path = "document.segmentation"
    if value is None:
        return None
    outer = rules.known(rules.mapping(value, path), {"spatial", "sequential"}, path)
    if ("spatial" in outer) == ("sequential" in outer):
        raise Refusal(f"{path} must have exactly one of spatial (for a PDF) and sequential (for a text).", path)
    if "spatial" in outer:
        path = f"{path}.spatial"
        spatial = rules.known(rules.mapping(outer["spatial"], path), {"strategy"}, path)
        strategy = rules.choice({"strategy": "standard", **spatial}, "strategy", ("standard", "quadrants"), path)
        return Division(quadrants=strategy == "quadrants")
    path = f"{path}.sequential"
    names = {"strategy", "max_sentences", "overlap_sentences"}
    sequential = rules.known(rules.mapping(outer["sequential"], path), names, path)
    rules.choice(sequential, "strategy", ("sentence",), path)
    if "max_sentences" not in sequential:
        raise Refusal(f"{path}.max_sentences is required.", f"{path}.max_sentences", None, NOT_PROVIDED)
    most = rules.count(sequential["max_sentences"], f"{path}.max_sentences", 1, MANY_SENTENCES)
    overlap = rules.count(sequential.get("overlap_sentences", 0), f"{path}.overlap_sentences", 0, most - 1)
    return Division(max_sentences=most, overlap_sentences=overlap)


def settle_document(request: AcceptedRequest, kind: DocumentKind) -> AcceptedRequest:
    """Fill in the defaults of a kind of document, and hold the request to that kind's rules.

    Args:
        request: What `accept_document` returned.
        kind: What the file is.

    Returns:
        The request with its options and scopes.

    Raises:
        Refusal: If the platform would answer 400.
    """
    default_option, default_scope = PAIRS[kind][0]
    options, scopes = request.options or (default_option,), request.scopes or (default_scope,)
    what = "a PDF" if kind == "pdf" else "a plain text or Markdown file"
    for pair in ((option, scope) for option in options for scope in scopes):
        if pair not in PAIRS[kind]:
            allowed = ", ".join(f"{option} with {scope}" for option, scope in PAIRS[kind])
            message = f"{what} cannot be embedded as {pair[0]} with the scope {pair[1]}; it can as {allowed}."
            raise Refusal(message[0].upper() + message[1:], "document.embedding_scope", pair[1])
    division = request.division
    by_sentence = division is not None and division.max_sentences is not None
    if kind == "pdf":
        if by_sentence:
            message = "document.segmentation.sequential is not available for a PDF, which is divided by its pages."
            raise Refusal(message, "document.segmentation.sequential")
        if division is not None and ("visual", "local") not in [(o, s) for o in options for s in scopes]:
            message = "document.segmentation.spatial requires the option visual and the scope local."
            raise Refusal(message, "document.segmentation.spatial")
    else:
        if division is not None and not by_sentence:
            message = "document.segmentation.spatial is not available for a text, which has no rendered pages."
            raise Refusal(message, "document.segmentation.spatial")
        if by_sentence != ("local" in scopes):
            message = "document.segmentation.sequential and the scope local require each other for a text."
            raise Refusal(message, "document.segmentation.sequential")
    if request.uncertainty and (kind == "pdf" or scopes != ("local",)):
        message = 'embedding_uncertainty is available only for a text with embedding_scope ["local"].'
        raise Refusal(message, "embedding_uncertainty", value=True)
    return replace(request, options=options, scopes=scopes)


def kind_by_name(name: str) -> DocumentKind | None:
    """Tell a document's kind from its file name or its URL, or None if its ending does not say."""
    try:
        path = urlsplit(name).path if "://" in name else name
    except ValueError:
        return None
    return _ENDINGS.get(PurePosixPath(unquote(path)).suffix.lower())


def kind_of_file(path: Path) -> DocumentKind | None:
    """Tell a document's kind from its file, or None if there is none."""
    try:
        with path.open("rb") as file:
            return kind_by_content(file.read(1024))
    except OSError:
        return None


def kind_by_content(head: bytes) -> DocumentKind:
    """Tell a document's kind from its first kilobyte; what is no PDF is taken for a text until it is read."""
    return "pdf" if is_pdf(head) else "text"
