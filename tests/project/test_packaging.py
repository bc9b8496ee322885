"""The shape of the project: packages, directions of imports, sizes of files, public names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import boxnn_numba

ROOT = Path(__file__).resolve().parents[2]
#: Folder of the sources -> name of the package it is installed as.
FOLDERS = {
    "boxnn_numba": "boxnn_numba",
    "pipelines": "boxnn_numba.pipelines",
    "cli": "boxnn_numba.cli",
    "data": "boxnn_numba.data",
}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the package with its file."""
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *parts]).removesuffix(".__init__"), file


def imports(file: Path, at_import_only: bool = False) -> set[str]:
    """Modules that a file imports; with `at_import_only` not those inside functions."""
    found = set()
    waiting: list[ast.AST] = [ast.parse(file.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        inner = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if not (at_import_only and inner):
            waiting += ast.iter_child_nodes(node)
    return found


def reaches(file: Path, *names: str) -> set[str]:
    return {
        module
        for module in imports(file)
        if any(module == name or module.startswith(name + ".") for name in names)
    }


MODULES = dict(sources())


def test_packages_lists_every_package_directory() -> None:
    setuptools = project()["tool"]["setuptools"]
    found = {
        ".".join([package, *folder.relative_to(ROOT / top).parts])
        for top, package in FOLDERS.items()
        for folder in [ROOT / top, *(ROOT / top).rglob("*/")]
        if any(folder.glob("*.py"))
    }
    assert found == set(setuptools["packages"])
    assert all((file.parent / "__init__.py").is_file() for file in MODULES.values())
    assert {package: folder for folder, package in FOLDERS.items()} == setuptools["package-dir"]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    file = MODULES[module]
    core = file.relative_to(ROOT).parts[0] == "boxnn_numba"
    if core:
        assert not reaches(file, "dask", "distributed", "click", "rich", "matplotlib")
        assert not reaches(file, "boxnn_numba.pipelines", "boxnn_numba.cli")
        if module != "boxnn_numba.data.model_store":
            assert not reaches(file, "zarr", "boxnn_numba.data")
    if module.startswith("boxnn_numba.kernels"):
        own = reaches(file, "boxnn_numba")
        allowed = ("boxnn_numba.kernels", "boxnn_numba.errors")
        assert not {name for name in own if name != "boxnn_numba" and not name.startswith(allowed)}
    if module.startswith("boxnn_numba.data"):
        assert not reaches(file, "boxnn_numba.pipelines", "boxnn_numba.cli", "click", "dask")
    if module.startswith("boxnn_numba.pipelines"):
        assert not reaches(file, "boxnn_numba.cli", "click")
    for folder in ("pipelines", "cli", "data"):
        assert not reaches(file, folder), "import boxnn_numba.pipelines, never pipelines"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("boxnn_numba.cli")])
def test_commands_import_heavy_modules_only_when_they_run(module: str) -> None:
    heavy = ("numba", "zarr", "dask", "matplotlib", "sklearn", "scipy", "boxnn_numba.pipelines")
    found = imports(MODULES[module], at_import_only=True)
    assert not {name for name in found if name.startswith(heavy)}


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_import_is_light() -> None:
    heavy = "dask torch cupy matplotlib numba zarr sklearn scipy click numpy fsspec upath"
    code = "import sys, boxnn_numba\nprint(sorted(set('{}'.split()) & set(sys.modules)))"
    assert run(code.format(heavy)) == "[]\n"


def test_training_needs_neither_dask_nor_the_command_line() -> None:
    code = (
        "import sys\nfrom boxnn_numba import fit\nimport boxnn_numba.training.run\n"
        "print(sorted({'dask', 'torch', 'cupy', 'matplotlib', 'zarr', 'click'} & set(sys.modules)))"
    )
    assert run(code) == "[]\n"


def test_public_names() -> None:
    promised = {
        "BoxNN", "Boxes", "Grid", "BoxNNClassifier", "box_distance", "class_distance",
        "pairwise_distance", "certified_radius", "certified_accuracy", "median_certified_radius",
        "fit", "load_model", "save_model",
    }  # fmt: skip
    assert promised <= set(boxnn_numba.__all__)
    for name in boxnn_numba.__all__:
        value = getattr(boxnn_numba, name)
        assert value.__name__ == name and value.__doc__
    assert set(boxnn_numba.__all__) <= set(dir(boxnn_numba))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        boxnn_numba.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_version_is_that_of_the_project() -> None:
    assert boxnn_numba.__version__ == project()["project"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", boxnn_numba.__version__)


def test_ruff_is_the_same_everywhere() -> None:
    files = {"pyproject.toml": "ruff==", "constraints.txt": "ruff==",
             ".pre-commit-config.yaml": "rev: v"}  # fmt: skip
    found = {
        re.search(rf"{mark}([\d.]+)", (ROOT / name).read_text()) for name, mark in files.items()
    }
    assert len({match and match[1] for match in found}) == 1


def python_files() -> list[Path]:
    folders = [*FOLDERS, "tests", "tools"]
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def lines(node: ast.AST) -> int:
    """Lines of a function without its docstring."""
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    doc = ast.get_docstring(node) or ""
    return (node.end_lineno or 0) - node.lineno + 1 - len(doc.splitlines())


def test_functions_stay_small() -> None:
    for file in python_files():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = sum(lines(part) for part in node.body if isinstance(part, ast.FunctionDef))
                assert lines(node) - inner <= 60, f"{file}: {node.name}"


def test_what_must_not_be_in_the_sources() -> None:
    banned = {
        "a blanket handler": r"except Exception\b|except:",
        "an unpickler": r"pickle\.loads?\(|allow_pickle=True",
        "a machine path": r"[\"' ]/(work|root|home)/",
        "unfinished work": r"\b(TO" + r"DO|FIX" + r"ME)\b",
    }
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            for what, pattern in banned.items():
                match = re.search(pattern, file.read_text())
                assert match is None, f"{file} has {what}: {match and match.group()}"


def test_published_files_are_packaged() -> None:
    data = project()["tool"]["setuptools"]["package-data"]
    for package, patterns in data.items():
        folder = next(f for f, name in FOLDERS.items() if name == package)
        for pattern in patterns:
            assert list((ROOT / folder).glob(pattern)), f"{package}: {pattern} matches nothing"
    assert (ROOT / "boxnn_numba" / "py.typed").is_file()
