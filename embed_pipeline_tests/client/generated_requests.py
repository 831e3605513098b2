"""Generated requests that both the client and the official SDK can express, as trees of type names and fields."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import strategies as st


def node(name: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object of a type that both have, with every subset of its optional fields."""
    required = {key: value for key, value in fields.items() if not key.endswith("_")}
    optional = {key[:-1]: value for key, value in fields.items() if key.endswith("_")}
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: {"$": name, "fields": values})


def subset(*values: str) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(st.sampled_from(values), min_size=1, unique=True)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
sources = st.one_of(
    node("MediaSource", url=texts),
    node("MediaSource", asset_id=texts),
    node(
        "MediaSource", base_64_string=st.binary(min_size=1, max_size=9).map(lambda raw: base64.b64encode(raw).decode())
    ),
)


def fixed(outer: str, inner: str) -> st.SearchStrategy[Any]:
    return node(outer, fixed=node(inner, duration_sec=st.integers(2, 10)))


def dynamic(outer: str, inner: str) -> st.SearchStrategy[Any]:
    return node(outer, dynamic=node(inner, min_duration_sec=st.integers(2, 5)))


flat_video = st.one_of(
    st.none(),
    fixed("VideoSegmentation_Fixed", "VideoSegmentationFixedFixed"),
    dynamic("VideoSegmentation_Dynamic", "VideoSegmentationDynamicDynamic"),
)
flat_audio = st.none() | node(
    "AudioSegmentation",
    strategy=st.just("fixed"),
    fixed=node("AudioSegmentationFixed", duration_sec=st.integers(2, 10)),
)
temporal = st.none() | node(
    "AsyncTemporalSegmentation",
    temporal=st.one_of(
        fixed("TemporalSegmentation_Fixed", "TemporalSegmentationFixedFixed"),
        dynamic("TemporalSegmentation_Dynamic", "TemporalSegmentationDynamicDynamic"),
    ),
)
starts = st.none() | st.floats(0, 100, allow_nan=False) | st.integers(0, 100)
ends = st.none() | st.floats(101, 20000, allow_nan=False) | st.integers(101, 20000)
types = subset("separate_embedding", "fused_embedding")


@st.composite
def marengo_3_0(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["audio", "video"]))
    options = ("visual", "audio", "transcription") if kind == "video" else ("audio", "transcription")
    media = draw(
        node(
            f"{kind.title()}InputRequest",
            media_source=sources,
            start_sec_=starts,
            end_sec_=ends,
            segmentation_=flat_video if kind == "video" else flat_audio,
            embedding_option_=subset(*options),
            embedding_scope_=subset("clip", "asset"),
            embedding_type_=types,
        )
    )
    other = {"audio" if kind == "video" else "video": None} if draw(st.booleans()) else {}
    return {"input_type": kind, "model_name": "marengo3.0", kind: media, **other}


@st.composite
def marengo_3_5(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["audio", "video", "document", "image"]))
    arguments: dict[str, Any] = {"input_type": kind, "model_name": "marengo3.5"}
    if kind == "image":
        arguments["image"] = draw(
            node(
                "AsyncImageInputRequest",
                media_source=sources,
                embedding_option_=subset("visual"),
                embedding_scope_=subset("asset"),
                embedding_type_=subset("separate_embedding"),
            )
        )
    elif kind == "document":
        sequential = node(
            "DocumentSequentialSegmentation",
            strategy=st.just("sentence"),
            max_sentences=st.integers(5, 9),
            overlap_sentences_=st.none() | st.integers(0, 4),
        )
        spatial = node("DocumentSpatialSegmentation", strategy_=st.none() | st.sampled_from(["standard", "quadrants"]))
        text = node("DocumentSegmentation", sequential=sequential)
        pdf = node("DocumentSegmentation", spatial=spatial)
        arguments["document"] = draw(
            st.one_of(
                node(
                    "AsyncDocumentInputRequest",
                    media_source=sources,
                    segmentation=text,
                    embedding_option_=subset("text"),
                    embedding_scope_=subset("local", "asset"),
                ),
                node(
                    "AsyncDocumentInputRequest",
                    media_source=sources,
                    segmentation_=pdf,
                    embedding_option_=subset("visual"),
                    embedding_scope_=subset("local", "asset"),
                    embedding_type_=subset("separate_embedding"),
                ),
            )
        )
    else:
        fused = draw(st.booleans())
        entry = node("TimeBasedMetadataEntry", start=st.floats(0, 5), end=st.floats(5, 9), text=texts)
        media = draw(
            node(
                f"Async{kind.title()}InputRequest",
                media_source=sources,
                start_sec_=starts,
                end_sec_=ends,
                segmentation_=temporal,
                embedding_option_=subset(*(("visual", "audio") if kind == "video" else ("audio",))),
                embedding_scope=subset("clip", "local"),
            )
        )
        if media["fields"]["embedding_scope"] is not None:
            arguments.update(draw(st.fixed_dictionaries({}, optional={"embedding_uncertainty": st.booleans()})))
        if fused:
            media["fields"]["embedding_type"] = draw(
                st.sampled_from([["fused_embedding"], ["separate_embedding", "fused_embedding"]])
            )
            media["fields"]["time_based_metadata"] = draw(st.lists(entry, min_size=1, max_size=3))
        arguments[kind] = media
    arguments.update(
        draw(st.fixed_dictionaries({}, optional={"embedding_dimension": st.sampled_from([128, 256, 512, None])}))
    )
    return arguments
