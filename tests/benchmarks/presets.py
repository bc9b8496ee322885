"""What the presets reach, measured through the commands that a user types.

    BOXNN_DATA=... python tests/benchmarks/presets.py --work DIR

``BOXNN_DATA`` holds folders ``mnist`` and ``fashion-mnist`` of the official files, and
``cifar-10-jpeg.zip``, CIFAR-10 recompressed as JPEG (``train/CLASS/*.jpg``, ``test/CLASS/*.jpg``).
Data sets, models and certificates go to ``--work``; one that the same command made is used again,
and a training that was stopped goes on. Figures go to ``--out`` after each case; a case that is
there is not measured again but for ``--again``, which also trains anew.

Counts of test images are kept and no seconds: models are the same bits on any machine, so a busy
one measures as well as a quiet one. Cases of `Case.held_out` are read on the held-out tenth of the
training split; they are those that options are compared by.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba import __version__, load_model
from boxnn_numba.certificates import margin
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.training.selection import validation_split

RESULTS = Path(__file__).resolve().parent / "results" / "presets.json"
#: Data set -> what `boxnn data ingest` is told; {} is the folder of the files.
SOURCES = {
    "mnist": "mnist --from {}/mnist",
    "fashion": "fashion-mnist --from {}/fashion-mnist",
    "cifar": "{}/cifar-10-jpeg.zip",
}
#: The share of the training split that `boxnn train` keeps apart by default.
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Case:
    """One model, and what is read of it.

    Attributes
    ----------
    name, dataset
        Which; the name is also that of its files.
    options
        Of `boxnn train`, preset first.
    of
        Names of the cases whose models are the members of an ensemble, in place of a training.
    attack
        Whether all test images are attacked.
    exact
        How many exact radii are found.
    patches
        Blocks of ``--certificate patch``, with commas.
    held_out
        Whether held-out rows of the training split are read, and not the test split.
    group
        Features that are counted as one here where the model counts them one by one.
    """

    name: str
    dataset: str
    options: str = ""
    of: tuple[str, ...] = ()
    attack: bool = False
    exact: int = 0
    patches: str = ""
    held_out: bool = False
    group: int = 1

    def make(self) -> str:
        """Return the command that makes the model."""
        if self.of:
            members = " ".join(f"{name}.zarr" for name in self.of)
            return f"boxnn ensemble {members} --out {self.name}.zarr"
        return f"boxnn train {self.dataset}.zarr --out {self.name}.zarr {self.options}"

    def certify(self, end: str = "cert", options: str = "") -> str:
        """Return the command that certifies."""
        split = " --split train" if self.held_out else ""
        out = f"{self.name}-{end}.zarr"
        return f"boxnn certify {self.name}.zarr {self.dataset}.zarr --out {out}{split}{options}"


_TARGET = (
    "--preset target --radius 27 --boxes 8000 --epochs 60 --augment 1 --keep 0.15 --recall 0"
    " --validation 0"
)
_FASHION = "--preset graded --beta 80 --augment 0.5 --boxes 5000 --templates 25 --epochs 60"
_FASHION_TARGET = "--preset target --radius 43 --width 64 --boxes 5000 --epochs 45 --recall 0.33"
_CIFAR = "--preset graded --epochs 4 --seed 0"
_FEW = f"{_CIFAR} --boxes 1000 --offsets none"
#: In the order in which they are measured, those that the most pages quote first.
CASES = (
    Case(
        "mnist-graded-0", "mnist", "--preset graded --seed 0",
        attack=True, exact=50, patches="2,3,4,5,6",
    ),
    Case("cifar-graded", "cifar", _CIFAR),
    Case("mnist-accurate", "mnist", "--preset accurate --seed 0", attack=True, patches="2"),
    Case("fashion-graded", "fashion", f"{_FASHION} --seed 0"),
    Case("mnist-target", "mnist", f"{_TARGET} --seed 0", attack=True, patches="5"),
    Case("fashion-target", "fashion", f"{_FASHION_TARGET} --seed 0"),
    Case("cifar-all", "cifar", _FEW, held_out=True),
    Case("cifar-plain-boxes", "cifar", f"{_FEW} --parts 1", held_out=True),
    Case("cifar-single-channels", "cifar", f"{_FEW} --group-size 1", held_out=True, group=3),
    Case("cifar-no-mirror", "cifar", f"{_FEW} --mirror 0", held_out=True),
    Case("mnist-graded-1", "mnist", "--preset graded --seed 1"),
    Case("mnist-graded-2", "mnist", "--preset graded --seed 2"),
    Case("mnist-ensemble", "mnist", of=tuple(f"mnist-graded-{seed}" for seed in range(3))),
)  # fmt: skip


def run(command: str, folder: Path, again: bool) -> None:
    """Run a command of `boxnn`, unless what it makes is there: a file beside it has the command."""
    words = command.split()
    out = folder / words[words.index("--out") + 1]
    made_by = out.with_suffix(".command")
    if again and out.exists():
        shutil.rmtree(out)
    if out.exists():
        if not made_by.exists() or made_by.read_text() != command:
            raise SystemExit(f"{out} was made by another command; remove it, or pass --again")
        return
    made_by.write_text(command)
    sys.stderr.write(f"{command}\n")
    program = Path(sys.executable).with_name("boxnn")
    resume = ["--resume"] if words[1] in ("train", "certify", "attack") else []
    subprocess.run(
        [program, *words[1:], *resume, "--quiet"], cwd=folder, check=True, stdout=sys.stderr
    )


def ingest(dataset: str, folder: Path) -> None:
    """Make a data set of the official files."""
    files = os.environ.get("BOXNN_DATA")
    if files is None:
        raise SystemExit("say where the data sets are: BOXNN_DATA=DIR")
    source = SOURCES[dataset].format(Path(files).resolve())
    run(f"boxnn data ingest {source} --out {dataset}.zarr", folder, again=False)


def measure(case: Case, folder: Path, again: bool) -> dict[str, Any]:
    """Run the commands of a case, and return what is kept of it.

    Returns
    -------
    dict
        ``certified`` counts images that are right and certified at r = 0, 1, ...; ``recall`` is the
        percentage of each class that is right; ``comparisons`` are the penalties that the
        certificate of an image needs, one for each feature of each row of bounds.
    """
    ingest(case.dataset, folder)
    commands = [case.make(), case.certify()]
    if case.attack:
        commands.append(
            f"boxnn attack {case.name}.zarr {case.dataset}.zarr --out {case.name}-attack.zarr"
        )
    if case.exact:
        commands.append(case.certify("exact", f" --exact {case.exact}"))
    if case.patches:
        commands.append(case.certify("patch", f" --certificate patch --patch {case.patches}"))
    for command in commands:
        run(command, folder, again)
    file = open_certificate(folder / f"{case.name}-cert.zarr")
    rows = slice(None)
    if case.held_out:
        label = open_dataset(folder / f"{case.dataset}.zarr").read("train")[1]
        rows = validation_split(label, _HELD_OUT, seed=0)[1]
    outcome = [values[rows] for values in file.outcome()]
    sets = load_model(folder / f"{case.name}.zarr").box_sets
    record = {
        "dataset": case.dataset,
        "commands": commands,
        "comparisons": sum(boxes.lower.size for boxes in sets),
        "rows": "held out" if case.held_out else "test",
        **counted(*outcome, group=case.group),
    }
    if case.attack:
        record["attack"] = attacked(
            outcome[1], open_attack(folder / f"{case.name}-attack.zarr").changed
        )
    if case.exact:
        exact = open_certificate(folder / f"{case.name}-exact.zarr")
        found, upper = exact.radius, exact.upper
        below = file.radius[exact.row]
        record["exact"] = {
            "images": len(exact),
            "open": int((upper > found).sum()),
            "larger_than_certified": int((found > below).sum()),
        }
    if case.patches:
        record["patches"] = open_certificate(folder / f"{case.name}-patch.zarr").patches
    return record


def counted(
    prediction: np.ndarray, radius: np.ndarray, label: np.ndarray, group: int = 1
) -> dict[str, Any]:
    """Return the curve of certificates, in counts, with its median and the recall of each class."""
    radius = radius // group
    certified = np.where(prediction == label, radius, -1)
    counts = np.bincount(certified + 1, minlength=2)[1:]
    return {
        "images": len(label),
        "certified": np.cumsum(counts[::-1])[::-1].tolist(),
        "median": margin.median_certified_radius(prediction, radius, label),
        "recall": [
            round(100 * float((prediction[label == c] == c).mean()), 2) for c in np.unique(label)
        ],
    }


def attacked(radius: np.ndarray, changed: np.ndarray) -> dict[str, int]:
    """Count images by how many pixels an attack needed beside what is certified."""
    found = changed >= 0
    return {
        "images": len(changed),
        "found": int(found.sum()),
        "one_more": int((changed == radius + 1).sum()),
        "inside": int((found & (changed <= radius)).sum()),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder of models and certificates"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON of figures")
    parser.add_argument("--only", metavar="NAME", help="cases whose names begin so")
    parser.add_argument("--again", action="store_true", help="measure what is there as well")
    given = parser.parse_args(words)
    chosen = [case for case in CASES if case.name.startswith(given.only or "")]
    if not chosen:
        parser.error(f"--only {given.only}: cases are {', '.join(case.name for case in CASES)}")
    given.work.mkdir(parents=True, exist_ok=True)
    found = json.loads(given.out.read_text())["cases"] if given.out.exists() else {}
    for case in chosen:
        if case.name in found and not given.again:
            continue
        found[case.name] = measure(case, given.work, given.again)
        kept = {each.name: found[each.name] for each in CASES if each.name in found}
        partial = given.out.with_suffix(".partial")
        partial.write_text(json.dumps({"version": __version__, "cases": kept}, indent=1) + "\n")
        partial.replace(given.out)


if __name__ == "__main__":
    main()
