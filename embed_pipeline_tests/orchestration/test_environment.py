"""The environment's variables, each checked by name."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.orchestration.environment import VARIABLES, blueprint_from_environment
from embed_pipeline.orchestration.resources import EmbedClientResource
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy


def test_without_a_key_the_emulator_is_meant_and_costs_nothing() -> None:
    blueprint = blueprint_from_environment({})

    assert blueprint.client.is_emulator
    assert blueprint.policy.submit_automatically
    assert blueprint.settings == EmbeddingSettings()


def test_with_a_key_nothing_is_submitted_unless_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBED_API_KEY", "tlk_secret")

    blueprint = blueprint_from_environment({"EMBED_API_KEY": "tlk_secret"})

    assert not blueprint.policy.submit_automatically
    assert "tlk_secret" not in repr(blueprint)
    told = blueprint_from_environment({"EMBED_API_KEY": "tlk_secret", "EMBED_SUBMIT_AUTOMATICALLY": "true"})
    assert told.policy.submit_automatically


def test_variables_set_what_they_name() -> None:
    blueprint = blueprint_from_environment(
        {
            "EMBED_MODEL": "marengo3.5",
            "EMBED_DIMENSION": "256",
            "EMBED_SUBMIT_AUTOMATICALLY": "no",
            "EMBED_MAX_MINUTES_PER_DAY": "600",
            "EMBED_PRICE_PER_MINUTE": "0.042",
            "EMBED_SCHEDULE": "15 3 * * *",
            "EMBED_TIMEZONE": "Europe/Berlin",
            "EMBED_REQUESTS_PER_MINUTE": "25",
            "EMBED_DELIVERY": "upload",
        }
    )

    assert (blueprint.settings.model_name, blueprint.settings.embedding_dimension) == ("marengo3.5", 256)
    assert not blueprint.policy.submit_automatically
    assert (blueprint.policy.max_minutes_per_day, blueprint.policy.price_per_minute) == (600, 0.042)
    assert (blueprint.policy.schedule_cron, blueprint.policy.schedule_timezone) == ("15 3 * * *", "Europe/Berlin")
    assert (blueprint.client.requests_per_minute, blueprint.client.delivery) == (25, "upload")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("EMBED_MODEL", "marengo9", "it should be 'marengo3.0' or 'marengo3.5'"),
        ("EMBED_DIMENSION", "300", "it should be 128, 256 or 512"),
        ("EMBED_DIMENSION", "256", "needs marengo3.5"),
        ("EMBED_SUBMIT_AUTOMATICALLY", "perhaps", "a valid boolean"),
        ("EMBED_PARTITIONS_PER_RUN", "0", "greater than or equal to 1"),
        ("EMBED_MAX_MINUTES_PER_DAY", "many", "a valid number"),
        ("EMBED_PRICE_PER_MINUTE", "-1", "greater than or equal to 0"),
        ("EMBED_SCHEDULE", "every night", "no cron expression"),
        ("EMBED_TIMEZONE", "Mars/Olympus", "no time zone"),
        ("EMBED_WHEN_A_FILE_VANISHES", "weep", "'keep' or 'retire'"),
        ("EMBED_DELIVERY", "pigeon", "'upload'"),
        ("EMBED_REQUESTS_PER_MINUTE", "-5", "greater than 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_told_in_one_sentence_that_names_the_variable(
    name: str, value: str, words: str
) -> None:
    with pytest.raises(ConfigurationError) as told:
        blueprint_from_environment({name: value})

    assert name in told.value.message
    assert value in told.value.message
    assert words in told.value.message
    assert "\n" not in told.value.message


def test_addresses_that_may_hold_a_password_are_shown_by_the_names_of_their_variables() -> None:
    environment = {
        "EMBED_MEDIA": "s3://user:secret@bucket/media",
        "EMBED_OUTPUT": "s3://user:secret@bucket/embeddings",
        "EMBED_BASE_URL": "https://user:secret@platform.example/v1.3",
        "EMBED_LEDGER": "postgresql://user:secret@db/embeddings",
    }

    blueprint = blueprint_from_environment(environment)

    assert "secret" not in repr(blueprint)
    for field in (blueprint.library.location, blueprint.store.root, blueprint.client.base_url, blueprint.ledger.url):
        assert isinstance(field, dg.EnvVar)


def test_every_variable_sets_a_field_that_is_described() -> None:
    models = {"settings": EmbeddingSettings, "policy": PipelinePolicy, "client": EmbedClientResource}

    for variable in VARIABLES:
        assert models[variable.of].model_fields[variable.field].description, variable.name


def test_every_variable_is_documented() -> None:
    operations = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()

    assert not [variable.name for variable in VARIABLES if f"`{variable.name}`" not in operations]
