"""Blueprint from the environment: what `embed_pipeline.definitions` and the command line build on.

A few settings that people change between machines and nights have a variable; all the others are set in Python or in a
component's YAML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import dagster as dg
from pydantic import BaseModel, ValidationError

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.orchestration.blueprint import Blueprint
from embed_pipeline.orchestration.resources import (
    EmbedClientResource,
    EmbeddingLedgerResource,
    EmbeddingStoreResource,
    MediaLibraryResource,
)
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy

API_KEY_VARIABLES = ("EMBED_API_KEY", "TWELVE_LABS_API_KEY", "TWELVELABS_API_KEY")
BASE_URL_VARIABLES = ("EMBED_BASE_URL", "TWELVELABS_BASE_URL")
MEDIA_VARIABLE = "EMBED_MEDIA"
OUTPUT_VARIABLE = "EMBED_OUTPUT"
LEDGER_VARIABLE = "EMBED_LEDGER"


@dataclass(frozen=True)
class Variable:
    """An environment variable that sets one field.

    Args:
        name: The variable.
        of: What it belongs to: the embedding settings, the policy or the client.
        field: The field there, whose description says what it means.
    """

    name: str
    of: Literal["settings", "policy", "client"]
    field: str


VARIABLES = (
    Variable("EMBED_MODEL", "settings", "model_name"),
    Variable("EMBED_DIMENSION", "settings", "embedding_dimension"),
    Variable("EMBED_SUBMIT_AUTOMATICALLY", "policy", "submit_automatically"),
    Variable("EMBED_PARTITIONS_PER_RUN", "policy", "partitions_per_run"),
    Variable("EMBED_SENSOR_INTERVAL", "policy", "sensor_interval_sec"),
    Variable("EMBED_SCHEDULE", "policy", "schedule_cron"),
    Variable("EMBED_TIMEZONE", "policy", "schedule_timezone"),
    Variable("EMBED_MAX_ATTEMPTS", "policy", "max_attempts"),
    Variable("EMBED_MAX_MINUTES_PER_RUN", "policy", "max_minutes_per_run"),
    Variable("EMBED_MAX_MINUTES_PER_DAY", "policy", "max_minutes_per_day"),
    Variable("EMBED_PRICE_PER_MINUTE", "policy", "price_per_minute"),
    Variable("EMBED_WHEN_A_FILE_VANISHES", "policy", "when_a_file_vanishes"),
    Variable("EMBED_DOUBT_MARGIN", "policy", "doubt_margin_sec"),
    Variable("EMBED_DELIVERY", "client", "delivery"),
    Variable("EMBED_REQUESTS_PER_MINUTE", "client", "requests_per_minute"),
    Variable("EMBED_REQUESTS_PER_DAY", "client", "requests_per_day"),
    Variable("EMBED_MEDIA_MINUTES_PER_HOUR", "client", "media_minutes_per_hour"),
    Variable("EMBED_MEDIA_MINUTES_PER_DAY", "client", "media_minutes_per_day"),
)


def blueprint_from_environment(environment: Mapping[str, str]) -> Blueprint:
    """Return the blueprint of the one pipeline that the environment describes.

    Without a key the emulator is meant; it costs nothing, so new files are submitted without being asked.

    Raises:
        ConfigurationError: A variable's value makes no sense; the message names the variable.
    """
    client = _read(
        EmbedClientResource,
        "client",
        environment,
        # A variable's name, not its value, is what Dagster shows: any of them may hold a password.
        api_key=first_variable(API_KEY_VARIABLES, environment),
        base_url=first_variable(BASE_URL_VARIABLES, environment),
    )
    media = first_variable((MEDIA_VARIABLE,), environment) or str(Path("media").absolute())
    output = first_variable((OUTPUT_VARIABLE,), environment) or str(Path("embeddings").absolute())
    policy = _read(PipelinePolicy, "policy", environment, submit_automatically=client.is_emulator)
    try:
        return Blueprint(
            client=client,
            library=MediaLibraryResource(location=media),
            store=EmbeddingStoreResource(root=output),
            ledger=EmbeddingLedgerResource(url=first_variable((LEDGER_VARIABLE,), environment)),
            settings=_read(EmbeddingSettings, "settings", environment),
            policy=policy,
        )
    except ConfigurationError as error:
        variables = {one.field: one.name for one in VARIABLES}
        field = error.message.partition(" ")[0]
        raise ConfigurationError(error.message.replace(field, variables.get(field, field), 1)) from None


def first_variable(names: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the first of some variables that is set, as Dagster resolves it when it runs; empty for none."""
    return next((dg.EnvVar(name) for name in names if environment.get(name)), "")


_Model = TypeVar("_Model", bound=BaseModel)


def _read(model: type[_Model], of: str, environment: Mapping[str, str], **others: Any) -> _Model:
    """Build a model from the variables that belong to it."""
    told = {variable.field: variable for variable in VARIABLES if variable.of == of and environment.get(variable.name)}
    values = {field: _number_where_it_is_one(environment[variable.name]) for field, variable in told.items()}
    try:
        return model(**{**others, **values})
    except ValidationError as error:
        raise ConfigurationError(_in_words(error, told, environment)) from None
    except dg.DagsterInvalidConfigError as error:
        raise ConfigurationError(f"The settings of the {of} make no sense: {error}") from None


def _number_where_it_is_one(text: str) -> str | int:
    """Choices among numbers, such as the dimension, are compared as numbers."""
    return int(text) if text.strip().isdecimal() else text.strip()


def _in_words(error: ValidationError, told: Mapping[str, Variable], environment: Mapping[str, str]) -> str:
    sentences = []
    for problem in error.errors():
        words = problem["msg"].removeprefix("Value error, ").replace("Input should be", "it should be", 1)
        variable = told.get(str(problem["loc"][0])) if problem["loc"] else None
        if variable is not None:
            sentences.append(f"{variable.name} is {environment[variable.name]!r}: {words}.")
        else:
            named = ", ".join(f"{one.name}={environment[one.name]}" for one in told.values())
            sentences.append(f"{named or 'The defaults'} cannot be used: {words}.")
    return " ".join(sentences)
