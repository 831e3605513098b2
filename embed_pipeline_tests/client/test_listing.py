from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from embed_pipeline.client import EmbedClient, InvalidRequestError
from embed_pipeline_tests.client.conftest import QUICK
from embed_pipeline_tests.client.scripted_server import ScriptedServer, answering

NOW = datetime.now(UTC).replace(microsecond=0)


def fill(platform: ScriptedServer, count: int, status: str = "ready") -> list[str]:
    """Adds tasks, one a minute, and gives their ids, newest first."""
    added = [
        platform.add_task(
            {
                "input_type": "video",
                "model_name": "marengo3.0",
                "video": {"media_source": {"url": f"https://a/{number}"}},
            },
            created_at=NOW - timedelta(hours=5) + timedelta(minutes=number),
            status=status,
        )["_id"]
        for number in range(count)
    ]
    return added[::-1]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 25])
def test_every_task_comes_once_and_no_request_is_wasted(client, platform, count):
    ids = fill(platform, count)
    assert [task.id for task in client.v_2.tasks.list()] == ids
    assert len(platform.recorded) == max(1, -(-count // 10))


def test_it_stops_without_page_info_and_when_page_is_ignored(client, platform):
    ids = fill(platform, 25)
    platform.ignores_page = True
    assert [task.id for task in client.v_2.tasks.list(page_limit=5)] == ids[:5]
    assert len(platform.recorded) == 2


def test_tasks_that_arrive_meanwhile_shift_nothing_out_and_nothing_twice(client, platform):
    ids = fill(platform, 30)

    def arrive(page: int) -> None:
        for _ in range(7 if page > 1 else 0):
            platform.add_task({"input_type": "video", "model_name": "m", "video": {"media_source": {"url": "u"}}})

    platform.before_list = arrive
    assert [task.id for task in client.v_2.tasks.list()] == ids


@pytest.mark.parametrize("leaving", [1, 4, 10, 14])
def test_tasks_that_leave_a_filtered_list_pull_none_past_the_reader(client, platform, leaving):
    ids = fill(platform, 45, status="processing")

    def finish(page: int) -> None:
        if page == 3 and not finished:
            for task in platform.tasks[::-1][:leaving]:
                task["status"] = "ready"
                finished.append(task["_id"])

    finished: list[str] = []
    platform.before_list = finish
    seen = [task.id for task in client.v_2.tasks.list(status="processing")]
    assert sorted(seen) == sorted(ids)
    assert len(set(seen)) == len(seen)


def test_a_task_without_id_or_with_unknown_fields_is_still_given(client, platform):
    platform.gets.append(answering(200, {"data": [{"status": "queued", "novelty": 1}]}))
    (task,) = client.v_2.tasks.list()
    assert (task.id, task.status, task.model_extra) == (None, "queued", {"novelty": 1})


def test_pages_can_be_walked_one_by_one(platform):
    ids = fill(platform, 12)
    with EmbedClient(api_key="k", base_url=platform.base_url, retries=QUICK) as client:
        first = client.v_2.tasks.list()
        second = first.next_page()
        assert [task.id for task in first.items + second.items] == ids
        assert (first.has_next, second.has_next, second.next_page()) == (True, False, None)
        assert first.next_page() is second is first.get_next()
        assert first.response.headers["content-type"] == "application/json"
        assert [page is each for page, each in zip(first.iter_pages(), (first, second), strict=True)] == [True, True]
    assert len(platform.recorded) == 2


def test_moments_are_sent_as_the_platform_reads_them(client, platform):
    from datetime import timezone

    moment = datetime(2026, 1, 1, 2, 30, 0, 999, tzinfo=timezone(timedelta(hours=2)))
    list(client.v_2.tasks.list(started_at=moment, ended_at="2026-11-22T00:00:00Z", page=2))
    assert platform.recorded[0].query == {
        "started_at": "2026-01-01T00:30:00Z",
        "ended_at": "2026-11-22T00:00:00Z",
        "page": "2",
    }


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        (date(2026, 1, 2), "2026-01-02T00:00:00Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
    ],
)
def test_a_date_is_its_first_moment(client, platform, moment, sent):
    list(client.v_2.tasks.list(ended_at=moment))
    assert platform.recorded[0].query["ended_at"] == sent


def test_a_local_time_without_a_zone_is_refused(client, platform):
    with pytest.raises(InvalidRequestError, match="time zone"):
        client.v_2.tasks.list(started_at=datetime(2026, 1, 2))  # noqa: DTZ001 - that is the mistake
    assert platform.recorded == []


def test_times_of_a_platform_that_names_no_zone_are_utc(client, platform):
    ids = fill(platform, 12)
    for task in platform.tasks:
        task["created_at"] = task["created_at"].rstrip("Z") + "+00:00"
    shown = [{**task, "created_at": task["created_at"].removesuffix("+00:00")} for task in platform.tasks[::-1]]
    platform.gets.append(answering(200, {"data": shown[:10], "page_info": {"page": 1, "total_page": 2}}))
    assert [task.id for task in client.v_2.tasks.list()] == ids


@pytest.mark.parametrize("arguments", [{"page": 0}, {"page_limit": 0}, {"page_limit": 51}])
def test_page_numbers_that_the_platform_refuses_are_not_sent(client, platform, arguments):
    with pytest.raises(InvalidRequestError):
        client.v_2.tasks.list(**arguments)
    assert platform.recorded == []


def test_tasks_are_found_by_url_without_signature_or_by_file_name(client, platform, video):
    platform.assets["a1"] = {"_id": "a1", "filename": "up-1.mp4"}
    wanted = "https://bucket.example/x.mp4"
    sources = [{"url": f"{wanted}?X-Amz-Signature=1"}, {"url": "https://bucket.example/y.mp4"}, {"asset_id": "a1"}]
    ids = [
        client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=video(media_source=source)).id
        for source in sources
    ]
    assert [task.id for task in client.v_2.tasks.find(f"{wanted}?X-Amz-Signature=2")] == [ids[0]]
    assert [task.id for task in client.v_2.tasks.find("up-1.mp4")] == [ids[2]]
    assert client.v_2.tasks.find(wanted, model_name="marengo3.5") == []
    with pytest.raises(InvalidRequestError):
        client.v_2.tasks.find(video(media_source={"asset_id": "a1"}).media_source)
