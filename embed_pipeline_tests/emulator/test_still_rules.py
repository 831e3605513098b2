from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.emulator.refusal import Refusal
from embed_pipeline.emulator.request import AcceptedRequest, Division
from embed_pipeline.emulator.settings import Switches
from embed_pipeline.emulator.still_rules import PAIRS, kind_by_name, settle_document
from embed_pipeline.emulator.validation import validate

SOURCE = {"media_source": {"url": "https://media.example.com/a"}}
SENTENCES = {"sequential": {"strategy": "sentence", "max_sentences": 3}}
QUADRANTS = {"spatial": {"strategy": "quadrants"}}


def request(kind: str, /, *, top: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"input_type": kind, "model_name": "marengo3.5", kind: {**SOURCE, **fields}, **(top or {})}


def accepted(kind: str, /, **fields: Any) -> AcceptedRequest:
    return validate(request(kind, **fields), Switches())


def test_an_image_has_one_vector_and_nothing_else_may_be_asked_of_it():
    image = accepted("image", top={"embedding_uncertainty": True, "embedding_dimension": 128})
    assert (image.options, image.scopes, image.types) == (("visual",), ("asset",), ("separate_embedding",))
    assert (image.segmentation, image.dimension, image.uncertainty) == (None, 128, True)
    assert accepted("image", embedding_option=["visual"], embedding_type=["separate_embedding"]) == accepted("image")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (request("image", embedding_option=["text"]), "image.embedding_option"),
        (request("image", embedding_scope=["local"]), "image.embedding_scope"),
        (request("image", embedding_scope=["asset", "asset"]), "image.embedding_scope"),
        (request("image", embedding_type=["fused_embedding"]), "image.embedding_type"),
        (request("image", segmentation={}), "image.segmentation"),
        (request("image", start_sec=0), "image.start_sec"),
        (request("document", embedding_type=["fused_embedding"]), "document.embedding_type"),
        (request("document", embedding_option=["audio"]), "document.embedding_option"),
        (request("document", embedding_scope=["clip"]), "document.embedding_scope"),
        (request("document", segmentation={}), "document.segmentation"),
        (request("document", segmentation={**QUADRANTS, **SENTENCES}), "document.segmentation"),
        (
            request("document", segmentation={"spatial": {"strategy": "ninths"}}),
            "document.segmentation.spatial.strategy",
        ),
        (
            request("document", segmentation={"sequential": {"strategy": "sentence"}}),
            "document.segmentation.sequential.max_sentences",
        ),
        (
            request("document", segmentation={"sequential": {"max_sentences": 3}}),
            "document.segmentation.sequential.strategy",
        ),
        (
            request(
                "document",
                segmentation={"sequential": {"strategy": "sentence", "max_sentences": 3, "overlap_sentences": 3}},
            ),
            "document.segmentation.sequential.overlap_sentences",
        ),
        (request("document", top={"model_name": "marengo3.0"}), "input_type"),
        (request("image", top={"model_name": "marengo3.0"}), "input_type"),
        (request("image", top={"document": SOURCE}), "document"),
    ],
)
def test_what_no_image_and_no_document_allows_is_refused_at_once(body, field):
    with pytest.raises(Refusal) as caught:
        validate(body, Switches())
    assert (caught.value.status, caught.value.field) == (400, field)


def test_a_kind_of_document_has_defaults_of_its_own():
    document = accepted("document")
    assert (document.options, document.scopes) == ((), ())
    for kind, pair in (("pdf", ("visual", "local")), ("text", ("text", "asset"))):
        settled = settle_document(document, kind)
        assert (settled.options, settled.scopes) == ((pair[0],), (pair[1],))
    quartered = settle_document(accepted("document", segmentation=QUADRANTS), "pdf")
    assert quartered.division == Division(quadrants=True)
    chunked = settle_document(accepted("document", embedding_scope=["local"], segmentation=SENTENCES), "text")
    assert chunked.division == Division(max_sentences=3)


some = st.lists(st.sampled_from(["visual", "text"]), unique=True, min_size=1)
scopes = st.lists(st.sampled_from(["local", "asset"]), unique=True, min_size=1)


@given(kind=st.sampled_from(["pdf", "text"]), options=some, scopes=scopes)
def test_every_pair_of_option_and_scope_must_be_one_that_the_kind_allows(kind, options, scopes):
    division = SENTENCES if kind == "text" and "local" in scopes else None
    document = accepted("document", embedding_option=options, embedding_scope=scopes, segmentation=division)
    allowed = all((option, scope) in PAIRS[kind] for option in options for scope in scopes)
    if allowed:
        assert settle_document(document, kind).options == tuple(options)
    else:
        with pytest.raises(Refusal, match="cannot be embedded as"):
            settle_document(document, kind)


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        ("pdf", {"segmentation": SENTENCES}, "document.segmentation.sequential"),
        ("pdf", {"segmentation": QUADRANTS, "embedding_scope": ["asset"]}, "document.segmentation.spatial"),
        ("text", {"segmentation": QUADRANTS}, "document.segmentation.spatial"),
        ("text", {"segmentation": SENTENCES}, "document.segmentation.sequential"),
        ("text", {"embedding_scope": ["local"]}, "document.segmentation.sequential"),
        ("pdf", {"top": {"embedding_uncertainty": True}}, "embedding_uncertainty"),
        ("text", {"top": {"embedding_uncertainty": True}}, "embedding_uncertainty"),
    ],
)
def test_what_goes_with_the_other_kind_is_refused(kind, fields, field):
    with pytest.raises(Refusal) as caught:
        settle_document(accepted("document", **fields), kind)
    assert caught.value.field == field


def test_chunks_of_a_text_may_come_with_their_uncertainty():
    fields = {"embedding_scope": ["local"], "segmentation": SENTENCES, "top": {"embedding_uncertainty": True}}
    assert settle_document(accepted("document", **fields), "text").uncertainty


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("report.pdf", "pdf"),
        ("https://store.example.com/a%20b.PDF?signature=x.txt", "pdf"),
        ("notes.md", "text"),
        ("file:///data/notes.txt", "text"),
        ("https://store.example.com/object", None),
        ("http://[", None),
    ],
)
def test_a_name_tells_the_kind_of_a_document(name, kind):
    assert kind_by_name(name) == kind


@given(
    options=some,
    scopes=scopes,
    division=st.one_of(st.none(), st.builds(Division, quadrants=st.booleans(), max_sentences=st.integers(1, 9))),
)
def test_a_request_survives_being_kept(options, scopes, division):
    request = AcceptedRequest(
        "document", "marengo3.5", "url", "u", tuple(options), tuple(scopes), ("separate_embedding",), division=division
    )
    assert AcceptedRequest.from_json(request.to_json()) == request
