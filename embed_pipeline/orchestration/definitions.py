"""Definitions of one pipeline: built from a blueprint in Python, or by the component from a few lines of YAML."""

# No deferred annotations here: Dagster derives the YAML's schema from the annotations.

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.orchestration.assets import build_assets
from embed_pipeline.orchestration.blueprint import Blueprint, blueprint_metadata
from embed_pipeline.orchestration.checks import build_task_checks
from embed_pipeline.orchestration.environment import API_KEY_VARIABLES, BASE_URL_VARIABLES, first_variable
from embed_pipeline.orchestration.jobs import build_daily_embedding_schedule, build_jobs
from embed_pipeline.orchestration.resources import (
    EmbedClientResource,
    EmbeddingLedgerResource,
    EmbeddingStoreResource,
    MediaLibraryResource,
)
from embed_pipeline.orchestration.sensors import (
    build_embedding_ready_sensor,
    build_embeddings_table_sensor,
    build_media_discovery_sensor,
)
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy
from embed_pipeline.pipeline.sources import Delivery
from embed_pipeline.redaction import without_credentials

_Attributes = TypeVar("_Attributes", bound=BaseModel | None)


def build_definitions(blueprint: Blueprint) -> dg.Definitions:
    """Build everything that Dagster loads for one pipeline: assets, jobs, sensors, the schedule and the resources.

    Executors belong to the jobs; a code location's own executor and loggers stay what they are.
    """
    with warnings.catch_warnings():
        # Backfill policies are marked as beta since 2023, and without them each media file would cost a run.
        warnings.simplefilter("ignore", dg.BetaWarning)
        assets = build_assets(blueprint)
    return dg.Definitions(
        assets=assets,
        asset_checks=[build_task_checks(blueprint)],
        jobs=build_jobs(blueprint),
        schedules=[build_daily_embedding_schedule(blueprint)],
        sensors=[
            build_media_discovery_sensor(blueprint=blueprint),
            build_embedding_ready_sensor(blueprint=blueprint),
            build_embeddings_table_sensor(blueprint=blueprint),
        ],
        resources=blueprint.resources,
        # For whoever loads the code location to work on its pipelines, as the command line does.
        metadata=blueprint_metadata(blueprint),
    )


def _described(resource: type[dg.ConfigurableResource[Any]], field: str) -> str:
    """What a resource says of its field, so that it is written once."""
    return resource.model_fields[field].description or ""


def _resolved(context: dg.ResolutionContext, value: _Attributes) -> _Attributes:
    """The attributes with the templates in their texts filled in.

    The pydantic models themselves are the YAML's schema: what Dagster would derive from them has no descriptions.
    """
    if value is None:
        return value
    told = value.model_dump(exclude_unset=True)
    return type(value).model_validate(context.resolve_value(told))


class PlatformAttributes(BaseModel, dg.Resolvable):
    """How the platform is reached, and what its plan allows."""

    model_config = ConfigDict(extra="forbid")

    api_key_variable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description=(
            "The environment variable that holds the API key. Left out: EMBED_API_KEY, else TWELVE_LABS_API_KEY; and "
            "where neither is set, the emulator is meant. The key itself never stands in YAML."
        ),
    )
    base_url: str | None = Field(
        None,
        description="Where the API is. Left out: EMBED_BASE_URL, else TWELVELABS_BASE_URL, else the platform.",
    )
    concurrency: int = Field(8, ge=1, le=64, description=_described(EmbedClientResource, "concurrency"))
    requests_per_minute: int | None = Field(
        None, gt=0, description=_described(EmbedClientResource, "requests_per_minute")
    )
    requests_per_day: int | None = Field(None, gt=0, description=_described(EmbedClientResource, "requests_per_day"))
    media_minutes_per_hour: float | None = Field(
        None, gt=0, description=_described(EmbedClientResource, "media_minutes_per_hour")
    )
    media_minutes_per_day: float | None = Field(
        None, gt=0, description=_described(EmbedClientResource, "media_minutes_per_day")
    )
    delivery: Delivery = Field("auto", description=_described(EmbedClientResource, "delivery"))

    def resource(self, environment: Mapping[str, str]) -> EmbedClientResource:
        """The client's resource; the key's variable is named in it, not read.

        Args:
            environment: Tells which of the usual variables are set.
        """
        named = dg.EnvVar(self.api_key_variable) if self.api_key_variable else ""
        return EmbedClientResource(
            api_key=named or first_variable(API_KEY_VARIABLES, environment),
            base_url=self.base_url or first_variable(BASE_URL_VARIABLES, environment),
            **self.model_dump(exclude={"api_key_variable", "base_url"}),
        )


class SettingsAttributes(EmbeddingSettings, dg.Resolvable):
    """Embedding settings in YAML."""


class PolicyAttributes(PipelinePolicy, dg.Resolvable):
    """Policy in YAML."""


class EmbedPipelineScaffolder(dg.Scaffolder[BaseModel]):
    """Writes a `defs.yaml` that runs as it is: on a folder of media beside the project, against the emulator."""

    def scaffold(self, request: dg.ScaffoldRequest[BaseModel]) -> None:
        """Write the file.

        Args:
            request: Where and in which format.
        """
        dg.scaffold_component(request, {"media": "media", "output": "embeddings"})


@dg.scaffold_with(EmbedPipelineScaffolder)
class EmbedPipelineComponent(dg.Component, dg.Model, dg.Resolvable):
    """Keeps a library of audio and video embedded, and its segments' vectors in a Parquet dataset.

    It watches the media library, creates one embedding task for each media file on the platform, collects the results
    when they are ready, and keeps one compacted table of them all. Two of them in one code location need names.
    """

    media: str = Field(
        description=(
            "The media library: a folder (relative to the project), an fsspec URL such as s3://bucket/prefix, or a "
            "file that lists URLs."
        )
    )
    output: str = Field(description="The dataset: a folder (relative to the project) or an fsspec URL.")
    ledger: Annotated[
        str | None,
        dg.Resolver.default(
            description=(
                "The ledger's URL, without a password: sqlite:////path/ledger.db. Left out: ledger_variable, else a "
                "SQLite file below a local output."
            )
        ),
    ] = None
    ledger_variable: Annotated[
        str,
        dg.Resolver.default(
            description=(
                "The environment variable that holds the ledger's URL, such as postgresql://user:password@host/db."
            )
        ),
    ] = Field("EMBED_LEDGER", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    name: Annotated[
        str | None,
        dg.Resolver.default(
            description="Keeps several pipelines apart: put before each asset key, job, sensor and resource.",
            examples=["films"],
        ),
    ] = Field(None, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    include: Annotated[
        list[str], dg.Resolver.default(description=_described(MediaLibraryResource, "include"), examples=[["*.mp4"]])
    ] = Field([])
    exclude: Annotated[
        list[str], dg.Resolver.default(description=_described(MediaLibraryResource, "exclude"), examples=[["raw/*"]])
    ] = Field([])
    platform: Annotated[
        PlatformAttributes,
        dg.Resolver(
            _resolved,
            model_field_type=PlatformAttributes,
            description="How the platform is reached, and what its plan allows.",
        ),
    ] = PlatformAttributes()
    settings: Annotated[
        SettingsAttributes,
        dg.Resolver(
            _resolved, model_field_type=SettingsAttributes, description="What the media files are embedded with."
        ),
    ] = SettingsAttributes()
    policy: Annotated[
        PolicyAttributes | None,
        dg.Resolver(
            _resolved,
            model_field_type=PolicyAttributes | None,
            description=(
                "Runs, retries, money and vanished files. Left out, new files are submitted by themselves on the "
                "emulator, which costs nothing, and only on schedule or by hand on the platform."
            ),
        ),
    ] = None
    group_name: Annotated[str, dg.Resolver.default(description="The asset group.")] = "embeddings"
    owners: Annotated[
        list[str],
        dg.Resolver.default(
            description="Who owns the assets: team:name or e-mail addresses.", examples=[["team:media"]]
        ),
    ] = Field([])

    def blueprint(self, project_root: Path, environment: Mapping[str, str]) -> Blueprint:
        """Return the pipeline's blueprint; override it to change what the attributes do not reach.

        Args:
            project_root: What relative folders are relative to.
            environment: Tells which of the usual variables are set.
        """
        client = self.platform.resource(environment)
        return Blueprint(
            client=client,
            library=MediaLibraryResource(
                location=_within(project_root, self.media), include=self.include, exclude=self.exclude
            ),
            store=EmbeddingStoreResource(root=_within(project_root, self.output)),
            ledger=EmbeddingLedgerResource(
                url=_without_password(self.ledger, "ledger", "ledger_variable")
                or first_variable((self.ledger_variable,), environment)
            ),
            settings=EmbeddingSettings.model_validate(self.settings.model_dump(exclude_unset=True)),
            policy=PipelinePolicy.model_validate(
                {"submit_automatically": client.is_emulator}
                if self.policy is None
                else self.policy.model_dump(exclude_unset=True)
            ),
            name=self.name,
            group_name=self.group_name,
            owners=tuple(self.owners),
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the same definitions that `build_definitions` makes of a blueprint.

        Args:
            context: Where the component is.
        """
        return build_definitions(self.blueprint(context.project_root, os.environ))


def _within(project_root: Path, location: str) -> str:
    """A relative folder as one within the project; a URL or an absolute path as it is."""
    return location if "://" in location else str(project_root / location)


def _without_password(url: str | None, field: str, instead: str) -> str:
    """Return a URL that may be shown; Dagster's resource page shows it as it is.

    Raises:
        ConfigurationError: There is a password in it.
    """
    if url and "@" in url.partition("://")[2].partition("/")[0]:
        raise ConfigurationError(
            f"{field} ({without_credentials(url)}) holds a user or a password, which Dagster would show. Put the URL "
            f"into an environment variable, and name that with {instead}."
        )
    return url or ""
