"""Blocks of the pages: which page has which table, and what writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import columns
import leaderboard
import speed
from kept import (
    ABLATION,
    TABLES,
    TITLES,
    Curve,
    Kept,
    best_published,
    medians,
    published,
    published_row,
)
from layout import cells, count, method, rerun_name, table

from boxnn_numba.pipelines.figures.published import published_patches
from boxnn_numba.pipelines.reproduce.targets import ABLATIONS

RADII = range(0, 41, 4)
#: Case of presets.json -> what tables call it.
LABELS = {
    "mnist-graded-0": "MNIST `graded`",
    "mnist-graded-1": "seed 1",
    "mnist-graded-2": "seed 2",
    "mnist-ensemble": "MNIST `graded`, ensemble of 3",
    "mnist-accurate": "MNIST `accurate`",
    "mnist-target": "MNIST `target --radius 27`",
    "fashion-graded": "Fashion-MNIST `graded`",
    "fashion-target": "Fashion-MNIST `target --radius 43`",
    "cifar-graded": "CIFAR-10 (recompressed as JPEG) `graded`, 4 epochs",
}
_CURVE_HEAD = ["certified accuracy (%) at r =", "median", *map(str, RADII)]


def _ours(kept: Kept, names: Iterable[str], radii: Sequence[int] = RADII) -> list[list[str]]:
    return [[LABELS[name], *cells(curve, radii)] for name, curve in kept.curves(names).items()]


# --- presets --------------------------------------------------------------------------------


def summary(kept: Kept) -> str:
    """Return what the presets reach beside the best published values: the README."""

    def best(dataset: str) -> list[str]:
        return [
            f"best published at each radius, {TITLES[dataset]}",
            *cells(best_published(dataset), RADII),
        ]

    mnist = "mnist-graded-0", "mnist-ensemble", "mnist-accurate", "mnist-target"
    return table(
        _CURVE_HEAD,
        [
            *_ours(kept, mnist),
            best("mnist"),
            *_ours(kept, ("fashion-graded", "fashion-target")),
            best("fashion"),
            *_ours(kept, ("cifar-graded",)),
        ],
    )


def reach(kept: Kept) -> str:
    """Return what all presets and seeds reach, with the recall of the class that fares worst."""
    rows = [
        [row[0], row[1], f"{min(kept.preset(name)['recall']):.0f}", *row[2:]]
        for name, row in zip(kept.curves(LABELS), _ours(kept, LABELS), strict=True)
    ]
    return table([*_CURVE_HEAD[:2], "worst class", *_CURVE_HEAD[2:]], rows)


def attacked(kept: Kept) -> str:
    """Return how many test images fall to one pixel more than is certified, and to fewer."""
    rows = []
    for name in kept.curves(LABELS):
        found = kept.preset(name).get("attack")
        if found:
            share = f"{100 * found['one_more'] / found['images']:.1f}"
            rows.append([LABELS[name], f"{found['images']:,}", share, str(found["inside"])])
    head = ["", "attacked", "fall to exactly one pixel more than is certified, %", "to fewer"]
    return table(head, rows)


def commands(kept: Kept) -> str:
    """Return the commands that were measured, those that only certify left out."""
    lines = [kept.preset(name)["commands"][0] for name in kept.curves(LABELS)]
    return "\n".join(
        [
            "<!-- not run: minutes of training on the whole sets -->",
            "```sh",
            *map(_folded, lines),
            "```",
        ]
    )


def _folded(line: str, longest: int = 120) -> str:
    """Return a command on two lines where it is long."""
    if len(line) <= longest:
        return line
    at = line.rindex(" --", 0, longest)
    return f"{line[:at]} \\\n {line[at:]}"


def whole_set(kept: Kept) -> str:
    """Return the row of `graded` on all images that ends the tutorial on MNIST."""
    radii = range(0, 21, 4)
    row = cells(kept.curve("mnist-graded-0"), radii)
    return table([*_CURVE_HEAD[:2], *map(str, radii)], [["MNIST `graded`, 60,000 images", *row]])


def patches(kept: Kept) -> str:
    """Return what withstands blocks of pixels, ours and published."""
    sizes = [f"{side}x{side}" for side in range(2, 7)]
    rows = []
    words_of = {
        "mnist-graded-0": "`graded`, not trained for blocks",
        "mnist-accurate": "`accurate`, chosen for 2x2 on held-out data",
        "mnist-target": "`target --radius 27`, chosen for 5x5 on held-out data",
    }
    for name, curve in kept.curves(words_of).items():
        found = kept.preset(name)["patches"]
        values = [f"{found[size]:.1f}" if size in found else "" for size in sizes]
        rows.append([words_of[name], f"{curve.at(0):.1f}", *values])
    for row in published_patches("mnist"):
        values = [f"{row.certified_accuracy}" if row.patch == size else "" for size in sizes]
        words = f"[{row.method}]({row.source}), trained for {row.patch}"
        rows.append([words, f"{row.accuracy}", *values])
    return table(["", "accuracy", *sizes], rows)


def frontier(kept: Kept) -> str:
    """Return the frontier of MNIST, and the command that was run."""
    study = kept.result("frontier-mnist")
    targets = ",".join(
        m["name"].split()[1] for m in study["members"] if m["name"].startswith("target")
    )
    asked = study["options"].items()  # all of them numbers
    given = "".join(f" --{name.replace('_', '-')} {value:g}" for name, value in asked)
    command = f"boxnn frontier mnist.zarr --out frontier-mnist --targets {targets}{given}"
    chosen = {row["radius"]: row for row in study["rows"]}
    radii = [r for r in chosen if len(chosen) <= 6 or r % 8 == 0]
    rows = [["chosen", *(f"`{chosen[r]['model']}`" for r in radii)]]
    for key, words in (("held_out", "held out"), ("test", "test"), ("published", "best published")):
        values = [chosen[r][key] for r in radii]  # nothing is published at some radii
        rows.append([words, *("" if value is None else f"{value:.1f}" for value in values)])
    return f"{table(['r', *map(str, radii)], rows)}\n\n(`{command}`)"


def colour(kept: Kept) -> str:
    """Return what helps on colour photographs, on held-out rows, and the test row of `graded`."""
    radii = (0, 1, 2, 4, 8, 16)
    words = {
        "cifar-all": "`graded --boxes 1000`: 2x2 parts, pixels as groups, half mirrored",
        "cifar-plain-boxes": "the same with plain boxes, `--parts 1`",
        "cifar-single-channels": "with channels apart, `--group-size 1`; three count as a pixel",
        "cifar-no-mirror": "with nothing mirrored, `--mirror 0`",
        "cifar-graded": "`graded` with its 3,000 boxes, **test images**",
    }
    rows = [
        [words[name], *(f"{curve.at(r):.1f}" for r in radii)]
        for name, curve in kept.curves(words).items()
    ]
    return table(["certified accuracy (%) at r pixels =", *map(str, radii)], rows)


# --- the published methods ------------------------------------------------------------------


def paper(kept: Kept) -> str:
    """Return the recipe of the paper by the paper's count, beside the paper."""
    rows = []
    for dataset in ("mnist", "fashion"):
        rows.append([f"{TITLES[dataset]} `paper`", *cells(kept.paper(dataset, "paper"), RADII)])
        values = cells(published_row(dataset, "Box-NN"), RADII)[1:]
        median = str(medians(dataset)["Box-NN"])
        rows.append([f"published Box-NN, {TITLES[dataset]}", median, *values])
    return table(_CURVE_HEAD, rows)


def comparison(kept: Kept) -> str:
    """Return everything measured beside the published rows, and what certifying an image costs."""
    parts = []
    for dataset in ("mnist", "fashion"):
        head = [f"{TITLES[dataset]}: certified accuracy (%) at r =", "images", *_CURVE_HEAD[1:]]
        parts.append(table(head, _compared(kept, dataset)))
        said = kept.result(TABLES[dataset])
        parts.append(f"(RA, FPA and `paper`: `{said['command']}`)")
    costs = [
        *(
            [LABELS[name], count(curve.cost)]
            for name, curve in kept.curves(["mnist-graded-0"]).items()
        ),
        *([method(name), count(cost)] for name, cost in kept.costs.items() if "_" in name),
    ]
    parts.append(table(["to certify one image", "multiply-adds"], costs))
    return "\n\n".join(parts)


def _compared(kept: Kept, dataset: str) -> list[list[str]]:
    theirs, ours = published(dataset), kept.rerun(dataset)
    rows = [_row("Box-NN `paper`, published", published_row(dataset, "Box-NN"))]
    rows.append(_row("**Box-NN `paper`** (paper's count)", kept.paper(dataset, "paper")))
    rows.append(_row("**Box-NN `paper`**", kept.paper(dataset)))
    rows += [_row(f"**{name}**", curve) for name, curve in leaderboard.presets(kept, dataset)]
    for family in dict.fromkeys(_family(row) for row in theirs[1:]):
        shown = [row for row in theirs if _family(row) == family and _is_peer(row, theirs, ours)]
        rows_of = [(f"{method(row.method)}, published", row) for row in shown]
        rows_of += [(f"**{rerun_name(row)}**", row) for row in ours if _family(row) == family]
        rows += [_row(*pair) for pair in sorted(rows_of, key=lambda pair: _setting(pair[1]))]
    return rows


def _row(name: str, curve: Curve) -> list[str]:
    images = "" if curve.images is None else f"{curve.images:,}"
    return [name, images, *cells(curve, RADII)]


def _family(row: Curve) -> tuple[str, str]:
    base, _, rest = row.method.partition("_")
    return base, rest.partition("^")[2]


def _setting(row: Curve) -> int:
    return int(row.method.partition("_")[2].partition("^")[0])


def _is_peer(row: Curve, theirs: list[Curve], ours: list[Curve]) -> bool:
    """Whether a published row has one of ours beside it, or is the best of its family at r = 8."""
    if any(other.method == row.method for other in ours):
        return True
    family = [other for other in theirs if _family(other) == _family(row)]
    return max(family, key=lambda other: other.at(8)) is row


def runs(kept: Kept) -> str:
    """Return which reproductions are kept, and how they were run."""
    rows = []
    for name in [*TABLES.values(), ABLATION, *kept.apart]:
        said = kept.result(name)
        images = {
            row["method"].partition("_")[0]: row["images"] for row in said["rows"] if row["images"]
        }
        counts = ", ".join(
            f"{method} {count:,}" for method, count in images.items() if " " not in method
        )
        rows.append(
            [f"`{name}.json`", f"`{said['command']}`", counts, said["machine"]["date"][:10]]
        )
    return table(["file", "command", "test images", "date"], rows)


def ablation(kept: Kept) -> str:
    """Return what each option of the paper's recipe changes, figure by figure."""
    rows, figure = [], ""
    for row in kept.result(ABLATION)["rows"]:
        curve = Curve("", dict(zip(row["radii"], row["percents"], strict=True)), row["median"])
        title = ABLATIONS[row["group"]][0] if row["group"] else "Table 4, all defaults"
        name = row["method"].removeprefix("Box-NN").removeprefix(", ") or row["source"]
        rows.append(["" if title == figure else title, name, *cells(curve, RADII)])
        figure = title
    return table(["MNIST, certified accuracy (%) at r =", "", *_CURVE_HEAD[1:]], rows)


#: Page -> its blocks. Those of docs/training.md that list options are written by option_tables.py.
BLOCKS: dict[str, dict[str, Callable[[Kept], str]]] = {
    "README.md": {"figures": summary},
    "docs/attacks.md": {"attacked": attacked},
    "docs/certificate.md": {"patches": patches, "pairwise": speed.pairwise},
    "docs/comparison.md": {"paper": paper, "comparison": comparison},
    "docs/leaderboard.md": leaderboard.BLOCKS,
    "docs/performance.md": {
        "kernels": speed.kernels,
        "peers": speed.peers,
        "jobs": speed.jobs,
        "steps": speed.steps,
        "plan": speed.plan,
    },
    "docs/reproducing.md": {"runs": runs, "ablation": ablation},
    "docs/training.md": {"reach": reach, "commands": commands, "frontier": frontier},
    "docs/tutorials/mnist.md": {"whole": whole_set},
    "docs/tutorials/tabular.md": {"tabular": columns.tabular},
    "docs/which-method.md": {
        "tables": columns.tables,
        "leaders": columns.leaders,
        "colour": colour,
    },
}
#: Blocks that other tools write.
OTHERS = {"docs/training.md": ("presets", "options")}
