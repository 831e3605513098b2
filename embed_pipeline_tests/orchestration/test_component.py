"""The component: the same definitions as Python builds, described YAML, several side by side, scaffolded and found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from embed_pipeline import Blueprint, EmbedPipelineComponent, build_definitions
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.orchestration.resources import EmbedClientResource, EmbeddingStoreResource, MediaLibraryResource
from embed_pipeline.pipeline.settings import EmbeddingSettings, PipelinePolicy, Segmentation

_OF_COMPONENTS = {"dagster/code_references", "dagster/component_origin"}
_EXAMPLE = Path(__file__).parents[2] / "examples" / "two_libraries"


def _attributes(**values: Any) -> EmbedPipelineComponent:
    component = EmbedPipelineComponent.resolve_from_yaml(yaml.safe_dump({"media": "m", "output": "o", **values}))
    assert isinstance(component, EmbedPipelineComponent)
    return component


def _described(defs: dg.Definitions) -> dict[str, Any]:
    """All that definitions amount to, as values that can be compared."""
    repository = defs.get_repository_def()
    graph = defs.resolve_asset_graph()
    assets = {
        key.to_user_string(): {
            "parents": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "code_version": graph.get(key).code_version,
            "group": graph.get(key).group_name,
            "owners": list(graph.get(key).owners),
            "kinds": sorted(graph.get(key).kinds),
            "partitions": getattr(graph.get(key).partitions_def, "name", None),
            "backfill_policy": graph.get(key).backfill_policy,
            "freshness": graph.get(key).freshness_policy,
            # Dagster adds to a component's assets where its YAML is.
            "metadata": {name: value for name, value in graph.get(key).metadata.items() if name not in _OF_COMPONENTS},
            "checks": sorted(str(check) for check in graph.get(key).check_keys),
        }
        for key in graph.get_all_asset_keys()
    }
    return {
        "assets": assets,
        "jobs": sorted(name for name in repository.job_names if not name.startswith("__")),
        "sensors": {sensor.name: sensor.minimum_interval_seconds for sensor in repository.sensor_defs},
        "schedules": {schedule.name: schedule.cron_schedule for schedule in repository.schedule_defs},
        "resources": dict(defs.resources or {}),
    }


def test_the_component_builds_the_definitions_that_python_builds(tmp_path: Path) -> None:
    settings = {
        "model_name": "marengo3.5",
        "embedding_dimension": 256,
        "video_segmentation": {"strategy": "fixed", "seconds": 5},
    }
    attributes = {
        "name": "films",
        "include": ["*.mp4"],
        "settings": settings,
        "policy": {"max_minutes_per_day": 600, "schedule_cron": "0 4 * * *"},
        "platform": {"api_key_variable": "FILMS_KEY", "requests_per_minute": 60},
        "group_name": "archive",
        "owners": ["team:media"],
    }
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            EmbedPipelineComponent,
            defs_yaml_contents={
                "type": "embed_pipeline.EmbedPipelineComponent",
                "attributes": {"media": "library", "output": "s3://bucket/embeddings", **attributes},
            },
        )
        with sandbox.load_component_and_build_defs(path) as (component, from_yaml):
            assert isinstance(component, EmbedPipelineComponent)
            root = sandbox.project_root
            found = _described(from_yaml)

    from_python = build_definitions(
        Blueprint(
            client=EmbedClientResource(api_key=dg.EnvVar("FILMS_KEY"), requests_per_minute=60),
            library=MediaLibraryResource(location=str(root / "library"), include=["*.mp4"]),
            store=EmbeddingStoreResource(root="s3://bucket/embeddings"),
            settings=EmbeddingSettings(
                model_name="marengo3.5",
                embedding_dimension=256,
                video_segmentation=Segmentation(strategy="fixed", seconds=5),
            ),
            policy=PipelinePolicy(max_minutes_per_day=600, schedule_cron="0 4 * * *"),
            name="films",
            group_name="archive",
            owners=("team:media",),
        )
    )
    assert found == _described(from_python)


def test_two_in_one_code_location_share_no_name() -> None:
    films, talks = (_attributes(name=name).blueprint(Path("/p"), {}) for name in ("films", "talks"))

    both = dg.Definitions.merge(build_definitions(films), build_definitions(talks))

    graph = both.resolve_asset_graph()
    assert len(graph.get_all_asset_keys()) == 8
    alone, together = _described(build_definitions(films)), _described(both)
    for kind in ("jobs", "sensors", "schedules", "resources"):
        assert len(together[kind]) == 2 * len(alone[kind]), kind
    dg.Definitions.validate_loadable(both)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"settings": {"embedding_dimension": 300}}, "128, 256 or 512"),
        ({"settings": {"embedding_dimension": 256}}, "256 needs marengo3.5"),
        ({"policy": {"max_atempts": 3}}, "max_atempts"),
        ({"name": "no spaces"}, "name"),
        ({"platform": {"api_key": "secret"}}, "api_key"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        _attributes(**wrong)


def test_every_attribute_is_described_in_the_yamls_schema() -> None:
    schema = EmbedPipelineComponent.model().model_json_schema()

    def undescribed(model: dict[str, Any], name: str) -> list[str]:
        return [f"{name}.{field}" for field, about in model["properties"].items() if not about.get("description")]

    missing = undescribed(schema, "component")
    for name in ("PlatformAttributes", "SettingsAttributes", "PolicyAttributes", "Segmentation"):
        missing += undescribed(schema["$defs"][name], name)
    assert missing == []


@pytest.mark.parametrize(
    ("environment", "variable", "submits"),
    [
        ({}, "", True),
        ({"TWELVE_LABS_API_KEY": "k"}, "TWELVE_LABS_API_KEY", False),
        ({"EMBED_API_KEY": "k", "TWELVE_LABS_API_KEY": "k"}, "EMBED_API_KEY", False),
    ],
)
def test_the_key_comes_from_the_environment_and_never_into_the_definitions(
    environment: dict[str, str], variable: str, submits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    blueprint = _attributes().blueprint(Path("/p"), environment)

    key = blueprint.client.api_key
    assert (key.env_var_name if isinstance(key, dg.EnvVar) else key) == variable
    assert blueprint.policy.submit_automatically is submits, "what costs money is not started by itself"


def test_relative_folders_are_within_the_project() -> None:
    blueprint = _attributes(media="library/raw", output="s3://bucket/x").blueprint(Path("/project"), {})
    assert blueprint.library.location == "/project/library/raw"
    assert blueprint.store.root == "s3://bucket/x"
    absolute = _attributes(media="/elsewhere", output="o").blueprint(Path("/project"), {})
    assert (absolute.library.location, absolute.store.root) == ("/elsewhere", "/project/o")


def test_the_example_project_loads_as_it_stands() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("EMBED_", "TWELVE"))}
    script = (
        "import json\n"
        "from two_libraries.definitions import defs\n"
        "from embed_pipeline.orchestration.blueprint import blueprints_in\n"
        "graph = defs().resolve_asset_graph()\n"
        "print(sorted(blueprint.name for blueprint in blueprints_in(defs().metadata)))\n"
        "print(json.dumps(sorted(key.to_user_string() for key in graph.get_all_asset_keys())))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=_EXAMPLE / "src",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert printed.returncode == 0, printed.stderr
    pipelines, told = printed.stdout.splitlines()[-2:]
    assert pipelines == "['films', 'talks']", "commands find the pipelines in what components have built"
    keys = json.loads(told)
    assert {"films/embeddings_table", "talks/embeddings_table"} <= set(keys)


def test_the_ledger_is_named_by_a_variable_where_its_url_holds_a_password() -> None:
    environment = {"TEAM_LEDGER": "postgresql://user:secret@db/embeddings"}

    blueprint = _attributes(ledger_variable="TEAM_LEDGER").blueprint(Path("/p"), environment)

    assert isinstance(blueprint.ledger.url, dg.EnvVar)
    assert blueprint.ledger.url.env_var_name == "TEAM_LEDGER"
    with pytest.raises(ConfigurationError, match="ledger_variable") as error:
        _attributes(ledger="postgresql://user:secret@db/embeddings").blueprint(Path("/p"), {})
    assert "secret" not in error.value.message


@pytest.mark.slow
def test_dg_finds_and_scaffolds_it(tmp_path: Path) -> None:
    """What the documentation tells to type, in a project that has nothing yet."""
    pytest.importorskip("dagster_dg_cli")
    project = tmp_path / "library_project"
    defs = project / "src" / "library_project" / "defs"
    defs.mkdir(parents=True)
    (project / "pyproject.toml").write_text(
        '[project]\nname = "library_project"\nversion = "0"\n'
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "library_project"\n'
    )
    (defs.parent / "__init__.py").touch()
    (defs / "__init__.py").touch()
    dg_command = str(Path(sys.executable).with_name("dg"))
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "DG_CLI_CONFIG": str(tmp_path / "none.toml")}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [dg_command, *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "embed_pipeline.EmbedPipelineComponent" in run("list", "components", "--json")
    run("scaffold", "defs", "embed_pipeline.EmbedPipelineComponent", "library")

    written = yaml.safe_load((defs / "library" / "defs.yaml").read_text())
    assert written == {
        "type": "embed_pipeline.EmbedPipelineComponent",
        "attributes": {"media": "media", "output": "embeddings"},
    }
