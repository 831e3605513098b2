"""The client's settings: key, address, timeout, and the pauses that its clients share."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
import pytest

from embed_pipeline import __version__
from embed_pipeline.client import (
    AsyncEmbedClient,
    ClientClosedError,
    EmbedClient,
    RetryLaterError,
    RetryPolicy,
)
from embed_pipeline.errors import ConfigurationError
from embed_pipeline_tests.client.conftest import QUICK
from embed_pipeline_tests.client.scripted_server import answering

KEYS = ("EMBED_API_KEY", "TWELVE_LABS_API_KEY", "TWELVELABS_API_KEY")
BOTH = pytest.mark.parametrize("kind", [EmbedClient, AsyncEmbedClient])


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KEYS, "EMBED_BASE_URL", "TWELVELABS_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@BOTH
def test_a_client_without_key_says_what_to_set(kind):
    with pytest.raises(ConfigurationError, match="EMBED_API_KEY"):
        kind()


@pytest.mark.parametrize("number", range(len(KEYS)))
def test_the_key_is_read_under_each_name_in_the_documented_order(monkeypatch, platform, number):
    for name in KEYS[number:]:
        monkeypatch.setenv(name, f"key of {name}".replace(" ", "-"))
    with EmbedClient(base_url=platform.base_url) as client:
        list(client.v_2.tasks.list())
    assert platform.recorded[0].headers["x-api-key"] == f"key-of-{KEYS[number]}"


@BOTH
@pytest.mark.parametrize(
    "arguments",
    [
        {"api_key": "k", "base_url": ""},
        {"api_key": ""},
        {"api_key": "k", "base_url": "x"},
        {"api_key": "k", "base_url": "http://"},
        {"api_key": "k", "base_url": "https://host:port/v1.3"},
        {"api_key": "k\u00e9y"},
        {"api_key": "k", "max_body_bytes": 0},
        {"api_key": "k", "min_bytes_per_sec": -1},
    ],
    ids=str,
)
def test_what_is_passed_in_and_makes_no_sense_is_refused(monkeypatch, kind, arguments):
    monkeypatch.setenv("EMBED_API_KEY", "k")
    with pytest.raises(ConfigurationError):
        kind(**arguments)


def test_the_address_is_read_in_the_documented_order(monkeypatch, platform):
    monkeypatch.setenv("EMBED_API_KEY", "topsecret")
    with EmbedClient() as client:
        assert client.base_url == "https://api.twelvelabs.io/v1.3"
    monkeypatch.setenv("TWELVELABS_BASE_URL", "http://nowhere.example")
    with EmbedClient() as client:
        assert client.base_url == "http://nowhere.example"
    monkeypatch.setenv("EMBED_BASE_URL", f"{platform.base_url}/")
    with EmbedClient(retries=RetryPolicy.none()) as client:
        list(client.v_2.tasks.list())
        assert "topsecret" not in repr(client)
    assert platform.recorded[0].path == "/v1.3/embed-v2/tasks"


@BOTH
def test_an_address_may_be_a_url_of_httpx_and_its_password_is_never_shown(kind):
    client = kind(api_key="k", base_url=httpx.URL("http://user:topsecret@127.0.0.1:1/v1.3/"))
    assert repr(client) == f"{kind.__name__}(http://127.0.0.1:1/v1.3)"


def test_every_request_names_the_client_and_its_version(client, platform):
    list(client.v_2.tasks.list())
    with httpx.Client() as http, EmbedClient(api_key="k", base_url=platform.base_url, http_client=http) as other:
        list(other.v_2.tasks.list())
        list(other.v_2.tasks.list(request_options={"additional_headers": {"User-Agent": "mine"}}))
    agents = [each.headers["user-agent"] for each in platform.recorded]
    assert agents == [f"embed-pipeline/{__version__}"] * 2 + ["mine"]


def test_a_client_of_httpx_of_the_other_kind_is_refused():
    with pytest.raises(ConfigurationError, match=r"takes an httpx\.Client .*not httpx\.AsyncClient"):
        EmbedClient(api_key="k", http_client=httpx.AsyncClient())
    with pytest.raises(ConfigurationError, match=r"takes an httpx\.AsyncClient .*not httpx\.Client"):
        AsyncEmbedClient(api_key="k", http_client=httpx.Client())


def test_a_client_that_was_closed_says_so(platform):
    client = EmbedClient(api_key="k", base_url=platform.base_url)
    list(client.v_2.tasks.list())
    client.close()
    client.close()
    with pytest.raises(ClientClosedError, match="closed"):
        client.v_2.tasks.list()

    async def use_after_close() -> None:
        async with AsyncEmbedClient(api_key="k", base_url=platform.base_url) as other:
            await other.v_2.tasks.list()
        with pytest.raises(ClientClosedError, match="closed"):
            await other.v_2.tasks.list()

    asyncio.run(use_after_close())
    assert len(platform.recorded) == 2


def test_a_client_of_ones_own_stays_open(platform):
    with httpx.Client() as http:
        with EmbedClient(api_key="k", base_url=platform.base_url, http_client=http) as client:
            list(client.v_2.tasks.list())
        assert not http.is_closed


def create(client: EmbedClient, media: object) -> str:
    return client.v_2.tasks.create(input_type="video", model_name="marengo3.0", video=media).id


def test_a_pause_that_the_platform_asks_for_is_seen_and_can_be_ended(client, platform, video):
    assert client.paused_until is None
    platform.posts.append(answering(429, b"", {"Retry-After": "3600"}))
    with pytest.raises(RetryLaterError):
        create(client, video())
    assert abs(client.paused_until - (platform.now() + timedelta(hours=1))) < timedelta(seconds=10)
    with EmbedClient(api_key="tlk_secret", base_url=platform.base_url, retries=QUICK) as other:
        with pytest.raises(RetryLaterError, match=r"client\.resume\(\) ends it") as raised:
            create(other, video())
        assert abs(raised.value.retry_at - client.paused_until) < timedelta(seconds=10)
        assert len(platform.recorded) == 1
        other.resume()
        assert create(other, video()) == platform.tasks[0]["_id"]
    assert client.paused_until is None
    assert create(client, video()) == platform.tasks[1]["_id"]
