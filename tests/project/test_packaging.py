"""The shape of the project: packages, layers of imports, sizes of folders, public names."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import yaml

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


@functools.cache
def imports(file: Path, at_import_only: bool = False) -> frozenset[str]:
    """Modules that a file imports; with `at_import_only` not those inside functions."""
    found = set()
    waiting: list[ast.AST] = [ast.parse(file.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        inner = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if not (at_import_only and inner):
            waiting += ast.iter_child_nodes(node)
    return frozenset(found)


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


# --- layers ----------------------------------------------------------------------------------

#: Rooms of the package from the lowest layer to the highest. A module imports from its own layer
#: and from lower ones, whether for types only, in a function or at once. ``__init__`` is the root.
LAYERS = (
    "_version errors progress statistics text validation",
    "kernels",
    "backends",
    "adversary boxes classifier columns distances grid lazy rivals",
    "attacks",
    "certificates",
    "model",
    "training",
    "baselines display estimator input_columns pipeline_steps theory",
    "data __init__",
    "pipelines",
    "cli __main__",
)
#: The same within the pipelines. In the upper three layers rooms do not import each other either,
#: but for those that compose runs.
PIPELINES = (
    "cluster compile_ahead figures machine run_folder running",
    "chunks",
    "attack certification ingest training",
    "ensemble evaluate export localize model_selection plan predict report reproduce verify",
)
COMPOSE_RUNS = {"model_selection", "reproduce"}
#: Libraries -> where alone they are imported.
CONFINED = {
    "zarr": ("boxnn_numba.data",),
    "click": ("boxnn_numba.cli",),
    "rich": ("boxnn_numba.cli", "boxnn_numba.progress"),
    "dask": ("boxnn_numba.lazy", "boxnn_numba.pipelines", "boxnn_numba.cli"),
    "distributed": ("boxnn_numba.lazy", "boxnn_numba.pipelines"),
    "matplotlib": ("boxnn_numba.pipelines", "boxnn_numba.display"),
    "pipelines": (),  # It is boxnn_numba.pipelines.
    "cli": (),
    "data": (),
}


def own_imports(module: str) -> set[str]:
    """Modules of the package that a module imports."""
    return (imports(MODULES[module]) & MODULES.keys()) - {module}


def layer(module: str, layers: tuple[str, ...], depth: int) -> tuple[int, str]:
    """The layer of a module, and its room: the name at a depth."""
    room = [*module.split("."), "__init__"][depth]
    for place, rooms in enumerate(layers):
        if room in rooms.split():
            return place, room
    raise AssertionError(f"{module} has no layer: give {room} one in {Path(__file__).name}")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """The layers, and libraries where they belong."""
    place, _ = layer(module, LAYERS, 1)
    others = own_imports(module)
    wrong = [f"{module} imports {other}" for other in others if layer(other, LAYERS, 1)[0] > place]
    assert not wrong, f"imports of a higher layer, see LAYERS: {'; '.join(wrong)}"
    for library, homes in CONFINED.items():
        if not module.startswith(homes or ("nowhere",)):
            assert not reaches(MODULES[module], library), f"{module} imports {library}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("boxnn_numba.pipelines.")])
def test_pipelines_do_not_import_their_siblings(module: str) -> None:
    place, room = layer(module, PIPELINES, 2)
    for other in own_imports(module):
        if other.startswith("boxnn_numba.pipelines."):
            below, its_room = layer(other, PIPELINES, 2)
            assert below <= place, f"{module} imports {other}, of a higher layer, see PIPELINES"
            free = below < place or room == its_room or place == 0 or room in COMPOSE_RUNS
            assert free, f"{module} imports {other}, its sibling; move what they share below both"


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail("modules import each other in a circle: " + " <- ".join(error.args[1]))


def test_no_folder_is_a_heap() -> None:
    """A folder has at most 20 modules, but for the kernels and the commands."""
    flat = {ROOT / "boxnn_numba" / "kernels", ROOT / "cli", ROOT / "tests" / "benchmarks"}
    for folder in {file.parent for file in python_files()} - flat:
        found = {file.name for file in folder.glob("*.py")} - {"__init__.py"}
        assert len(found) <= 20, f"{folder} has {len(found)} modules; make rooms by topic"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_import_is_light() -> None:
    heavy = "dask torch cupy matplotlib numba zarr sklearn scipy click numpy fsspec upath"
    code = "import sys, boxnn_numba\nprint(sorted(set('{}'.split()) & set(sys.modules)))"
    assert run(code.format(heavy)) == "[]\n"


def test_commands_import_heavy_modules_only_when_they_run() -> None:
    heavy = "dask numba zarr matplotlib sklearn scipy numpy fsspec upath PIL jinja2"
    commands = [module for module in MODULES if module.startswith("boxnn_numba.cli")]
    code = "import sys, importlib\n[importlib.import_module(name) for name in {!r}]\n"
    code += "print(sorted(set({!r}.split()) & set(sys.modules)))"
    assert run(code.format(commands, heavy)) == "[]\n"


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


def test_public_names_of_the_pipelines() -> None:
    """They are functions, whether modules of the same names were imported before or are after."""
    code = (
        "import sys\nimport boxnn_numba.pipelines as p\n"
        "print(sorted({'dask', 'numba', 'zarr', 'matplotlib'} & set(sys.modules)))\n"
        "import boxnn_numba.pipelines.evaluate\n"
        "from boxnn_numba.pipelines import attack, evaluate\n"
        "import boxnn_numba.pipelines.attack.attack, boxnn_numba.pipelines.export\n"
        "assert p.attack is attack and p.evaluate is evaluate\n"
        "for name in p.__all__:\n    value = getattr(p, name)\n"
        "    assert getattr(value, '__name__', name) == name and value.__doc__\n"
        "    assert not hasattr(value, '__path__')\n"
        "    assert name in p.__doc__ and name in dir(p), name"
    )
    assert run(code) == "[]\n"


def test_version_is_that_of_the_project() -> None:
    assert boxnn_numba.__version__ == project()["project"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", boxnn_numba.__version__)


def test_what_is_cited_and_built_is_this_version() -> None:
    """The citation file, and the recipe for conda in the docs, whose names differ in two places."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == boxnn_numba.__version__ and cited["cff-version"] == "1.2.0"
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{cited['version']}] - {cited['date-released']}" in changes
    setup = (ROOT / "docs" / "setup.md").read_text(encoding="utf-8")
    recipe = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", setup, re.S)[0])
    assert recipe["context"]["version"] == boxnn_numba.__version__
    names = {"universal-pathlib": "universal_pathlib", "matplotlib": "matplotlib-base"}
    needed = []
    for text in project()["project"]["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)(?:\[.+\])?(>=.+)", text).groups()  # type: ignore[union-attr]
        needed.append(f"{names.get(name, name)} {bound}")
    assert recipe["requirements"]["run"] == ["python >=3.11", *needed]


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
                # Numba's form of compiled kernels, in a private folder and behind a digest.
                kernels = what == "an unpickler" and file.parts[-2:] == ("kernels", "cache.py")
                assert match is None or kernels, f"{file} has {what}: {match and match.group()}"


def test_published_files_are_packaged() -> None:
    data = project()["tool"]["setuptools"]["package-data"]
    for package, patterns in data.items():
        folder = MODULES[package].parent
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: {pattern} matches nothing"
    assert (ROOT / "boxnn_numba" / "py.typed").is_file()
