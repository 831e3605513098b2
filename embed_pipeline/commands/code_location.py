"""The pipelines of a code location, loaded in this process from what Dagster's own command line takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embed_pipeline.errors import ConfigurationError, EmbedPipelineError

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.remote_origin import CodeLocationOrigin

    from embed_pipeline.orchestration.blueprint import Blueprint


@dataclass(frozen=True)
class CodeLocation:
    """Where a pipeline's definitions are, and which one is meant.

    Args:
        module: A Python module; None where it is not named.
        file: A Python file.
        workspace: A workspace file.
        pipeline: The name of the pipeline; empty for the one without a name, None where only one is there.
    """

    module: str | None = None
    file: Path | None = None
    workspace: Path | None = None
    pipeline: str | None = None

    @property
    def is_named(self) -> bool:
        """Whether a person asked for it, so that it must be there."""
        return self != CodeLocation()

    def blueprint(self, instance: dg.DagsterInstance | None) -> Blueprint | None:
        """The blueprint of the pipeline that is meant.

        Args:
            instance: The Dagster instance, which may have variables for its code locations; None where nothing has
                run yet.

        Returns:
            It, or None where nobody named a code location and the folder has none with a pipeline in it.

        Raises:
            ConfigurationError: The code location cannot be loaded, or has no such pipeline, or several.
        """
        origins = self._origins()
        found = [blueprint for origin in origins for blueprint in _blueprints(origin, instance)]
        if not found and not self.is_named:
            return None
        return _chosen(found, self.pipeline, ", ".join(origin.location_name for origin in origins))

    def _origins(self) -> list[CodeLocationOrigin]:
        from dagster._cli.utils import has_pyproject_dagster_block
        from dagster._cli.workspace.cli_target import workspace_opts_to_load_target
        from dagster_shared.cli import WorkspaceOpts

        named = [one for one in (self.module, self.file, self.workspace) if one is not None]
        if len(named) > 1:
            raise ConfigurationError("Name a module, a file or a workspace, not several of them.")
        in_folder = has_pyproject_dagster_block("pyproject.toml") or any(
            Path(name).exists() for name in ("workspace.yaml", "workspace.yml")
        )
        if not named and not in_folder:
            if not self.is_named:
                return []
            raise ConfigurationError(
                "This folder has no code location. Name it as for Dagster: -m MODULE, -f FILE or -w WORKSPACE."
            )
        for path in (self.file, self.workspace):
            if path is not None and not path.is_file():
                raise ConfigurationError(f"There is no file {path}.")
        options = WorkspaceOpts(
            module_name=[self.module] if self.module else None,
            python_file=[str(self.file)] if self.file else None,
            workspace=[str(self.workspace)] if self.workspace else None,
        )
        return list(workspace_opts_to_load_target(options).create_origins())


def _blueprints(origin: CodeLocationOrigin, instance: dg.DagsterInstance | None) -> Iterator[Blueprint]:
    """The blueprints of one code location's definitions."""
    import dagster as dg
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
    from dagster._core.secrets.env_file import get_env_var_dict
    from dagster._grpc.utils import get_loadable_targets
    from dagster.components.definitions import LazyDefinitions

    from embed_pipeline.orchestration.blueprint import blueprints_in

    if isinstance(origin, GrpcServerCodeLocationOrigin):
        # Its blueprints are in another process, perhaps on another machine.
        return
    # What `dagster dev` and the instance put into the environment before they load the same.
    os.environ.update(get_env_var_dict(str(Path.cwd())))
    if instance is not None:
        instance.inject_env_vars(origin.location_name)
    target = origin.loadable_target_origin
    try:
        loaded = get_loadable_targets(
            python_file=target.python_file,
            module_name=target.module_name,
            package_name=target.package_name,
            autoload_defs_module_name=target.autoload_defs_module_name,
            working_directory=target.working_directory,
            attribute=target.attribute,
            resolve_lazy_defs=False,
        )
        definitions = [
            one.target_definition() if isinstance(one.target_definition, LazyDefinitions) else one.target_definition
            for one in loaded
        ]
    except EmbedPipelineError:
        raise
    except Exception as error:
        # Whatever is wrong with somebody's code is theirs to read; a traceback through ours tells them less.
        raise ConfigurationError(
            f"The code location {origin.location_name} could not be loaded: {type(error).__name__}: {error}"
        ) from error
    for one in definitions:
        if isinstance(one, dg.Definitions | dg.RepositoryDefinition):
            yield from blueprints_in(one.metadata or {})


def _chosen(found: list[Blueprint], pipeline: str | None, where: str) -> Blueprint:
    """The one that is meant.

    Raises:
        ConfigurationError: There is none, or there are several.
    """
    if not found:
        raise ConfigurationError(
            f"There is no pipeline in {where}: none of its definitions came from build_definitions or an "
            "EmbedPipelineComponent, or they were not joined with Definitions.merge. (A code server is not asked: name "
            "its module with -m.)"
        )
    named = found if pipeline is None else [one for one in found if (one.name or "") == pipeline]
    if len(named) == 1:
        return named[0]
    told = ", ".join(one.name or "one without a name ('')" for one in found)
    if not named:
        raise ConfigurationError(f"There is no pipeline {pipeline!r} in {where}, which has {told}.")
    raise ConfigurationError(f"There are several pipelines in {where}: {told}. Choose one with --pipeline.")
