from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embed_pipeline.dataset.paths import file_name, media_of, partition_values, segment_path
from embed_pipeline.errors import DatasetError

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=600)


@given(keys)
@example("../../etc/passwd")
@example("..")
@example("/")
@example("a=b/c.mp4")
@example("_hidden/.dot")
@example("x" * 600)
@example("é" * 300)
@example("e\u0301")
@example("~2F~~-~")
def test_a_key_becomes_one_visible_name_below_the_limit_of_file_systems(key):
    path = segment_path(key, "m-8", "d")
    name = PurePosixPath(path).name
    assert PurePosixPath(path).parts == ("segments", "space=m-8", "settings=d", name)
    assert len(name.encode()) <= 200
    assert name[0] not in "._-"
    assert not set(name) & set('/\\:*?"<>|%=\0')
    assert name.isprintable()
    assert partition_values(path) == ("m-8", "d")


@given(keys)
@example("lectures/2024/intro 1%2C2.mp4")
@example("Übung/音声.mp3")
@example("e\u0301")
def test_a_name_gives_its_key_back_unless_it_was_cut(key):
    name = file_name(key)
    assert media_of(name) in (key, None)
    assert media_of(unicodedata.normalize("NFD", name)) in (key, None)
    if len(key) <= 12:
        assert media_of(name) == key


@given(keys, keys)
def test_different_keys_have_different_names_even_where_case_does_not_count(first, second):
    if first != second:
        assert file_name(first).casefold() != file_name(second).casefold()


def test_keys_that_differ_in_case_only_do_not_collide():
    assert file_name("Intro.MP4").casefold() != file_name("intro.mp4").casefold()


def test_an_ordinary_name_stays_readable():
    assert file_name("lectures/2024/intro.mp4") == "lectures~~2024~~intro.mp4-4d5d2ff6814a5359.parquet"


@pytest.mark.parametrize("name", ["part-0.parquet", "intro.mp4.parquet", "~FF-22f3a3de80de3d5a.parquet", "-.parquet"])
def test_names_of_others_are_not_taken_for_keys(name):
    assert media_of(name) is None


@pytest.mark.parametrize(
    "path",
    [
        "segments/space=a/settings=b/.writing-1.tmp",
        "segments/space=a/x.parquet",
        "media.parquet",
        "segments/a/b/c.parquet",
    ],
)
def test_other_files_are_not_taken_for_segments(path):
    assert partition_values(path) is None


@pytest.mark.parametrize("space", ["", "..", "a/b", "-a", "a" * 101, "a b"])
def test_a_space_that_would_leave_its_folder_is_refused(space):
    with pytest.raises(DatasetError, match="cannot be part of a path"):
        segment_path("a.mp4", space, "d")


@pytest.mark.parametrize("key", ["", "\ud800"])
def test_keys_that_are_no_text_are_refused(key):
    with pytest.raises(DatasetError, match="partition key"):
        file_name(key)
