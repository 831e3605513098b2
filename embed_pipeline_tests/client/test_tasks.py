from __future__ import annotations

import pytest

from embed_pipeline.client import (
    ApiError,
    EmbedClient,
    InvalidRequestError,
    NotFoundError,
    PollPolicy,
    Progress,
    TaskFailedError,
    WaitTimeoutError,
    classify_failure,
    progress_bar,
)
from embed_pipeline_tests.client.conftest import QUICK
from embed_pipeline_tests.client.scripted_server import answering, silent_for
from embed_pipeline_tests.client.test_listing import fill

OFTEN = PollPolicy(initial_sec=0.02, max_sec=0.05)


def ready(task_id: str) -> dict:
    return {"_id": task_id, "status": "ready", "data": [{"embedding": [1.0], "embedding_scope": "clip"}]}


def finish(platform, task_ids, status="ready", **fields) -> None:
    for task in platform.tasks:
        if task["_id"] in task_ids:
            task["status"] = status
            platform.bodies[task["_id"]] = {**ready(task["_id"]), "status": status, **fields}


def test_one_task_is_given_with_its_result_once_it_is_ready(client, platform):
    (task_id,) = fill(platform, 1, "processing")
    platform.gets.extend([answering(200, {"_id": task_id, "status": word}) for word in ("processing", "queued")])
    finish(platform, [task_id])
    assert client.v_2.tasks.wait(task_id, poll=OFTEN).segments.embedding.tolist() == [[1.0]]


def test_one_list_serves_many_tasks_and_each_result_is_retrieved_once(client, platform):
    ids = fill(platform, 60, "processing")
    lists = 0

    def go_on(page: int) -> None:
        nonlocal lists
        lists += page == 1
        finish(platform, ids[: 20 * lists])

    platform.before_list = go_on
    seen: list[Progress] = []
    given = [task.id for task in client.v_2.tasks.as_completed(ids, poll=OFTEN, on_progress=seen.append)]
    assert sorted(given) == sorted(ids)
    retrieved = [each.path for each in platform.recorded if not each.path.endswith("/tasks")]
    assert len(retrieved) == len(set(retrieved)) == 60
    assert len(platform.requests_to("GET")) <= 8
    assert (seen[-1].total, seen[-1].ready, seen[-1].failed) == (60, 60, 0)
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)


def test_a_failed_task_is_told_with_the_platforms_words(client, platform):
    ids = fill(platform, 2, "processing")
    finish(platform, ids[:1], "failed", data=None, error={"message": "The embedding request was invalid."})
    finish(platform, ids[1:])
    assert {task.status for task in client.v_2.tasks.as_completed(ids, poll=OFTEN)} == {"ready", "failed"}
    with pytest.raises(TaskFailedError, match="request was invalid") as raised:
        client.v_2.tasks.wait(ids[0], poll=OFTEN)
    assert classify_failure(raised.value.reason) == "permanent"


def test_the_deadline_names_what_is_still_being_processed(client, platform):
    ids = fill(platform, 3, "processing")
    with pytest.raises(WaitTimeoutError, match=ids[0]):
        list(client.v_2.tasks.as_completed(ids, timeout_sec=0.2, poll=OFTEN))


def test_an_outage_longer_than_the_retries_does_not_end_the_wait(client, platform):
    ids = fill(platform, 2, "processing")
    platform.gets.extend([answering(503)] * 9)
    finish(platform, ids)
    assert len(list(client.v_2.tasks.as_completed(ids, poll=OFTEN))) == 2


def test_a_task_that_does_not_exist_ends_the_wait_for_it(client, platform):
    with pytest.raises(NotFoundError, match="nowhere"):
        client.v_2.tasks.wait("nowhere", timeout_sec=3, poll=OFTEN)
    assert len(platform.recorded) == 1


def collected(iterator) -> tuple[list[str], Exception | None]:
    """What an iterator gives, and the error it ends with."""
    given = []
    try:
        for task in iterator:
            given.append(task.id)  # noqa: PERF401 - what came before the error counts
    except ApiError as error:
        return given, error
    return given, None


def test_a_task_that_does_not_exist_does_not_hold_up_the_others(platform):
    ids = fill(platform, 2)
    finish(platform, ids)
    platform.bodies[ids[1]] = {**ready(ids[1]), "data": [{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}]}
    with EmbedClient(api_key="k", base_url=platform.base_url, retries=QUICK) as client:
        given, error = collected(client.v_2.tasks.as_completed(["nowhere", ids[0], "gone"], poll=OFTEN))
        assert given == [ids[0]]
        assert isinstance(error, NotFoundError)
        assert "nowhere" in str(error)
        assert "gone" in str(error)
        given, error = collected(client.v_2.tasks.as_completed(["nowhere", *ids], poll=OFTEN))
        assert given == [ids[0]]
        assert all(lost in str(error) for lost in ("nowhere", ids[1]))


def test_progress_is_reported_each_round_for_one_task_as_for_many(client, platform):
    for count in (1, 2):
        ids = fill(platform, count, "processing")[:count]
        rounds: list[Progress] = []

        def report(progress: Progress, ids=ids, rounds=rounds) -> None:
            rounds.append(progress)
            if len(rounds) == 3:
                finish(platform, ids)

        given = list(client.v_2.tasks.as_completed(ids, poll=OFTEN, on_progress=report))
        assert len(given) == count
        assert [progress.done for progress in rounds[:3]] == [0, 0, 0]
        assert (rounds[-1].done, rounds[-1].total) == (count, count)


def test_a_text_where_a_list_is_meant_is_refused(client, platform):
    with pytest.raises(InvalidRequestError, match="list of ids"):
        list(client.v_2.tasks.as_completed("64f8d2c7e4a1b37f"))
    assert platform.recorded == []


@pytest.mark.parametrize("count", [1, 2])
def test_a_request_in_a_wait_ends_with_the_wait(client, platform, count):
    ids = fill(platform, count, "processing")
    platform.gets.append(silent_for(3))
    with pytest.raises(WaitTimeoutError, match=r"the deadline of 0\.\d+ s is over"):
        list(client.v_2.tasks.as_completed(ids, timeout_sec=0.4, poll=OFTEN))
    assert len(platform.recorded) == 1


def test_the_progress_bar_shows_how_far_it_is():
    import io

    from rich.console import Console

    out = io.StringIO()
    with progress_bar("Embedding", Console(file=out, force_terminal=True, width=100)) as show:
        show(Progress(total=4, ready=2, failed=1, elapsed_sec=1.0))
    assert "3/4" in out.getvalue()
    assert "1 failed" in out.getvalue()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("The embedding service is temporarily unstable. Please try again later.", "transient"),
        ("The embedding task failed. Please try again later.", "transient"),
        ("The embedding task could not complete processing.", "unclear"),
        ("The embedding request was invalid.", "permanent"),
        ("The media exceeds the maximum allowed size for embedding.", "permanent"),
        ("Content exceeds the model's context window.", "permanent"),
        ("The embedding result is no longer available and cannot be retrieved.", "expired"),
        ("failed to fetch or materialize source media", "transient"),
        ("We could not process your media for embedding. Please verify the input file and try again.", "permanent"),
        ("Document (17 pages) exceeds maximum limit of 6 pages", "permanent"),
        ("Duration (35.0 seconds) exceeds maximum limit of 30 seconds (0 minutes)", "permanent"),
        ("Something new", "unclear"),
        ("", "unclear"),
        (None, "unclear"),
    ],
)
def test_the_platforms_words_for_a_failure_are_understood(message, kind):
    assert classify_failure(message) == kind
