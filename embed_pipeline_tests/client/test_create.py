from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from embed_pipeline.client import (
    AmbiguousCreateError,
    ApiError,
    ConnectionFailedError,
    EmbedClient,
    RetryLaterError,
    UnreadableResponseError,
    VideoInputRequest,
)
from embed_pipeline_tests.client.conftest import QUICK
from embed_pipeline_tests.client.scripted_server import (
    Handler,
    answering,
    created,
    creating_then,
    resetting,
    resetting_within_body,
    silent_for,
)

LIMITED = {"error": {"code": "RATE_LIMIT_EXCEEDED", "message": "Too many requests."}}
BROKEN = {"error": {"code": "INTERNAL_SERVER_ERROR", "message": "Oops", "details": {"requestId": "req_1"}}}


def create(client: EmbedClient, video: VideoInputRequest, **keywords: object):
    return client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=video, **keywords)


def test_a_created_task_has_the_platforms_id(client, platform, video):
    task = create(client, video())
    assert (task.id, task.status, task.adopted) == (platform.tasks[0]["_id"], "processing", False)
    assert client.stats.created == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
def test_a_refusal_creates_nothing_and_is_not_repeated(client, platform, video, status):
    platform.posts.append(answering(status, {"code": "parameter_invalid", "message": "no"}))
    with pytest.raises(ApiError) as raised:
        create(client, video())
    assert raised.value.status_code == status
    assert len(platform.recorded) == 1
    assert platform.tasks == []


def test_the_caller_is_asked_before_each_attempt_and_can_end_it(client, platform, video):
    asked = []

    def before_attempt() -> None:
        asked.append(len(platform.recorded))
        if len(asked) == 3:
            raise InterruptedError("enough")

    platform.posts += [answering(429, LIMITED, {"Retry-After": "0"})] * 3
    with pytest.raises(InterruptedError, match="enough"):
        create(client, video(), request_options={"before_attempt": before_attempt})
    assert asked == [0, 1, 2]
    assert (len(platform.recorded), platform.tasks) == (2, [])


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}, {"Retry-After-Ms": "20"}])
def test_after_429_the_create_is_sent_again(client, platform, video, headers):
    platform.posts.append(answering(429, LIMITED, headers))
    create(client, video())
    assert len(platform.tasks) == 1
    assert (client.stats.retries, client.stats.rate_limited) == (1, 1)


@pytest.mark.parametrize("value", ["86400", "date"])
def test_a_long_retry_after_says_when_to_come_back(client, platform, video, value):
    from email.utils import format_datetime

    at = platform.now() + timedelta(days=1)
    platform.posts.append(answering(429, LIMITED, {"Retry-After": format_datetime(at) if value == "date" else value}))
    with pytest.raises(RetryLaterError) as raised:
        create(client, video())
    assert abs(raised.value.retry_at - at) < timedelta(seconds=5)
    assert platform.tasks == []


def test_a_call_can_say_how_long_it_waits_for_a_limit(client, platform, video):
    platform.posts.append(answering(429, LIMITED, {"Retry-After": "1"}))
    with pytest.raises(RetryLaterError) as raised:
        create(client, video(), request_options={"max_wait_sec": 0.5})
    assert raised.value.retry_after_sec >= 1.0
    assert "429" in raised.value.reason
    assert "Come back" not in raised.value.reason
    assert (len(platform.recorded), platform.tasks) == (1, [])


def test_a_wait_of_our_own_choosing_is_bounded_by_no_limit(client, platform, video):
    platform.posts.append(answering(500, LIMITED))
    create(client, video(), request_options={"max_wait_sec": 0.0})
    assert len(platform.tasks) == 1


def test_a_long_retry_after_holds_the_other_threads_creates_too(client, platform, video):
    platform.posts.append(answering(429, LIMITED, {"Retry-After": "500"}))
    for _ in range(2):
        with pytest.raises(RetryLaterError):
            create(client, video())
    assert len(platform.recorded) == 1


ANSWERED = {
    "500": answering(500, BROKEN),
    "502 with HTML": answering(502, b"<html>Bad gateway</html>", content_type="text/html"),
    "503 with Retry-After": answering(503, b"", {"Retry-After": "0"}),
}
LOST = {"reset before the answer": resetting, "silence": silent_for(0.6)}
UNKNOWN = ANSWERED | LOST
SHORT = {"timeout_in_seconds": 0.4}


@pytest.mark.parametrize("outcome", UNKNOWN)
def test_a_task_made_by_an_attempt_without_answer_is_adopted(client, platform, video, outcome):
    platform.posts.append(creating_then(UNKNOWN[outcome]))
    task = create(client, video(), request_options=SHORT)
    assert task.adopted
    assert [each["_id"] for each in platform.tasks] == [task.id]
    assert client.stats.adopted == 1


@pytest.mark.parametrize("outcome", ANSWERED)
def test_after_an_answer_the_create_is_sent_again_once_the_list_has_no_task(client, platform, video, outcome):
    platform.posts.append(ANSWERED[outcome])
    task = create(client, video())
    assert not task.adopted
    assert [each["_id"] for each in platform.tasks] == [task.id]
    assert [each.method for each in platform.recorded] == ["POST", "GET", "GET", "POST"]


@pytest.mark.parametrize("outcome", LOST)
def test_without_an_answer_the_create_is_sent_again_only_after_its_deadline(client, platform, video, outcome):
    platform.posts.append(LOST[outcome])
    began = time.monotonic()
    task = create(client, video(), request_options=SHORT)
    assert not task.adopted
    assert [each["_id"] for each in platform.tasks] == [task.id]
    assert time.monotonic() - began >= SHORT["timeout_in_seconds"] + QUICK.doubt_margin_sec
    methods = [each.method for each in platform.recorded]
    assert (methods[0], methods[-1], methods.count("POST")) == ("POST", "POST", 2)
    assert methods.count("GET") >= 2


def test_a_task_that_the_platform_makes_after_the_connection_is_lost_is_adopted(client, platform, video):
    def make_it_later(handler: Handler) -> None:
        body = handler.recorded.json
        platform.before_list = lambda _: looks.append(1) or (len(looks) == 3 and platform.add_task(body))
        handler.reset()

    looks: list[int] = []
    platform.posts.append(make_it_later)
    assert create(client, video(), request_options=SHORT).adopted
    assert len(platform.requests_to("POST")) == 1


@pytest.mark.parametrize("outcome", UNKNOWN)
def test_a_caller_that_resends_for_itself_gets_one_look_and_an_error(client, platform, video, outcome):
    options = {**SHORT, "resend_unknown": False}
    platform.posts.append(creating_then(UNKNOWN[outcome]))
    assert create(client, video(), request_options=options).adopted
    platform.posts.append(UNKNOWN[outcome])
    with pytest.raises(AmbiguousCreateError) as raised:
        create(client, video(), request_options=options)
    assert 0 <= raised.value.in_doubt_sec <= SHORT["timeout_in_seconds"] + QUICK.doubt_margin_sec
    methods = [each.method for each in platform.recorded]
    assert methods == ["POST", "GET"] * 2


def test_how_long_a_lost_create_stays_in_doubt_is_known(client, platform, video):
    platform.posts.append(resetting)
    with pytest.raises(AmbiguousCreateError) as raised:
        create(client, video(), request_options={"timeout_in_seconds": 300, "resend_unknown": False})
    assert 200 < raised.value.in_doubt_sec <= 300 + QUICK.doubt_margin_sec


def test_a_caller_that_resends_for_itself_still_has_refusals_retried(client, platform, video):
    platform.posts += [answering(429, LIMITED, {"Retry-After": "0"})] * 2
    assert not create(client, video(), request_options={"resend_unknown": False}).adopted
    assert len(platform.tasks) == 1


def test_after_an_ambiguous_create_the_next_one_looks_first(client, platform, video):
    source = video()
    platform.posts.append(resetting)
    with pytest.raises(AmbiguousCreateError):
        create(client, source, request_options={**SHORT, "resend_unknown": False})
    late = platform.add_task(platform.recorded[0].json)
    task = create(client, source)
    assert (task.id, task.adopted) == (late["_id"], True)
    assert not create(client, source).adopted


class Interrupted(BaseException):
    """Ends a call from outside, as Ctrl-C does."""


def interrupt(client: EmbedClient, platform, video, *, creates: bool) -> None:
    """Ends a create while it waits for the platform's answer."""
    waiting, over = threading.Event(), threading.Event()

    def hang(handler: Handler) -> None:
        if creates:
            handler.create()
        waiting.set()
        over.wait(10)
        handler.reset()

    platform.posts.append(hang)
    if isinstance(client, EmbedClient):
        # A signal's handler raises where the main thread is; here, that is while it waits for the socket.
        before = signal.signal(signal.SIGALRM, raise_interrupted)
        alarm = threading.Thread(target=lambda: (waiting.wait(10), os.kill(os.getpid(), signal.SIGALRM)))
        alarm.start()
        try:
            with pytest.raises(Interrupted):
                create(client, video)
        finally:
            alarm.join()
            signal.signal(signal.SIGALRM, before)
    else:
        client.cancel_once(
            waiting, lambda tasks: tasks.create(input_type="video", model_name="marengo3.0", video=video)
        )
    over.set()


def raise_interrupted(*_: object) -> None:
    raise Interrupted


def test_the_task_of_a_create_that_was_cancelled_is_adopted_by_the_next(client, platform, video):
    source = video()
    interrupt(client, platform, source, creates=True)
    assert client.stats.created == 0
    task = create(client, source)
    assert (task.id, task.adopted) == (platform.tasks[0]["_id"], True)
    assert not create(client, source).adopted
    assert len(platform.tasks) == 2


def test_another_client_of_the_process_finds_the_task_of_a_cancelled_create(client, platform, video):
    url = "https://bucket.example/film.mp4"
    interrupt(client, platform, video(f"{url}?X-Amz-Signature=1"), creates=True)
    with EmbedClient(api_key="tlk_secret", base_url=platform.base_url, retries=QUICK) as other:
        assert create(other, video(f"{url}?X-Amz-Signature=2")).adopted
        assert not create(other, video(url, embedding_option=["visual"])).adopted
    assert len(platform.tasks) == 2


def test_a_cancelled_create_that_made_no_task_is_sent_once_its_deadline_is_over(platform, video):
    source = video()
    with EmbedClient(api_key="k", base_url=platform.base_url, retries=QUICK, timeout=0.8) as client:
        began = time.monotonic()
        interrupt(client, platform, source, creates=False)
        with pytest.raises(AmbiguousCreateError):
            create(client, source, request_options={"resend_unknown": False})
        assert not create(client, source).adopted
        assert time.monotonic() - began >= 0.8 + QUICK.doubt_margin_sec
    assert len(platform.tasks) == 1


def test_a_cancelled_create_from_base64_is_reported_once(client, platform, video):
    source = video(media_source={"base64_string": "aGVsbG8="})
    interrupt(client, platform, source, creates=False)
    with pytest.raises(AmbiguousCreateError, match="base64"):
        create(client, source)
    assert not create(client, source).adopted


def test_a_reset_within_the_answer_adopts(client, platform, video):
    platform.posts.append(creating_then(resetting_within_body))
    assert create(client, video(), request_options=SHORT).adopted
    assert len(platform.tasks) == 1


@pytest.mark.parametrize("body", [b'{"_id": "00', b"<html></html>", b"", b"[]", b"null"])
def test_a_success_whose_body_cannot_be_read_adopts_and_never_resends(client, platform, video, body):
    platform.posts.append(creating_then(answering(202, body)))
    assert create(client, video()).adopted
    assert len(platform.tasks) == 1
    platform.posts.append(answering(202, body))
    with pytest.raises(AmbiguousCreateError):
        create(client, video())
    assert len(platform.requests_to("POST")) == 2


@pytest.mark.parametrize("odd", [{"metadata": "text"}, {"status": 7}, {"data": {}}])
def test_what_is_odd_beside_the_id_of_a_new_task_does_not_lose_it(client, platform, video, odd):
    def created_oddly(handler: Handler) -> None:
        task = handler.create()
        handler.answer(202, {"_id": task["_id"], "status": "processing", **odd})

    platform.posts.append(created_oddly)
    task = create(client, video())
    assert (task.id, task.adopted) == (platform.tasks[0]["_id"], False)


def test_the_location_header_names_the_task_when_the_body_does_not(client, platform, video):
    def cut_off(handler: Handler) -> None:
        task = handler.create()
        handler.answer(202, b"{", {"Location": f"{platform.base_url}/embed-v2/tasks/{task['_id']}"})

    platform.posts.append(cut_off)
    task = create(client, video())
    assert (task.id, task.adopted) == (platform.tasks[0]["_id"], False)


def test_a_refused_connection_sent_nothing_and_asks_no_list(video):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1.3"
    with (
        EmbedClient(api_key="k", base_url=url, retries=QUICK) as client,
        pytest.raises(ConnectionFailedError) as raised,
    ):
        create(client, video())
    assert not raised.value.sent
    assert client.stats.requests == QUICK.max_attempts


def test_an_older_task_of_the_same_source_is_not_adopted(client, platform, video):
    source = video()
    platform.posts.append(created)
    older = create(client, source)
    platform.tasks[0]["created_at"] = (platform.now() - timedelta(seconds=30)).isoformat()
    with EmbedClient(api_key="k", base_url=platform.base_url, retries=QUICK) as other:
        platform.posts.append(answering(500, BROKEN))
        task = create(other, source)
    assert not task.adopted
    assert task.id != older.id


def test_a_task_that_this_client_already_has_is_not_adopted(client, platform, video):
    source = video()
    first = create(client, source)
    platform.posts.append(answering(500, BROKEN))
    second = create(client, source)
    assert not second.adopted
    assert first.id != second.id


def test_a_task_of_the_same_source_with_other_settings_is_not_adopted(client, platform, video):
    source = "https://media.example/same.mp4"

    def another_pays(handler: Handler) -> None:
        body = handler.recorded.json
        body["video"]["embedding_option"] = ["visual"]
        platform.add_task(body)
        handler.answer(500, BROKEN)

    platform.posts.append(another_pays)
    task = create(client, video(source))
    assert not task.adopted
    assert len(platform.tasks) == 2


@pytest.mark.parametrize("echo", [lambda url: url, lambda url: url.partition("?")[0], lambda url: url + "&x-id=1"])
def test_a_signed_url_is_recognised_however_the_list_echoes_it(client, platform, video, echo):
    platform.echo_url = echo
    platform.posts.append(creating_then(resetting))
    task = create(client, video("https://bucket.example/a%20b.mp4?X-Amz-Signature=abc&X-Amz-Expires=60"))
    assert task.adopted
    assert len(platform.tasks) == 1


def test_two_objects_that_differ_in_a_query_parameter_are_not_confused(client, platform, video):
    def another_pays(handler: Handler) -> None:
        body = handler.recorded.json
        body["video"]["media_source"]["url"] = "https://media.example/get?id=2"
        platform.add_task(body)
        handler.answer(500, BROKEN)

    platform.posts.append(another_pays)
    assert not create(client, video("https://media.example/get?id=1")).adopted


@pytest.mark.parametrize("hours", [-3, 3])
@pytest.mark.parametrize("earlier_request", [True, False])
def test_clocks_that_disagree_by_hours_do_not_hide_the_task(client, platform, video, hours, earlier_request):
    platform.clock_offset = timedelta(hours=hours)
    if earlier_request:
        list(client.v_2.tasks.list())
    platform.posts.append(creating_then(resetting))
    assert create(client, video()).adopted
    assert len(platform.tasks) == 1


def test_a_listed_task_without_source_makes_the_outcome_unknowable(client, platform, video):
    platform.hides_metadata = True
    platform.posts.append(creating_then(resetting))
    with pytest.raises(AmbiguousCreateError, match=r"tasks\.find"):
        create(client, video())
    assert len(platform.tasks) == 1


def test_base64_is_never_sent_twice_after_an_unknown_outcome(client, platform, video):
    platform.posts.append(resetting)
    with pytest.raises(AmbiguousCreateError, match="base64"):
        create(client, video(media_source={"base64_string": "aGVsbG8="}))
    assert len(platform.recorded) == 1


def test_an_uploaded_asset_is_found_by_its_file_name(client, platform, video):
    platform.assets["a1"] = {"_id": "a1", "filename": "unique-name.mp4"}
    platform.posts.append(creating_then(resetting))
    assert create(client, video(media_source={"asset_id": "a1"})).adopted


def test_a_name_whose_other_task_is_already_ours_is_not_ambiguous(client, platform, video):
    platform.assets["a1"] = {"_id": "a1", "filename": "video.mp4"}
    source = video(media_source={"asset_id": "a1"})
    first = create(client, source)
    platform.posts.append(creating_then(resetting))
    second = create(client, source)
    assert second.adopted
    assert {first.id, second.id} == {task["_id"] for task in platform.tasks}


def test_two_new_tasks_with_one_file_name_are_not_guessed_between(client, platform, video):
    platform.assets["a1"] = {"_id": "a1", "filename": "video.mp4"}
    platform.posts.append(creating_then(creating_then(resetting)))
    with pytest.raises(AmbiguousCreateError, match="several"):
        create(client, video(media_source={"asset_id": "a1"}))


def test_if_the_list_fails_as_well_nothing_is_sent_again(client, platform, video):
    platform.posts.append(creating_then(resetting))
    platform.gets.extend([answering(500)] * QUICK.max_attempts)
    with pytest.raises(AmbiguousCreateError):
        create(client, video())
    assert len(platform.tasks) == 1


def test_a_thread_pool_that_meets_every_fault_makes_one_task_per_create(client, platform, video):
    quick = [fault for name, fault in UNKNOWN.items() if name != "silence"]
    faults = [*quick, answering(429, LIMITED, {"Retry-After": "0"})]
    for fault in faults:
        platform.posts.extend([fault, creating_then(fault) if fault is not faults[-1] else fault])
    sources = [video() for _ in range(24)]
    with ThreadPoolExecutor(8) as pool:
        tasks = list(pool.map(lambda source: create(client, source, request_options=SHORT), sources))
    assert len({task.id for task in tasks}) == len(sources)
    urls = [task["video_embedding"]["metadata"]["input_url"] for task in platform.tasks]
    assert sorted(urls) == sorted(source.media_source.url for source in sources)


def test_neither_key_nor_signature_is_in_an_error(client, platform, video):
    url = "https://bucket.example/a.mp4?X-Amz-Signature=topsecret"
    platform.posts.append(answering(400, {"code": "parameter_invalid", "message": f"cannot reach {url} tlk_secret"}))
    with pytest.raises(ApiError) as raised:
        create(client, video(url))
    shown = f"{raised.value} {raised.value!r} {raised.value.body} {raised.value.headers} {video(url)!r}"
    assert "topsecret" not in shown
    assert "tlk_secret" not in shown


def test_an_unreadable_list_is_an_error_that_names_it(client, platform):
    platform.gets.extend([answering(200, b"<html>", content_type="text/html")] * QUICK.max_attempts)
    with pytest.raises(UnreadableResponseError, match="text/html"):
        client.v_2.tasks.list()
