"""Holds the walls between the rooms: who may import whom, and what is loaded late."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import embed_pipeline

PACKAGE = Path(embed_pipeline.__file__).parent
TESTS = Path(__file__).parent
# Each room, and the others that it may import. Everybody may import errors and redaction.
ROOMS: dict[str, set[str]] = {
    "client": set(),
    "media": set(),
    "dataset": set(),
    "ledger": set(),
    "emulator": {"client", "media"},
    "pipeline": {"client", "media", "dataset", "ledger"},
    "orchestration": {"client", "media", "dataset", "ledger", "pipeline"},
    "commands": {"client", "media", "dataset", "ledger", "pipeline", "orchestration", "emulator"},
}
WITHOUT_DAGSTER = ("client", "media", "dataset", "ledger", "emulator", "pipeline")
# Policy over plain values: no input or output, no client, no SQL but as an expression.
PURE: dict[str, set[str]] = {
    "embed_pipeline.pipeline.settings": set(),
    "embed_pipeline.pipeline.validate": {"embed_pipeline.pipeline.settings"},
    "embed_pipeline.ledger.values": set(),
    "embed_pipeline.ledger.states": {"embed_pipeline.ledger.tables", "embed_pipeline.ledger.values"},
    "embed_pipeline.media.bounds": {"embed_pipeline.media.files"},
}
NOT_PURE = {"os", "io", "pathlib", "socket", "subprocess", "time", "threading", "httpx", "fsspec", "dagster"}
MODULES_AT_MOST = 12

# Loaded where they are used, so that a code location and a sensor tick start fast.
HEAVY = {"av", "pandas", "polars", "pyarrow", "duckdb", "simdjson", "starlette", "uvicorn", "fsspec", "aiohttp", "moto"}

# The emulator is a program of its own: once it runs, it needs its web framework and its decoder anyway. What it must
# not do is bring them along when somebody else imports the package.
EMULATOR_MAY_LOAD_AT_ONCE = {"starlette", "uvicorn", "av"}

sources = sorted(PACKAGE.rglob("*.py"))
all_files = sources + sorted(TESTS.rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One name that a module imports, and whether it does so when it is itself imported."""

    target: str
    line: int
    at_once: bool
    relative: bool = False


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "embed_pipeline" else ""


def imports_of(source: str) -> Iterator[Import]:
    def visit(node: ast.AST, at_once: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                # `from embed_pipeline import client` imports a room just as `import embed_pipeline.client` does.
                targets = [f"{module}.{a.name}" for a in child.names] if module == "embed_pipeline" else [module]
                yield from (Import(target, child.lineno, at_once, child.level > 0) for target in targets)
            elif isinstance(child, ast.If) and is_type_checking(child.test):
                continue
            else:
                later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, at_once and not later)

    yield from visit(ast.parse(source), True)


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def broken_walls(module: str, source: str) -> list[str]:
    room = room_of(module)
    found = []
    for imported in imports_of(source):
        target_room, package = room_of(imported.target), imported.target.partition(".")[0]
        where = f"{module}:{imported.line} imports {imported.target}"
        if imported.relative:
            found.append(f"{where} relatively")
        if package == "embed_pipeline_tests":
            found.append(f"{where}: the package does not know its tests")
        if room in WITHOUT_DAGSTER and package.startswith("dagster"):
            found.append(f"{where}: {room} knows nothing of Dagster")
        may = {room, "errors", "redaction", "", *ROOMS.get(room, ())}
        if room in ROOMS and package == "embed_pipeline" and target_room not in may:
            found.append(f"{where}: {room} does not know {target_room}")
        if imported.at_once and package in HEAVY and not (room == "emulator" and package in EMULATOR_MAY_LOAD_AT_ONCE):
            found.append(f"{where} when it is imported; import it where it is used")
    return found


def test_there_is_something_to_look_at():
    assert {room_of(name_of(path)) for path in sources} >= set(ROOMS)


@pytest.mark.parametrize("path", sources, ids=name_of)
def test_rooms_import_only_what_they_may(path):
    assert broken_walls(name_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("embed_pipeline.media.library", "import dagster"),
        ("embed_pipeline.media.library", "def f():\n    from dagster._core import x"),
        ("embed_pipeline.client", "import dagster_shared.check"),
        ("embed_pipeline.dataset.store", "from embed_pipeline.media import MediaFile"),
        ("embed_pipeline.dataset.store", "from embed_pipeline import media"),
        ("embed_pipeline.media.library", "import embed_pipeline.orchestration.assets"),
        ("embed_pipeline.client.tasks", "from embed_pipeline.emulator import app"),
        ("embed_pipeline.orchestration.assets", "from embed_pipeline.cli import main"),
        ("embed_pipeline.orchestration.assets", "from embed_pipeline.emulator import Emulator"),
        ("embed_pipeline.pipeline.submit", "import dagster as dg"),
        ("embed_pipeline.pipeline.submit", "from embed_pipeline.orchestration.runs import KeyRange"),
        ("embed_pipeline.ledger.tasks", "from embed_pipeline.client import EmbedClient"),
        ("embed_pipeline.ledger.tasks", "from dagster import DagsterInstance"),
        ("embed_pipeline.cli", "import pyarrow.parquet as pq"),
        ("embed_pipeline.dataset.store", "try:\n    import pandas\nexcept ImportError:\n    pandas = None"),
        ("embed_pipeline.dataset.store", "class A:\n    import pyarrow"),
        ("embed_pipeline.cli", "import uvicorn"),
        ("embed_pipeline.media.library", "from . import keys"),
        ("embed_pipeline.media.library", "from .keys import x"),
        ("embed_pipeline.cli", "from embed_pipeline_tests import conftest"),
    ],
)
def test_a_broken_wall_is_noticed(module, source):
    assert len(broken_walls(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("embed_pipeline.emulator.api.app", "import starlette\nfrom embed_pipeline.client.types import MediaSource"),
        ("embed_pipeline.orchestration.assets", "import dagster\nfrom embed_pipeline.media import MediaFile"),
        ("embed_pipeline.dataset.store", "def f():\n    import pyarrow"),
        ("embed_pipeline.dataset.store", "if TYPE_CHECKING:\n    import pyarrow"),
        ("embed_pipeline.media.library", "from embed_pipeline.errors import MediaError"),
    ],
)
def test_an_open_door_is_left_open(module, source):
    assert broken_walls(module, source) == []


@pytest.mark.parametrize(
    "room", ["embed_pipeline", *(f"embed_pipeline.{room}" for room in ("client", "media", "dataset", "ledger"))]
)
def test_importing_a_room_loads_nothing_heavy(room):
    """What the source says could still be undone by what it imports, so look at what is really there afterwards."""
    program = f"import sys, {room}; print(*(m for m in {sorted(HEAVY | {'dagster'})} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", all_files, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_a_module_is_named_for_its_idea(path):
    assert path.stem not in ("utils", "util", "helpers", "misc", "common"), "name it for what it is about"


@pytest.mark.parametrize("folder", sorted({path.parent for path in sources}), ids=lambda path: path.name)
def test_a_folder_has_few_modules(folder):
    modules = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= MODULES_AT_MOST, f"{folder.name} has {len(modules)} modules: which stages are in it?"


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_stay_pure(module):
    path = PACKAGE.parent / Path(*module.split(".")).with_suffix(".py")
    imported = {one.target for one in imports_of(path.read_text(encoding="utf-8")) if one.at_once}
    own = {target for target in imported if target.startswith("embed_pipeline")}
    assert own <= PURE[module]
    assert not {target.partition(".")[0] for target in imported} & NOT_PURE


def test_no_import_goes_in_a_circle():
    """Imports within functions count as well: what needs them is still a circle to whoever reads it."""
    known = {name_of(path) for path in sources}
    packages = {name_of(path) for path in sources if path.stem == "__init__"}
    arrows = {
        name: {one.target for one in imports_of(path.read_text(encoding="utf-8")) if one.target in known} - {name}
        for path in sources
        # A package's own front imports its modules, and they do not import it.
        if (name := name_of(path)) not in packages
    }
    arrows = {name: targets - packages for name, targets in arrows.items()}
    assert circle_in(arrows) is None


def test_a_circle_is_noticed():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def circle_in(arrows):
    """Return one circle of names that import each other; None for none."""
    done = set()

    def walk(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for target in sorted(arrows.get(name, ())):
            if (found := walk(target, [*path, name])) is not None:
                return found
        done.add(name)
        return None

    for name in sorted(arrows):
        if (found := walk(name, [])) is not None:
            return found
    return None
