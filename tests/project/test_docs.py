"""Every code block of the README and of docs/ runs, page by page, and prints what it says."""

from __future__ import annotations

import gzip
import importlib.util
import inspect
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.data_files import idx_bytes
from support.docs_blocks import ROOT, Runner, begins_with, blocks, check, commands, pages

import boxnn_numba
from boxnn_numba import attacks, certificates
from boxnn_numba.cli.main import COMMANDS
from boxnn_numba.data.sources.catalogue import BUNDLED_SAMPLE, FILES
from boxnn_numba.training.options import OPTIONS

#: Modules whose functions and classes are all in the reference.
DOCUMENTED = (
    "attacks.adapters", "baselines.ablation", "baselines.partition", "distances", "errors",
    "estimator", "theory.impossibility", "theory.localization", "theory.volumes",
)  # fmt: skip
#: What a page would load from elsewhere.
LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(https?:[^\"]+)")
TUTORIAL = ROOT / "docs" / "tutorials" / "mnist.md"


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four IDX files as MNIST has them, of 3,400 + 300 of the bundled images."""
    folder = tmp_path_factory.mktemp("idx")
    with np.load(BUNDLED_SAMPLE) as sample:
        parts = [sample["x"], sample["y"], sample["x_test"], sample["y_test"]]
    for name, part, rows in zip(FILES, parts, (3400, 3400, 300, 300), strict=True):
        array = part[:rows].reshape(rows, 28, 28) if part.ndim > 1 else part[:rows]
        (folder / name).write_bytes(gzip.compress(idx_bytes(array), 1))
    return folder


def run_page(page: Path, idx_folder: Path) -> None:
    """Run the blocks of a page in the current folder."""
    Path("DIR").symlink_to(idx_folder)
    runner = Runner()
    try:
        for block in blocks(page):
            check(block)
            if block.reason is None:
                runner.run(block)
    finally:
        runner.close()
    assert not runner.differences, "\n".join(runner.differences)


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory: pytest.TempPathFactory, idx_folder: Path) -> Path:
    """The folder that the tutorial on MNIST leaves behind."""
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_page(TUTORIAL, idx_folder)
    return folder


def test_the_tutorial_on_mnist(tutorial: Path) -> None:
    assert (tutorial / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    "page", [page for page in pages() if page != TUTORIAL], ids=lambda page: page.stem
)
def test_blocks_of_a_page(
    page: Path,
    idx_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    for name in begins_with(page):
        shutil.copytree(request.getfixturevalue("tutorial") / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    run_page(page, idx_folder)


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    found = [block for page in pages() for block in blocks(page)]
    left_out = [block for block in found if block.reason is not None]
    assert len(left_out) <= len(found) / 5
    assert all(len(str(block.reason).split()) >= 2 for block in left_out)


# --- the reference ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "command_reference", ROOT / "tools" / "command_reference.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_command_and_option(tool: ModuleType) -> None:
    page = tool.PAGE.read_text(encoding="utf-8")
    assert page == tool.reference(), "run python tools/command_reference.py"
    found = dict(tool.commands())
    assert {words.split()[0] for words in found} == set(COMMANDS)
    sections = dict(re.findall(r"^## boxnn (.+)\n((?:(?!## ).*\n)*)", page, re.M))
    assert set(sections) == set(found)
    for words, command in found.items():
        for item in command.params:
            for name in item.opts:
                assert name in sections[words] or name.upper() in sections[words], (words, name)


def test_the_page_on_training_has_the_declared_options() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "option_tables.py"))
    page = tool["PAGE"].read_text(encoding="utf-8")
    assert tool["written"](page) == page, "run python tools/option_tables.py"
    for name in OPTIONS:
        assert f"\n| `{name}` | " in tool["options_table"]()
    with pytest.raises(SystemExit, match="options: begin"):
        tool["written"]("no markers")


def test_the_reference_has_every_public_name() -> None:
    """That each name exists is checked when the site is built."""
    shown = set()
    for page in (ROOT / "docs").rglob("*.md"):
        shown |= set(re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.M))
    assert {f"boxnn_numba.{name}" for name in boxnn_numba.__all__} <= shown
    for module in DOCUMENTED:
        path = f"boxnn_numba.{module}"
        if path in shown:
            continue
        members = vars(importlib.import_module(path))
        promised = members.get("__all__", members)
        public = {
            f"{path}.{name}"
            for name in promised
            if inspect.getmodule(members[name]) is sys.modules[path] and not name.startswith("_")
        }
        aliases = {f"{path}.{name}" for name in boxnn_numba.__all__}
        assert public - aliases <= shown, module
    for package in (attacks, certificates):
        for value in (getattr(package, name) for name in package.__all__):
            if callable(value):
                homes = "boxnn_numba", package.__name__, value.__module__
                names = {f"{home}.{value.__name__}" for home in homes}
                assert (names | {value.__module__}) & shown, value


def test_the_gallery_has_the_picture_of_each_example() -> None:
    """The blocks draw them; `tools/gallery.py` keeps what they drew."""
    tool = runpy.run_path(str(ROOT / "tools" / "gallery.py"))
    text = tool["PAGE"].read_text(encoding="utf-8")
    drawn = re.findall(r"savefig\(\"(.+)\"\)", text)
    assert drawn == re.findall(r"\(images/gallery/(.+)\)", text)
    kept = list(tool["PICTURES"].iterdir())
    assert sorted(drawn) == sorted(picture.name for picture in kept), "run python tools/gallery.py"
    assert sum(picture.stat().st_size for picture in kept) <= tool["LIMIT"]


# --- the site ---------------------------------------------------------------------------------


def test_the_site_builds_without_a_warning_and_without_a_network(tmp_path: Path) -> None:
    """`mkdocs build --strict` checks links and anchors."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip("the site needs the extra `docs`")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(https?:[^\"]+)", text
        )
        assert not loaded, f"{page.name} loads {loaded}"


def test_shell_completion(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from boxnn_numba.cli.main import main

    text = (ROOT / "docs" / "setup.md").read_text(encoding="utf-8")
    for shell in ("bash", "zsh", "fish"):
        assert f"_BOXNN_COMPLETE={shell}_source boxnn" in text
        monkeypatch.setenv("_BOXNN_COMPLETE", f"{shell}_complete")
        monkeypatch.setenv("COMP_WORDS", "boxnn cert")
        monkeypatch.setenv("COMP_CWORD", "cert" if shell == "fish" else "1")
        with pytest.raises(SystemExit):
            main(["ignored"])
        assert "certify" in capsys.readouterr().out


def test_blocks_are_found_and_lines_joined(tmp_path: Path) -> None:
    page = ROOT / "README.md"
    assert any("boxnn demo" in line for block in blocks(page) for line in commands(block.text))
    assert commands("a \\\n  --b  # why\n\n# no\nc 'x#y'\n") == ["a    --b", "c 'x#y'"]
