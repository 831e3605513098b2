from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_pipeline.client import (
    ApiError,
    CreateSearch,
    CreateTaskRequest,
    InvalidRequestError,
    MediaEmbeddingTask,
    MediaSource,
    SourceRef,
    VideoInputRequest,
)
from embed_pipeline.client.search import _Candidates, same_url
from embed_pipeline.redaction import redact, without_credentials
from embed_pipeline_tests.client.conftest import QUICK
from embed_pipeline_tests.client.scripted_server import ScriptedServer, answering

BASE = "https://bucket.example/a/b.mp4"
paths = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(path=paths, first=st.text("abc123", max_size=6), second=st.text("abc123", max_size=6))
def test_a_signature_never_makes_two_objects_of_one(path, first, second):
    url = f"https://bucket.example/{quote(path)}"
    assert same_url(f"{url}?X-Amz-Signature={first}", f"{url}?X-Amz-Signature={second}&X-Amz-Expires=60")
    assert same_url(url, f"{url}?sig={first}")


@given(first=paths, second=paths)
def test_different_paths_are_different_objects(first, second):
    one, other = (f"https://bucket.example/{quote(path, safe='')}" for path in (first, second))
    assert same_url(one, other) == (first == second)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("HTTPS://Bucket.example:443/a/b.mp4#part", True),
        ("https://bucket.example/a%2Fb.mp4", True),
        ("http://bucket.example/a/b.mp4", False),
        ("https://other.example/a/b.mp4", False),
        ("https://bucket.example:8443/a/b.mp4", False),
        ("https://bucket.example/A/b.mp4", False),
        ("b.mp4", False),
        ("https://bucket.example:port/a/b.mp4", False),
        ("https://[bucket/a/b.mp4", False),
    ],
)
def test_urls_are_compared_by_what_they_name(other, same):
    assert same_url(BASE, other) is same


@given(secret=st.text("abcdef0123456789", min_size=8, max_size=20))
def test_no_query_user_or_key_survives_redaction(secret):
    text = f"cannot read https://user:{secret}@h.example/p?sig={secret}, 's3://b/k?x={secret}' with {secret}"
    assert secret not in redact(text, secret)
    assert secret not in redact(text.rpartition(" with ")[0])
    assert without_credentials(f"https://user:{secret}@h.example/p?sig={secret}#{secret}") == "https://h.example/p"


URL = "https://bucket.example/film.mp4"
SINCE = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)


def asked(**fields: object) -> CreateTaskRequest:
    """A request whose source is beside the point."""
    settings = {"embedding_option": ["visual"], "embedding_scope": ["clip"], **fields}
    media = VideoInputRequest(media_source=MediaSource(url="https://elsewhere.example/"), **settings)
    return CreateTaskRequest(input_type="video", model_name="marengo3.0", video=media)


def search(source: str = URL, at: float = 0, until: float | None = None, **fields: object) -> CreateSearch:
    reference = SourceRef(url=source) if "://" in source else SourceRef(filename=source)
    end = None if until is None else SINCE + timedelta(seconds=until)
    return CreateSearch(asked(**fields), (reference,), SINCE + timedelta(seconds=at), end)


def add(platform: ScriptedServer, source: str = URL, at: float = 1, **fields: object) -> str:
    """Add a task to the list, created some seconds after SINCE by our clock, and return its id."""
    if "://" in source:
        media_source = {"url": source}
    else:
        platform.assets[source] = {"_id": source, "filename": source}
        media_source = {"asset_id": source}
    media = {"media_source": media_source, "embedding_option": ["visual"], "embedding_scope": ["clip"]}
    body = {"input_type": "video", "model_name": "marengo3.0", "video": media}
    moment = SINCE + timedelta(seconds=at) + platform.clock_offset
    return platform.add_task(body, created_at=moment, **fields)["_id"]


def found(client, *searches: CreateSearch, **keywords: object) -> list[str | None]:
    """Ids of what was found; nothing may be undecided."""
    results = client.v_2.tasks.find_created(searches, **keywords)
    assert [result.undecided for result in results] == [None] * len(searches)
    return [result.task.id if result.task is not None else None for result in results]


def test_one_walk_serves_many_searches(client, platform):
    ids = [add(platform, f"https://bucket.example/{number}.mp4", at=number) for number in range(120)]
    searches = [search(f"https://bucket.example/{number}.mp4?X-Amz-Signature=s") for number in (5, 119, 200, 64)]
    assert found(client, *searches) == [ids[5], ids[119], None, ids[64]]
    assert [each.query["page"] for each in platform.recorded] == ["1", "2", "3"]


def test_nothing_sought_asks_for_nothing(client, platform):
    assert client.v_2.tasks.find_created([]) == []
    assert platform.recorded == []


def test_a_file_is_found_under_each_of_its_sources(client, platform):
    task = add(platform, "https://bucket.example/former.mp4")
    sources = (SourceRef(url=URL), SourceRef(filename="x.mp4"), SourceRef(url="https://bucket.example/former.mp4"))
    assert found(client, CreateSearch(asked(), sources, SINCE)) == [task]


@pytest.mark.parametrize(
    "fields",
    [
        {"embedding_option": ["audio"]},
        {"embedding_scope": ["asset"]},
        {"source": "https://bucket.example/other.mp4"},
        {"at": 120},
        {"at": -900, "until": -600},
    ],
)
def test_a_task_of_other_settings_source_or_time_is_not_given(client, platform, fields):
    add(platform)
    assert found(client, search(**fields)) == [None]


def test_a_failed_task_is_given_with_its_status(client, platform):
    task = add(platform, status="failed")
    (result,) = client.v_2.tasks.find_created([search()])
    assert (result.task.id, result.task.status) == (task, "failed")


def test_of_several_tasks_of_one_url_the_oldest_is_given(client, platform):
    tasks = [add(platform, at=seconds) for seconds in (30, 20, 40)]
    assert found(client, search()) == [tasks[1]]


def test_tasks_that_belong_to_somebody_are_never_given(client, platform):
    tasks = [add(platform, at=seconds) for seconds in range(60)]
    asked_for: list[str] = []

    def known(ids: list[str]) -> set[str]:
        asked_for.extend(ids)
        return set(ids) - {tasks[3]}

    assert found(client, search(), known=known) == [tasks[3]]
    assert sorted(asked_for) == sorted(tasks)


def test_what_known_says_outweighs_what_this_process_has_answered_with(client, platform):
    request = {"input_type": "video", "model_name": "marengo3.0", "video": asked().video}
    task = client.v_2.tasks.create(**request).id
    again = search("https://elsewhere.example/")
    assert found(client, again) == [None]
    assert found(client, again, known=lambda ids: ()) == [task]


def test_a_task_that_was_found_is_not_given_to_the_next_create(client, platform):
    task = add(platform, "https://elsewhere.example/", at=3600)
    assert found(client, search("https://elsewhere.example/")) == [task]
    platform.posts.append(answering(500))
    created = client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=asked().video)
    assert not created.adopted


def test_a_task_goes_to_the_latest_search_that_began_before_it(client, platform):
    first, second = add(platform, at=10), add(platform, at=110)
    searches = [search(at=0), search(at=100), search(at=200)]
    assert found(client, *searches) == [first, second, None]
    assert found(client, *searches[::-1], known=lambda ids: ()) == [None, second, first]
    platform.tasks.pop(0)
    assert found(client, *searches, known=lambda ids: ()) == [None, second, None]


def test_a_second_task_within_one_search_goes_to_an_earlier_one(client, platform):
    first, second = add(platform, at=110), add(platform, at=120)
    assert found(client, search(at=0), search(at=100)) == [second, first]


def test_two_searches_of_one_source_and_time_share_its_tasks(client, platform):
    tasks = [add(platform, at=seconds) for seconds in (1, 2)]
    assert found(client, search(), search(), search()) == [*tasks, None]


@pytest.mark.parametrize("late", [0.9, -0.9])
def test_whole_seconds_do_not_move_a_task_to_the_search_before(client, platform, late):
    """The list may drop the fraction of a second, so that a task seems older than the request for it."""
    task = add(platform, at=100 - late)
    assert found(client, search(at=0), search(at=100)) == [None, task]


def test_the_end_of_a_search_is_exact(client, platform):
    task = add(platform, at=100)
    platform.sends_date = False
    assert found(client, search(until=99.5)) == [None]
    assert found(client, search(until=100)) == [task]


@pytest.mark.parametrize("hours", [-3, 3])
@pytest.mark.parametrize("earlier_request", [True, False])
def test_times_are_by_our_clock_however_wrong_the_platforms_is(client, platform, hours, earlier_request):
    platform.clock_offset = timedelta(hours=hours)
    first, second = add(platform, at=10), add(platform, at=110)
    if earlier_request:
        list(client.v_2.tasks.list(page_limit=50))
    assert found(client, search(at=0, until=60), search(at=100, until=160)) == [first, second]


def test_a_platform_without_a_clock_is_believed_within_minutes(client, platform):
    platform.sends_date = False
    platform.clock_offset = timedelta(seconds=-200)
    task = add(platform, at=1)
    assert found(client, search()) == [task]


def undecided(client, *searches: CreateSearch) -> list[str | None]:
    results = client.v_2.tasks.find_created(searches)
    assert [result.task for result in results] == [None] * len(searches)
    return [result.undecided for result in results]


def test_several_tasks_of_one_upload_name_are_not_guessed_between(client, platform):
    tasks = [add(platform, "film.mp4", at=seconds) for seconds in (1, 2)]
    (why,) = undecided(client, search("film.mp4"))
    assert all(task in why for task in tasks)
    assert "film.mp4" in why
    assert found(client, search("film.mp4"), known=lambda ids: {tasks[0]}) == [tasks[1]]


def test_a_task_without_a_source_is_undecided_for_all_that_it_may_serve(client, platform):
    platform.hides_metadata = True
    task = add(platform, at=50)
    nowhere = CreateSearch(asked(), (), SINCE)
    other_model = CreateSearch(asked().model_copy(update={"model_name": "marengo3.5"}), (), SINCE)
    reasons = undecided(client, search(), search("film.mp4"), nowhere, search(until=10), search(at=90), other_model)
    assert [why is not None and task in why for why in reasons] == [True, True, True, False, False, False]


def test_a_task_without_a_source_matters_to_base64_alone_where_the_list_names_sources(client, platform):
    nameless = add(platform, at=50)
    platform.tasks[0]["video_embedding"]["metadata"].pop("input_url")
    add(platform, "https://bucket.example/named.mp4")
    results = client.v_2.tasks.find_created([search(), search("film.mp4"), CreateSearch(asked(), (), SINCE)])
    # The list names URLs, but may not name uploads.
    assert [result.undecided is not None for result in results] == [False, True, True]
    platform.tasks[1]["status"] = "ready"
    # It may name sources of finished tasks alone.
    (result,) = client.v_2.tasks.find_created([search()])
    assert nameless in result.undecided


def test_a_list_that_cannot_be_read_decides_nothing(client, platform):
    add(platform)
    platform.gets.extend([answering(500)] * QUICK.max_attempts)
    with pytest.raises(ApiError):
        client.v_2.tasks.find_created([search()])


def test_a_time_without_zone_is_refused():
    with pytest.raises(InvalidRequestError, match="time zone"):
        CreateSearch(asked(), (), datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake


def test_no_repr_of_a_search_shows_a_signature_or_password():
    shown = repr(search("https://user:topsecret@bucket.example/a.mp4?X-Amz-Signature=topsecret"))
    assert "bucket.example/a.mp4" in shown
    assert "topsecret" not in shown


moments = st.integers(0, 6).map(lambda step: step * 10)


@given(
    tasks=st.lists(st.tuples(moments, st.sampled_from(["a", "b"]), st.booleans()), max_size=6),
    searches=st.lists(st.tuples(moments, st.sampled_from(["a", "b"]), st.booleans()), max_size=5),
)
def test_no_task_is_given_twice_and_none_without_need_withheld(tasks, searches):
    def source(name: str, upload: bool) -> str:
        return f"{name}.mp4" if upload else f"https://bucket.example/{name}.mp4"

    listed = [
        MediaEmbeddingTask.model_validate(
            {
                "_id": str(number),
                "model_name": "marengo3.0",
                "status": "processing",
                "created_at": SINCE + timedelta(seconds=at + 5),
                "video_embedding": {
                    "metadata": {"input_filename" if upload else "input_url": source(name, upload)},
                },
            }
        )
        for number, (at, name, upload) in enumerate(tasks)
    ]
    candidates = _Candidates([search(source(name, upload), at=at) for at, name, upload in searches])
    candidates.add(listed)
    results = candidates.decide(0.0)
    given_ids = [result.task.id for result in results if result.task is not None]
    assert len(set(given_ids)) == len(given_ids)
    for (at, name, upload), result in zip(searches, results, strict=True):
        fitting = [number for number, task in enumerate(tasks) if task[1:] == (name, upload) and task[0] >= at]
        if result.task is not None:
            assert int(result.task.id) in fitting
        elif result.undecided is not None:
            assert upload
            assert len(fitting) > 1
        elif not upload:
            assert all(str(number) in given_ids for number in fitting)
