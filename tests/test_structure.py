"""The rooms of the project: how many there are, who may look into whom, and that CONTRIBUTING names each one."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from actseq import registry

TOP = Path(__file__).parents[1]
LIBRARY = TOP / "actseq"
MODULES = sorted(path for path in LIBRARY.glob("*.py") if path.name != "__init__.py")
PACKAGES = sorted(path.parent for path in LIBRARY.glob("*/__init__.py"))
DATA = [LIBRARY / "voices"]
COLUMNS = 120
HEAD = re.compile(r"^## (\d{4}-\d\d-\d\d)", flags=re.M)
FIRST_SHORT_DECISION = "2026-11-29"


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported(path: Path) -> Iterator[tuple[str, str, str]]:
    """Every import of a file, also inside functions: the module, the name taken from it, the name it has here."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name, alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "", alias.asname or alias.name) for alias in node.names)


def test_names_of_test_files_do_not_hide_each_other() -> None:
    # All folders of tests are on the path of imports.
    seen: dict[str, Path] = {folder.name: folder for folder in (TOP / "tests").iterdir() if folder.is_dir()}
    for path in sorted((TOP / "tests").rglob("*.py")):
        if path.name not in ("conftest.py", "__init__.py") and seen.get(path.stem) != path.parent:
            assert path.stem not in seen, f"{path} and {seen[path.stem]}"
            seen[path.stem] = path


def test_the_library_has_few_rooms() -> None:
    assert len(MODULES) <= 12
    assert len(PACKAGES) <= 18


def test_no_package_has_a_circle_inside() -> None:
    for package in PACKAGES:
        within = f"actseq.{package.name}"
        names = {f"{within}.{path.stem}" for path in package.glob("*.py")}
        graph: dict[str, set[str]] = {}
        for path in package.glob("*.py"):
            found = {name for module, taken, _ in imported(path) for name in (module, f"{module}.{taken}")}
            graph[path.stem] = {name.rpartition(".")[2] for name in found & names}
        TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def families() -> dict[str, str]:
    """Every concrete member of a family, as module.name, and the package of its family."""
    tables = [table for name, table in vars(registry).items() if name.isupper() and isinstance(table, dict)]
    classes = {member for table in tables for member in table.values() if isinstance(member, type)}
    assert len(classes) > 25
    return {f"{member.__module__}.{member.__name__}": member.__module__.rpartition(".")[0] for member in classes}


def asked_for(node: ast.AST) -> Iterator[ast.expr]:
    """The classes that an `isinstance`, an `issubclass` or a `case` compares with."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
        yield from (part for part in ast.walk(node.args[1]) if isinstance(part, ast.Name | ast.Attribute))
    elif isinstance(node, ast.MatchClass):
        yield node.cls


def test_only_a_family_knows_its_members_by_class() -> None:
    members = families()
    found = set()
    for path in (*LIBRARY.rglob("*.py"), *(TOP / "cli").rglob("*.py")):
        package = ".".join(path.relative_to(TOP).parent.parts)
        here = {local: f"{module}.{name}".rstrip(".") for module, name, local in imported(path)}
        for node in nodes(path):
            for asked in asked_for(node):
                first, dot, rest = ast.unparse(asked).partition(".")
                name = here.get(first, first) + dot + rest
                if name in members and members[name] != package:
                    found.add(f"{path.relative_to(TOP)}: {name}")
    assert not found


MOST_PARAMETERS = 8


def parameters(node: ast.FunctionDef) -> list[str]:
    """The parameters of a function. Keyword-only ones of a constructor are configuration keys and do not count."""
    given = node.args
    by_keyword = [] if node.name == "__init__" else [*given.kwonlyargs, *filter(None, [given.kwarg])]
    every = (*given.posonlyargs, *given.args, *filter(None, [given.vararg]), *by_keyword)
    return [one.arg for one in every if one.arg not in ("self", "cls")]


def test_no_function_has_many_parameters() -> None:
    """The compiled loops aside, which take everything as arrays and numbers."""
    found = set()
    for path in (*LIBRARY.rglob("*.py"), *(TOP / "cli").rglob("*.py")):
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef) and len(parameters(node)) > MOST_PARAMETERS:
                compiled = any("njit" in ast.unparse(decorator) for decorator in node.decorator_list)
                found |= set() if compiled else {f"{path.relative_to(TOP)}: {node.name}"}
    assert not found


def too_long(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.name == "decisions.md":
        text = "".join(part for part in re.split(r"^(?=## )", text, flags=re.M) if recent(part))
    return [
        f"{path.relative_to(TOP)}: {line}"
        for line in text.splitlines()
        if len(line) > COLUMNS and not line.startswith("|") and "://" not in line
    ]


def recent(section: str) -> bool:
    date = HEAD.match(section)
    return date is None or date[1] >= FIRST_SHORT_DECISION


def test_no_line_is_longer_than_the_page() -> None:
    code = [path for room in ("actseq", "cli", "tests", "docs") for path in (TOP / room).rglob("*.py")]
    settings = [*(TOP / "configs").glob("*.yaml"), TOP / "Makefile", TOP / "pyproject.toml"]
    prose = [*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")]
    assert not [line for path in (*code, *settings, *prose) for line in too_long(path)]


def contributing() -> list[str]:
    """The text blocks of CONTRIBUTING: the map of the rooms, and the order of imports."""
    text = (TOP / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"^```text\n(.*?)^```", text, flags=re.M | re.S)


def test_the_map_in_contributing_names_every_room_once() -> None:
    named = re.findall(r"^ *([\w/.]+) ", contributing()[0], flags=re.M)
    ignored = {line.strip("/") for line in (TOP / ".gitignore").read_text(encoding="utf-8").splitlines()}
    folders = {path.name for path in TOP.iterdir() if path.is_dir() and not path.name.startswith(".")} - ignored
    rooms = [path.name for path in MODULES] + [f"{path.name}/" for path in (*PACKAGES, *DATA)]
    rooms += [f"{name}/" for name in folders if not name.endswith(".egg-info")]
    assert sorted(named) == sorted(rooms)


def test_contributing_says_where_every_member_goes() -> None:
    text = (TOP / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tables = [name for name, table in vars(registry).items() if isinstance(table, dict) and name.isupper()]
    of_members = [name for name in tables if all(map(callable, getattr(registry, name).values()))]
    assert len(of_members) > 8
    assert not [name for name in of_members if f"`{name}`" not in text]


def test_contributing_has_the_order_of_imports_that_is_checked() -> None:
    settings = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    [layers] = [entry["layers"] for entry in settings["tool"]["importlinter"]["contracts"] if "layers" in entry]
    checked = [{name.strip().removeprefix("actseq.") for name in layer.split(":")} for layer in layers]
    written = [set(re.findall(r"\w+", layer)) for layer in contributing()[1].split("→")]
    assert written == [{"cli"}, *checked[1:]]
