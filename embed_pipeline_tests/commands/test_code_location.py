"""The commands over the pipelines of a code location, in the instance of a team that has several."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from embed_pipeline import cli
from embed_pipeline.commands.code_location import CodeLocation
from embed_pipeline.commands.context import ProjectDir, find_context, opened
from embed_pipeline.emulator import Emulator, EmulatorSettings
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.ledger import Ledger
from embed_pipeline.ledger.database import default_url
from embed_pipeline.ledger.tables import task
from embed_pipeline.orchestration.blueprint import blueprints_in
from embed_pipeline.orchestration.definitions import build_definitions
from embed_pipeline.orchestration.resources import EmbeddingStoreResource
from embed_pipeline.pipeline.settings import EmbeddingSettings
from embed_pipeline_tests.world import World

_DEFINITIONS = """\
import os
import dagster as dg
from embed_pipeline import *
from embed_pipeline.pipeline.settings import EmbeddingSettings

def pipeline(name):
    return build_definitions(Blueprint(
        client=EmbedClientResource(base_url=os.environ["TEAM_URL"]),
        library=MediaLibraryResource(location={media!r}, settle_sec=0.0),
        store=EmbeddingStoreResource(root={root!r} + "/embeddings of " + (name or "no name")),
        settings=EmbeddingSettings(scopes=("clip",)),
        name=name,
    ))

defs = dg.Definitions.merge({pipelines}, dg.Definitions(assets=[dg.AssetSpec("another")]))
"""
_SETTINGS = EmbeddingSettings(scopes=("clip",))


class Team:
    """An instance with the pipelines of a code location: ``films``, and one without a name over the same library.

    In each, the tasks of a.wav and b.wav failed for good, and short.wav was refused. The code location sets its own
    scopes, and is told where the platform is by the project's ``.env``; the shell's environment knows neither.
    """

    def __init__(self, root: Path, emulator: Emulator) -> None:
        self.root, self.media = root, root / "media"
        self.home = ProjectDir(root, str(self.media)).dagster_home()
        (root / ".env").write_text(f"TEAM_URL={emulator.base_url}\n")
        self.both, self.films = self._code("both", "films", None), self._code("films_alone", "films")
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            for name in ("films", None):
                store = EmbeddingStoreResource(root=self.output(name))
                world = World(root, instance, emulator, name=name, settings=_SETTINGS).varied(store=store)
                world.add("short.wav", seconds=1.0)
                world.add("a.wav", "b.wav")
                world.faults({"kind": "fail", "message": "invalid"})
                world.discover()
                world.collect()
                world.faults()
                assert set(world.states().values()) == {"failed"}

    def _code(self, module: str, *names: str | None) -> Path:
        pipelines = ", ".join(f"pipeline({name!r})" for name in names)
        file = self.root / f"{module}.py"
        file.write_text(_DEFINITIONS.format(media=str(self.media), root=str(self.root), pipelines=pipelines))
        return file

    def scopes(self, name: str | None, key: str) -> list[tuple[str, ...]]:
        """The scopes of every task of a file, latest first."""
        query = sa.select(task.c.settings).where(task.c.key == key).order_by(task.c.id.desc())
        with Ledger(default_url(self.output(name))) as ledger, ledger.database.read() as (connection, _):
            found = connection.execute(query).scalars()
            return [EmbeddingSettings.model_validate_json(settings).scopes for settings in found]

    def output(self, name: str | None) -> str:
        return str(self.root / f"embeddings of {name or 'no name'}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Team, Emulator]]:
    root = tmp_path_factory.mktemp("team")
    (root / "media").mkdir()
    with Emulator(EmulatorSettings(engine="instant", media_root=root / "media", workers=1)) as emulator:
        yield Team(root, emulator), emulator


@pytest.fixture
def team(built: tuple[Team, Emulator], monkeypatch: pytest.MonkeyPatch) -> Team:
    team, emulator = built
    for name in ("EMBED_MEDIA", "EMBED_OUTPUT", "EMBED_API_KEY", "TWELVE_LABS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(team.home))
    monkeypatch.setenv("EMBED_BASE_URL", emulator.base_url)
    # What a command loads from .env stays in its process, which here is the test's.
    monkeypatch.setenv("TEAM_URL", "")
    monkeypatch.chdir(team.root)
    return team


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, list(arguments), env={"COLUMNS": "200"})


def error(*arguments: str) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, EmbedPipelineError), result.output
    return result.exception.message


def test_a_named_pipeline_is_told_planned_and_retried_as_its_code_location_describes_it(team: Team) -> None:
    films = ("-f", str(team.both), "--pipeline", "films")

    assert json.loads(run("status", "--json", *films).stdout)["counts"]["failed"] == 3
    plan = json.loads(run("plan", "--json", *films).stdout)
    assert (plan["tasks"], plan["counts"]["failed"], plan["counts"]["too short"]) == (0, 2, 1)
    retried = run("retry", "a.wav", "--wait", *films)
    assert retried.exit_code == 0, retried.output
    assert team.scopes("films", "a.wav") == [("clip",), ("clip",)]
    assert team.scopes("films", "b.wav") == [("clip",)]


def test_a_retry_with_other_settings_than_the_failed_task_had_creates_nothing(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The environment describes another pipeline over the same dataset, and so over the same ledger.
    monkeypatch.setenv("EMBED_OUTPUT", team.output(None))
    assert "a.wav was asked for under other settings (scopes: ['clip'], and here ['clip', 'asset'])" in error(
        "retry", "a.wav"
    )
    assert "short.wav was asked for under other settings" in error("retry", "short.wav")
    monkeypatch.setenv("EMBED_BASE_URL", "https://embed.example/v1.3")
    assert "another platform (emulator, and here it is embed.example)" in error("retry", "b.wav")
    assert team.scopes(None, "a.wav") == team.scopes(None, "b.wav") == [("clip",)]

    again = run("retry", "short.wav", "-f", str(team.both), "--pipeline", "")
    assert "too short" in re.sub(r"\s+", " ", again.output), "its own code location may try"


def test_which_of_several_pipelines_is_meant_has_to_be_said(team: Team) -> None:
    assert "films, one without a name ('')" in error("plan", "-f", str(team.both))
    assert "no pipeline 'film' in" in error("plan", "-f", str(team.both), "--pipeline", "film")
    unnamed = find_context(None, None, {"DAGSTER_HOME": str(team.home)}, CodeLocation(file=team.both, pipeline=""))
    with opened(unnamed) as (blueprint, _):
        assert blueprint.name is None


def test_what_the_environment_describes_is_never_told_in_place_of_a_named_pipeline(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = ProjectDir(tmp_path, str(tmp_path)).dagster_home()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("films_media", ["a.wav"])
        instance.report_runless_asset_event(
            dg.AssetObservation(dg.AssetKey(["films", "media_files"]), partition="a.wav")
        )

    for command in (["status"], ["plan"], ["retry", "--all"], ["search", "--text", "bells"]):
        (tmp_path / "workspace.yaml").unlink(missing_ok=True)
        message = error(*command)
        (tmp_path / "workspace.yaml").write_text("load_from:\n  - python_module: embed_pipeline.definitions\n")
        assert error(*command) == message, "nor what a folder describes that has nothing to do with it"
        assert "knows the pipelines films" in message
        assert "-m MODULE" in message


@pytest.mark.parametrize("kind", ["pyproject.toml", "workspace.yaml"])
def test_the_code_location_of_the_folder_is_meant_where_none_is_named(
    team: Team, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"films_of_{kind.partition('.')[0]}"
    (tmp_path / f"{module}.py").write_text(team.films.read_text())
    (tmp_path / ".env").write_text((team.root / ".env").read_text())
    described = {
        "pyproject.toml": f'[tool.dagster]\nmodule_name = "{module}"\n',
        "workspace.yaml": f"load_from:\n  - python_file: {module}.py\n",
    }
    (tmp_path / kind).write_text(described[kind])

    with opened(find_context(None, None, {"DAGSTER_HOME": str(team.home)}, CodeLocation())) as (blueprint, _):
        assert (blueprint.name, blueprint.settings) == ("films", _SETTINGS)


def test_a_code_location_that_cannot_be_used_says_why(team: Team) -> None:
    assert "There is no file" in error("plan", "-f", "nowhere.py")
    assert "This folder has no code location" in error("plan", "--pipeline", "films")
    (team.root / "broken.py").write_text("import no_such_module_anywhere")
    assert "no_such_module_anywhere" in error("plan", "-f", "broken.py")
    (team.root / "others.py").write_text("import dagster as dg\ndefs = dg.Definitions()")
    assert "There is no pipeline in" in error("plan", "-f", "others.py")
    assert "Name one of them" in error("plan", "-f", "others.py", "--media", "elsewhere")
    assert "not several of them" in error("plan", "-f", "others.py", "-m", "module")
    with pytest.raises(EmbedPipelineError, match="Set DAGSTER_HOME"):
        find_context(None, None, {"EMBED_MEDIA": "media"}, CodeLocation(module="team"))


def test_merged_and_changed_definitions_keep_their_blueprints(
    tmp_path: Path, built: tuple[Team, Emulator], recwarn: pytest.WarningsRecorder
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        films, talks = (World(tmp_path, instance, built[1], name=name).blueprint for name in ("films", "talks"))
    merged = dg.Definitions.merge(build_definitions(films), build_definitions(talks))
    changed = merged.map_asset_specs(func=lambda spec: spec.merge_attributes(tags={"team": "media"}))

    for definitions in (merged, changed):
        assert blueprints_in(definitions.metadata) == [films, talks]
    assert blueprints_in(changed.get_repository_def().metadata or {}) == [films, talks]
