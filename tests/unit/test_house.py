"""The house rules that a program can check: what keeps the design from wearing off."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xcpmem import errors
from xcpmem.config import declared_settings, help_text

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "xcpmem").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

UNIT_FACTORS = {1024**power for power in range(1, 5)} | {4096}
UNIT_SHIFTS = {10, 12, 20, 30, 40}
MAY_PRINT = {"__main__.py", "client.py", "daemon.py", "demo.py", "simulate.py"}
LINES_MOST = 400
# Modules that are longer than they should be, and how long they may be: only ever lower a figure.
LONGER: dict[str, int] = {}

# The options that users may rely on.
FLAGS = {
    *("--config", "--driver", "--scenario", "--listen", "--socket", "--state-dir", "--tls-cert", "--tls-key"),
    *("--root-password-file", "--policy", "--observe", "--host", "--squeezed-socket", "--message-switch"),
    *("--check-config", "--import-squeezed-conf", "--version"),
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path, node: ast.expr | ast.stmt) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def converts(node: ast.AST) -> bool:
    """Tell whether an expression multiplies, divides or shifts by what separates two units of size."""
    match node:
        case (
            ast.BinOp(op=ast.LShift() | ast.RShift(), right=right)
            | ast.AugAssign(op=ast.LShift() | ast.RShift(), value=right)
        ):
            return isinstance(right, ast.Constant) and right.value in UNIT_SHIFTS
        case ast.BinOp(left=left, right=right):
            return any(
                isinstance(side, ast.Constant) and side.value in UNIT_FACTORS for side in (left, right)
            )
        case ast.AugAssign(value=ast.Constant(value=value)):
            return value in UNIT_FACTORS
        case ast.Call(func=ast.Name(id="divmod"), args=[_, ast.Constant(value=value)]):
            return value in UNIT_FACTORS
    return False


@pytest.mark.parametrize(
    "text", ["x * 1024", "1024 * x", "x // 4096", "x <<= 10", "x >> 12", "divmod(x, 1024)"]
)
def test_conversion_is_recognised(text: str) -> None:
    assert any(converts(node) for node in ast.walk(ast.parse(text)))


def test_sizes_change_their_unit_in_one_module() -> None:
    found = [
        place(path, node)
        for path in SOURCES
        if path.name != "units.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.expr | ast.stmt) and converts(node)
    ]
    assert found == []


def test_only_programs_print() -> None:
    found = [
        place(path, call)
        for path in SOURCES
        if path.name not in MAY_PRINT
        for name, call in calls(path)
        if name == "print"
    ]
    assert found == []


def test_modules_stay_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES
    }
    assert {name: length for name, length in lengths.items() if length > LONGER.get(name, LINES_MOST)} == {}
    assert {name for name in LONGER if lengths.get(name, 0) <= LINES_MOST} == set()


def test_packages_cost_nothing_to_import() -> None:
    inits = [path for path in SOURCES if path.name == "__init__.py"]
    assert len(inits) >= 4
    found = [
        place(path, node) for path in inits for node in tree(path).body if isinstance(node, ast.ImportFrom)
    ]
    assert found == []


def test_client_starts_without_the_servers_packages() -> None:
    code = (
        "import sys, xcpmem.__main__, xcpmem.client\n"
        "print(*sorted({'aiohttp', 'lxml', 'pyxs', 'prometheus_client', 'asyncio'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    assert run.stdout.split() == []


def error_tree() -> dict[str, tuple[str, str]]:
    """Read the tree of errors.py's docstring: by class, its parent and what stands beside it."""
    found: dict[str, tuple[str, str]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([│ ]*)((?:├── |└── )?)([A-Z]\w+) *(.*)", line)
        if match:
            depth = (len(match[1]) + len(match[2])) // 4
            above[depth:] = [match[3]]
            found[match[3]] = (above[depth - 1] if depth else "", match[4])
    return found


def classes_below(root: type[errors.XcpmemError]) -> Iterator[type[errors.XcpmemError]]:
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from classes_below(child)


def test_every_error_stands_in_the_tree_below_its_parent_and_beside_its_code() -> None:
    written = error_tree()
    found = {
        child.__name__: (child.__mro__[1].__name__, child.__dict__.get("code", ""))
        for child in classes_below(errors.XcpmemError)
    }
    assert set(written) == {"XcpmemError", *found}
    for name, (parent, code) in found.items():
        assert written[name][0] == parent, name
        assert not code or written[name][1].split()[0] == code, name


def test_errors_are_defined_in_one_module() -> None:
    known = {name for name, thing in vars(errors).items() if isinstance(thing, type)}
    found = [
        place(path, node)
        for path in SOURCES
        if path.name != "errors.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        and any(base.endswith("Error") or base in known for base in map(ast.unparse, node.bases))
    ]
    assert found == []


def test_no_exception_is_swallowed_whole() -> None:
    found = [
        place(path, node.body[0])
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or "Exception" in ast.unparse(node.type))
        and all(isinstance(step, ast.Pass | ast.Continue) for step in node.body)
    ]
    assert found == []


def texts() -> Iterator[Path]:
    kinds = {".py", ".md", ".toml", ".cfg", ".txt", ".sh", ".xml", ".rng", ".service", ".yml", ""}
    for folder in ("xcpmem", "tests", "api-spec", "deploy", ".ci"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix in kinds)
    yield from (
        ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "LICENSE")
    )


def test_nothing_names_the_place_it_was_made_at() -> None:
    here = re.compile(rf"(?<![\w.-]){re.escape(str(ROOT))}(?![\w-])")
    assert len(list(texts())) > 50
    found = [
        str(path.relative_to(ROOT))
        for path in texts()
        if here.search(path.read_text("utf-8", errors="replace"))
    ]
    assert found == []


def test_options_are_the_agreed_ones() -> None:
    assert set(re.findall(r"^  (--[a-z-]+)", help_text(), flags=re.MULTILINE)) == FLAGS | {"--help"}


def test_every_setting_is_used() -> None:
    used = {
        node.attr
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"settings", "self"}
        if path.name in {"assembly.py", "config.py", "daemon.py", "hosts.py", "policybook.py"}
    }
    assert set(declared_settings()) <= used


def test_documents_name_only_options_that_exist() -> None:
    shipped = sorted(path for path in (ROOT / "deploy").rglob("*.*") if path.suffix != ".png")
    documents = [ROOT / "README.md", *shipped]
    used = {
        flag
        for path in documents
        for command in re.findall(r"xcpmemd((?: +[^\s`|]+)*)", path.read_text(encoding="utf-8"))
        for flag in re.findall(r"(?<!\S)--[a-z-]+", command)
    }
    assert used
    assert used <= FLAGS | {"--help"}


def test_tests_neither_sleep_nor_skip_nor_mock() -> None:
    forbidden = re.compile(r"(^|\.)(sleep|skip|skipif|xfail|importorskip)$")
    found = [
        place(path, node)
        for path in TESTS
        if not {"lab", "bench"} & set(path.parts)
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and forbidden.search(node.attr) and node.attr != "sleep")
        or (isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep"})
        or (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "asyncio.sleep"
            and not is_zero(node.args)
        )
        or (isinstance(node, ast.ImportFrom) and node.module in {"unittest", "unittest.mock"})
    ]
    assert found == []


def is_zero(arguments: list[ast.expr]) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], ast.Constant) and arguments[0].value == 0
