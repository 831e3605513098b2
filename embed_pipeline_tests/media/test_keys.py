from __future__ import annotations

import re

import pytest
from dagster import DagsterInstance, DynamicPartitionsDefinition
from dagster._core.definitions.partitions.utils import base as dagster_partitions
from hypothesis import example, given
from hypothesis import strategies as st

from embed_pipeline.errors import MediaError
from embed_pipeline.media import decode_partition_key, encode_partition_key, printable_path

# Every code point, lone surrogates included, with the awkward ones more often than chance would have them.
any_text = st.text(st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("%,|./ \n\0\udcff\u2028C2"))


@given(any_text)
@example("%")
@example("%25")
@example("\udcc3\udca9")
@example("......")
@example(". ")
def test_decoding_gives_the_path_back(path):
    assert decode_partition_key(encode_partition_key(path)) == path


@given(any_text, any_text)
def test_two_paths_never_share_a_key(first, second):
    assert (encode_partition_key(first) == encode_partition_key(second)) == (first == second)


@given(any_text)
@example("...")
@example("a....b")
def test_a_key_holds_nothing_that_dagster_or_a_database_refuses(path):
    key = encode_partition_key(path)
    assert not [part for part in dagster_partitions.INVALID_PARTITION_SUBSTRINGS if part in key]
    assert not re.search("[,|\x00-\x1f\x7f-\x9f\u2028\u2029]", key)
    assert key == key.strip()
    assert not key.startswith(".")
    assert not key.endswith(".")
    key.encode("utf-8")


@given(any_text)
def test_a_string_is_a_key_only_if_encoding_its_path_gives_it_back(text):
    try:
        path = decode_partition_key(text)
    except MediaError:
        return
    assert encode_partition_key(path) == text


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("talks/2024/opening.mp4", "talks/2024/opening.mp4"),
        ("Küste, Abend.mp4", "Küste%2C Abend.mp4"),
        ("100%.mp4", "100%25.mp4"),
        ("wait... what.mp4", "wait..%2E what.mp4"),
        ("🎬 Ünïcode 映画.mp4", "🎬 Ünïcode 映画.mp4"),
        ("two\nlines.mp4", "two%0Alines.mp4"),
        (" front and end ", "%20front and end%20"),
        ("[a] (b) {c} 'd' & e;f=g+h.mp4", "[a] (b) {c} 'd' & e;f=g+h.mp4"),
        ("", ""),
    ],
)
def test_keys_stay_readable(path, key):
    assert encode_partition_key(path) == key


@pytest.mark.parametrize("key", ["a,b.mp4", "a%2cb.mp4", "%", "100%.mp4", "%41.mp4", "a%FF.mp4", "a...b", ".hidden"])
def test_a_key_with_a_second_spelling_is_refused(key):
    with pytest.raises(MediaError, match="is not a partition key"):
        decode_partition_key(key)


def test_dagster_stores_the_key_of_any_name_and_gives_it_back():
    names = [
        "a,b|c.mp4",
        "a....b.mp4",
        "".join(map(chr, range(1, 256))) + ".mp4",
        "\udcff\ud800.mp4",
        " .mp4 ",
        "é" * 200,
    ]
    keys = [encode_partition_key(name) for name in names]
    with DagsterInstance.ephemeral() as instance:
        media = DynamicPartitionsDefinition(name="media")
        instance.add_dynamic_partitions("media", keys)
        assert media.get_partition_keys(dynamic_partitions_store=instance) == keys
    assert [decode_partition_key(key) for key in keys] == names


@given(any_text)
@example("\udcff\udce9.mp4")
def test_a_printable_path_can_be_written_in_utf_8(path):
    printable_path(path).encode("utf-8")


def test_a_printable_path_changes_only_what_is_not_text():
    assert printable_path("Küste, 100%.mp4") == "Küste, 100%.mp4"
    assert printable_path("K\udcfcste.mp4") == "K%FCste.mp4"
    assert printable_path("\ud800.mp4") == "%ED%A0%80.mp4"
