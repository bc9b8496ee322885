"""Single figures in sentences: where each stands, and which result it is.

To change a sentence, change its text here too. A new figure needs a line here, or in `GIVEN` where
it states no measurement: a definition, an example, a number of a theorem.
"""

from __future__ import annotations

import re

from kept import ABLATION, ROOT, Kept, best_published, published_row
from pages import Claim, Value

_GRADED = "mnist-graded-0"
_EPYC, _XEON = "epyc-2-cores-quick", "xeon-2-cores-busy"


# --- values ---------------------------------------------------------------------------------


def certified(case: str, radius: int, digits: int = 1) -> Value:
    """Return the certified accuracy of a preset."""
    return lambda kept: f"{kept.curve(case).at(radius):.{digits}f}"


def median(case: str) -> Value:
    """Return the median certified radius of a preset."""
    return lambda kept: str(kept.curve(case).median)


def met(case: str) -> Value:
    """Return the share of images that fall to one pixel more than is certified; none to fewer."""

    def value(kept: Kept) -> str:
        attack = kept.preset(case)["attack"]
        if attack["inside"]:
            raise SystemExit(
                f"presets.json: {attack['inside']} attacks of {case} within certified radii"
            )
        return f"{100 * attack['one_more'] / attack['images']:.1f}"

    return value


def exact(key: str) -> Value:
    """Return what exact radii of `graded` say: ``open`` or ``larger_than_certified``."""
    return lambda kept: str(kept.preset(_GRADED)["exact"][key])


def patch(size: str, digits: int = 1) -> Value:
    """Return the share of images that are certified against blocks."""
    return lambda kept: f"{kept.preset(_GRADED)['patches'][size]:.{digits}f}"


def rerun(dataset: str, method: str, radius: int, epochs: int | None = None) -> Value:
    """Return the certified accuracy of a published method as it was run here."""
    return lambda kept: f"{kept.rerun_row(dataset, method, epochs).at(radius):.1f}"


def published(dataset: str, method: str, radius: int) -> Value:
    """Return a published certified accuracy; of the best method where none is named."""
    if not method:
        return lambda kept: f"{best_published(dataset).at(radius):.1f}"
    return lambda kept: f"{published_row(dataset, method).at(radius):.1f}"


def below(dataset: str, ours: str, theirs: str, radius: int) -> Value:
    """Return by how many points a row of ours is below a published one."""

    def value(kept: Kept) -> str:
        own = kept.rerun_row(dataset, ours).at(radius)
        return f"{published_row(dataset, theirs).at(radius) - own:.1f}"

    return value


def ablated(curve: str, radius: int) -> Value:
    """Return the certified accuracy of a curve of the ablation."""

    def value(kept: Kept) -> str:
        rows = kept.result(ABLATION)["rows"]
        return f"{next(r for r in rows if r['method'] == curve)['percents'][radius]:.1f}"

    return value


def guessed(dataset: str, method: str) -> Value:
    """Return how often RA's guess was right."""
    return lambda kept: f"{kept.rerun_row(dataset, method).about['guessed_right']:.1f}"


def uncertified(dataset: str, method: str) -> Value:
    """Return by how many points RA's right guesses are more than what it certifies."""

    def value(kept: Kept) -> str:
        row = kept.rerun_row(dataset, method)
        return f"{row.about['guessed_right'] - row.at(0):.1f}"

    return value


def photographs(method: str, radius: int) -> Value:
    """Return the certified accuracy of a published method on CIFAR-10."""

    def value(kept: Kept) -> str:
        rows = kept.result("cifar-defences")["rows"]
        return f"{next(row for row in rows if row['method'] == method)['percents'][radius]:.1f}"

    return value


def bench(file: str, case: str, name: str, form: str = ".1f") -> Value:
    """Return a median of `bench.py`."""
    return lambda kept: format(kept.bench(file, case, name), form)


def cluster(kind: str, place: int, key: str, digits: int = 2) -> Value:
    """Return a figure of `cluster_speed.py`."""
    return lambda kept: f"{kept.result('cluster-2-cores')[kind][place][key]:.{digits}f}"


def planned(job: str, boxes: int, workers: int, threads: int = 0, digits: int = 1) -> Value:
    """Return a predicted speed-up."""
    return lambda kept: f"{kept.planned(job, boxes, workers, threads)['speedup']:.{digits}f}"


def printed(page: str, radius: int) -> Value:
    """Return what `boxnn evaluate` prints in a block of the page, which the tests run."""

    def value(kept: Kept) -> str:
        text = (ROOT / page).read_text(encoding="utf-8")
        found = re.search(r"^radius +(.*)\ncertified accuracy +(.*)$", text, re.M)
        if found is None:
            raise SystemExit(f"{page} has no output of boxnn evaluate")
        return dict(zip(*(line.split() for line in found.groups()), strict=True))[str(radius)]

    return value


def column(table: str, method: str, radius: int, other: str = "", digits: int = 0) -> Value:
    """Return a balanced certified accuracy of a table, or by how much it is above another's."""

    def value(kept: Kept) -> str:
        methods = kept.tables[table]
        less = methods[other]["curve"][radius] if other else 0.0
        return f"{methods[method]['curve'][radius] - less:.{digits}f}"

    return value


def tabular(table: str, row: str, radius: int, other: str = "") -> Value:
    """Return a certified accuracy of tabular.json, or by how many points it is above another's."""

    def value(kept: Kept) -> str:
        rows = kept.result("tabular")["tables"][table]["classifiers"]
        own, peer = (
            rows[name].get("certified_accuracy", {"0": rows[name]["accuracy"]})[str(radius)]
            if name
            else 0.0
            for name in (row, other)
        )
        return f"{own - peer:.0f}" if other else f"{own:.1f}"

    return value


def lead(table: str, own: str, peer: str) -> Value:
    """Return by how many points the best row of a method is above the best of another, at most."""

    def value(kept: Kept) -> str:
        rows = kept.result("tabular")["tables"][table]["classifiers"]

        def best(name: str, radius: str) -> float:
            return max(
                row["certified_accuracy"][radius]
                for title, row in rows.items()
                if title.startswith(name)
            )

        radii = rows[own]["certified_accuracy"]
        return f"{max(best(own, radius) - best(peer, radius) for radius in radii):.0f}"

    return value


def lazy(key: str, form: str) -> Value:
    """Return a figure of `lazy_arrays.py`."""

    def value(kept: Kept) -> str:
        found = kept.result("lazy-2-cores")[key]
        return format(found[0][0] if isinstance(found, list) else found, form)

    return value


def tuned(name: str) -> Value:
    """Return the mean certified radius that a study found."""
    return lambda kept: f"{kept.result(name)['best']['value']:.1f}"


# --- sentences ------------------------------------------------------------------------------

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "README.md",
        "with MNIST `graded`, {}% of the 10,000 test images fall to exactly one pixel more",
        (met(_GRADED),),
    ),
    Claim("README.md", "when any {} of their 784 pixels", (median(_GRADED),)),
    Claim(
        "docs/attacks.md",
        "{} left open, {} larger than the certified radius",
        (exact("open"), exact("larger_than_certified")),
    ),
    Claim("README.md", "changes the prediction: {}% of all test images", (patch("5x5"),)),
    Claim(
        "docs/comparison.md",
        "| {}% (`graded`) | {}% (RA, k = 60; {}% published) | {}% (FPA<sup>A</sup>, T = 25) |",
        (
            certified(_GRADED, 0),
            rerun("mnist", "RA_60", 0),
            published("mnist", "RA_60", 0),
            rerun("mnist", "FPA_25^A", 0),
        ),
    ),
    Claim(
        "docs/comparison.md",
        "ours with k = 60 is {} and {} points below the published row, and ours with k = 45 is "
        "{} and {} points below their k = 40",
        (
            below("mnist", "RA_60", "RA_60", 4),
            below("mnist", "RA_60", "RA_60", 8),
            below("mnist", "RA_45", "RA_40", 4),
            below("mnist", "RA_45", "RA_40", 8),
        ),
    ),
    Claim(
        "docs/comparison.md",
        "certifies {}% at r = 4 with k = 60 (published {}%), and {}% with k = 45 (their 40: {}%)",
        (
            rerun("mnist", "RA_60", 4, 60),
            published("mnist", "RA_60", 4),
            rerun("mnist", "RA_45", 4, 60),
            published("mnist", "RA_40", 4),
        ),
    ),
    Claim(
        "docs/which-method.md",
        "(FPA<sup>B</sup>, 12 epochs): {}% of the test images are right and {}% withstand 8 pixels",
        (photographs("FPA_25^B", 0), photographs("FPA_25^B", 8)),
    ),
    Claim(
        "docs/comparison.md",
        "with α = 0.3 and 3 epochs, {}% at r = 0 and {}% at r = 4, as published, but {}% at r = 20",
        tuple(ablated("Box-NN, α = 0.3", radius) for radius in (0, 4, 20)),
    ),
    Claim(
        "docs/comparison.md",
        "At r = 8 ours is {} (FPA<sup>A</sup>) and {} points (FPA<sup>B</sup>) below",
        (below("mnist", "FPA_25^A", "FPA_25^A", 8), below("mnist", "FPA_25^B", "FPA_25^B", 8)),
    ),
    Claim(
        "docs/comparison.md",
        "k = 40 is {} points below the published row at r = 0. Right guesses without a "
        "certificate explain {} of them",
        (below("fashion", "RA_40", "RA_40", 0), uncertified("fashion", "RA_40")),
    ),
    Claim(
        "docs/comparison.md",
        "its k = 60 row ({}% at r = 8) is near ours at k = 20 ({}%)",
        (published("mnist", "RA_60^B", 8), rerun("mnist", "RA_20^B", 8)),
    ),
    Claim(
        "docs/comparison.md",
        "(k = 20, 45, 60: {}, {}, {}%; Fashion-MNIST k = 40: {}%)",
        (
            guessed("mnist", "RA_20"),
            guessed("mnist", "RA_45"),
            guessed("mnist", "RA_60"),
            guessed("fashion", "RA_40"),
        ),
    ),
    Claim(
        "docs/faq.md",
        "MNIST with 2,500 boxes takes {} s an epoch",
        (bench(_XEON, "W=128 M=2500 epoch batch=100", "2 cores"),),
    ),
    Claim(
        "docs/performance.md",
        "by 2,500 boxes: {} rows a second, {} times those of",
        (lazy("rows_per_second", ",.0f"), lazy("ratio", ".1f")),
    ),
    Claim("docs/performance.md", "never held more than {} MB", (lazy("peak_mb", ".0f"),)),
    Claim(
        "docs/training.md",
        "a mean certified radius of {} on MNIST and {} on Fashion-MNIST",
        (tuned("tune-mnist"), tuned("tune-fashion-mnist")),
    ),
    Claim(
        "docs/tutorials/cluster.md",
        "runs at about {} of the speed with 2,500 boxes and {} with 25,000, "
        "certification of 1,000,000 rows at {}, with {} MB a worker",
        (
            cluster("training", 0, "ratio"),
            cluster("training", 1, "ratio"),
            cluster("certification", 1, "ratio"),
            cluster("certification", 1, "mb", 0),
        ),
    ),
    Claim(
        "docs/tutorials/cluster.md",
        "gains a factor of {} from some ten workers at best (of {} where the client has 16 "
        "threads), and an ImageNet-sized run with split boxes one of about {} from a hundred",
        (
            planned("mnist", 2500, 10),
            planned("mnist", 2500, 10, 16),
            planned("imagenet", 100_000, 100, digits=0),
        ),
    ),
    Claim(
        "docs/tutorials/mnist.md",
        "{}% of the test images are classified correctly, and no rewriting of any 12",
        (printed("docs/tutorials/mnist.md", 12),),
    ),
    Claim(
        "docs/tutorials/tabular.md",
        "by up to {} points over FPA",
        (lead("breast cancer", "Box-NN", "FPA"),),
    ),
    Claim(
        "docs/tutorials/tabular.md",
        "FPA with a submodel for every column leads at r = 3 and 4, by {} and {} points",
        (
            tabular("wine", "FPA^B, T = 13", 3, "Box-NN"),
            tabular("wine", "FPA^B, T = 13", 4, "Box-NN"),
        ),
    ),
    Claim(
        "docs/tutorials/tabular.md",
        "the best accuracy ({} against {}). - **Digits.**",
        (
            tabular("wine", "1-NN, W = 255", 0),
            tabular("wine", "Box-NN, chosen at r = 1", 0),
        ),
    ),
    Claim(
        "docs/tutorials/tabular.md",
        "at r = 3 by {} points over the nearest neighbour. "
        "The nearest neighbour has the best accuracy ({} against {})",
        (
            tabular("digits", "Box-NN, chosen at r = 3", 3, "1-NN, W chosen at r = 3, pairwise"),
            tabular("digits", "1-NN", 0),
            tabular("digits", "Box-NN", 0),
        ),
    ),
    Claim(
        "docs/which-method.md",
        "little: {}% accuracy on CIFAR-10 |",
        (certified("cifar-graded", 0, 0),),
    ),
    Claim(
        "docs/which-method.md",
        "has another label: {}% of the CIFAR-10 test images are right, {}% at 8 pixels",
        (certified("cifar-graded", 0), certified("cifar-graded", 8)),
    ),
    Claim(
        "docs/which-method.md",
        "half of the MNIST test images withstand {} pixels",
        (median(_GRADED),),
    ),
    Claim(
        "docs/which-method.md",
        "any one 5x5 block on {}% of the MNIST test images",
        (patch("5x5", 0),),
    ),
    Claim(
        "docs/which-method.md",
        "better by some points ({}% against {}% on MNIST)",
        (published("mnist", "", 0), certified(_GRADED, 0)),
    ),
    Claim(
        "docs/which-method.md",
        "it certifies more than Box-NN with `radii` at r = 2 by {} points, with {} points less "
        "accuracy",
        (column("nursery", "FPA^A", 2, "box-radii"), column("nursery", "box-radii", 0, "FPA^A")),
    ),
)

#: Page -> pieces of sentences with numbers that nobody measured.
GIVEN: dict[str, tuple[str, ...]] = {
    "README.md": ("options were chosen on 10% of the training data", "Python 3.11 or newer"),
    "docs/certificate.md": ("Theorem 4.2 for W = 1",),
    "docs/comparison.md": (
        "with probability 95% for each image",
        "every difference above 2 points",
    ),
    "docs/faq.md": ("2,500 boxes of 784 features: 3.9 MB",),
    "docs/leaderboard.md": ("with probability 95%",),
    "docs/reproducing.md": (
        "every difference from the paper above 2 points",
        "Theorems 2.2 and 3.2",
        "Theorem 4.2",
        "Section 4.2",
        "is 0.2 in Table 4 and 0.02 in B.2",
    ),
    "docs/training.md": (
        "more than 3 points below that of the best",
        "more than 10 points below",
        "0.5 is good for both",
    ),
    "docs/tutorials/gpu.md": ("compute capability 7.5 or newer",),
    "docs/tutorials/tabular.md": ("the majority-class baseline has 50%",),
    "docs/which-method.md": (
        "The majority-class baseline has 50% with two classes",
        'With 1% fraud, "never fraud" has 99% accuracy',
        "50% with two classes, 10% with ten",
        "with a probability (95%)",
    ),
}
