"""Blocks of the pages: which page has which table, and what writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import leaderboard
from kept import (
    TABLE_METHODS,
    TABLES,
    TITLES,
    Curve,
    Kept,
    best_published,
    medians,
    published,
    published_patches,
    published_row,
)
from layout import cells, column_method, count, method, rerun_name, table

RADII = range(0, 41, 4)
SHOWN_COLUMNS = (0, 1, 2, 4)
#: Case of presets.json -> what tables call it.
LABELS = {
    "mnist-graded-0": "MNIST `graded`",
    "mnist-graded-1": "seed 1",
    "mnist-graded-2": "seed 2",
    "mnist-ensemble": "MNIST `graded`, ensemble of 3",
    "mnist-accurate": "MNIST `accurate`",
    "mnist-target": "MNIST `target --radius 27`",
    "fashion-graded": "Fashion-MNIST `graded`",
    "fashion-target": "Fashion-MNIST `target --radius 41`",
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
    """Return what all presets and seeds reach."""
    return table(_CURVE_HEAD, _ours(kept, LABELS))


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
        "mnist-patches": "`target --radius 27 --epochs 28`, chosen for 5x5",
    }
    for name, curve in kept.curves(words_of).items():
        found = kept.preset(name)["patches"]
        values = [f"{found[size]:.1f}" if size in found else "" for size in sizes]
        rows.append([words_of[name], f"{curve.at(0):.1f}", *values])
    for row in published_patches():
        values = [row["certified_accuracy"] if row["patch"] == size else "" for size in sizes]
        words = f"[{row['method']}]({row['source']}), trained for {row['patch']}"
        rows.append([words, row["accuracy"], *values])
    return table(["", "accuracy", *sizes], rows)


def frontier(kept: Kept) -> str:
    """Return the frontier of MNIST, and the command that was run."""
    study = kept.result("frontier-mnist")
    targets = ",".join(
        m["name"].split()[1] for m in study["members"] if m["name"].startswith("target")
    )
    given = "".join(
        f" --{key} {study['options'][key]}" for key in ("boxes", "epochs") if study["options"][key]
    )
    command = f"boxnn frontier mnist.zarr --out frontier-mnist --targets {targets}{given}"
    chosen = {row["radius"]: row for row in study["rows"]}
    radii = range(0, 41, 8)
    rows = [["chosen", *(f"`{chosen[r]['model']}`" for r in radii)]]
    for key, words in (("held_out", "held out"), ("test", "test"), ("published", "best published")):
        rows.append([words, *(f"{chosen[r][key]:.1f}" for r in radii)])
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
        said = kept.result(TABLES[dataset][1])
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
    for _, name in TABLES.values():
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


# --- tables ---------------------------------------------------------------------------------


def tables(kept: Kept) -> str:
    """Return balanced certified accuracy of tables as people have them, and the means."""
    head = ["table", "method", *(f"r = {r}" for r in SHOWN_COLUMNS)]
    found, rows = kept.tables, []
    for name, methods in found.items():
        for key, entry in methods.items():
            rows.append(
                [_folds(name, entry["folds"]), column_method(key), *_columns(key, entry["curve"])]
            )
    for key in TABLE_METHODS:
        have = [methods[key]["curve"] for methods in found.values() if key in methods]
        mean = [sum(values) / len(have) for values in zip(*have, strict=True)]
        rows.append([f"**mean of {len(have)}**", column_method(key), *_columns(key, mean)])
    return table(head, rows)


def leaders(kept: Kept) -> str:
    """Return which method certifies most of each table."""
    rows = []
    for name, methods in kept.tables.items():
        certified = {key: entry["curve"] for key, entry in methods.items() if key != "boosting"}
        best = [max(certified, key=lambda key: certified[key][r]) for r in SHOWN_COLUMNS[1:]]
        none = [certified[key][r] < 0.05 for key, r in zip(best, SHOWN_COLUMNS[1:], strict=True)]
        words = [
            "" if nobody else column_method(key) for key, nobody in zip(best, none, strict=True)
        ]
        rows.append([name, *words])
    return table(["certifies most", *(f"r = {r}" for r in SHOWN_COLUMNS[1:])], rows)


def _folds(name: str, folds: int) -> str:
    return name if folds == 5 else f"{name} ({folds} of 5 folds)"


def _columns(key: str, curve: Sequence[float]) -> list[str]:
    values = [f"{curve[radius]:.1f}" for radius in SHOWN_COLUMNS]
    return [values[0], *([""] * 3 if key == "boosting" else values[1:])]


def tabular(kept: Kept) -> str:
    """Return the three tables of scikit-learn: the tutorial on tables."""
    shown = range(11)
    lines = []
    for name, result in kept.result("tabular")["tables"].items():
        size = f"{result['samples']} x {result['columns']}, {result['classes']} classes"
        lines.append([f"**{name}** ({size})", *[""] * (1 + len(shown))])
        for title, row in result["classifiers"].items():
            curve = row.get("certified_accuracy", {"0": row["accuracy"]})
            values = [f"{curve[str(r)]:.1f}" if str(r) in curve else "" for r in shown]
            lines.append([title, str(row.get("median_certified_radius", "")), *values])
    return table(["per cent certified at r columns, r =", "median", *map(str, shown)], lines)


# --- speed ----------------------------------------------------------------------------------


def kernels(kept: Kept) -> str:
    """Return the speed of class distances on one core."""
    rows = []
    for case, words in (
        ("n=784 M=2500", "n = 784, M = 2,500, random codes"),
        ("n=784 M=2500 mnist-sample", "the same, MNIST's sample (tiles are left early)"),
        ("n=784 M=100", "n = 784, M = 100"),
        ("n=64 M=2500", "n = 64, M = 2,500"),
        ("n=64 M=100", "n = 64, M = 100"),
    ):
        speed, share = (
            [kept.bench("epyc-2-cores-quick", f"W={width} {case}", name) for width in (1, 128, 255)]
            for name in ("1 core", "1 core of limit")
        )
        rows.append(
            [words, " / ".join(f"{v:,.0f}" for v in speed), " / ".join(f"{v:.2f}" for v in share)]
        )
    head = [
        "class distances, one core, W = 1 / 128 / 255",
        "million pairs a second",
        "of the limit",
    ]
    return table(head, rows)


#: Case of `bench.py` -> what tables call it, and whom it is compared with.
_PEERS = {
    "W=255 boxes": (
        "distances to boxes, W = 255",
        (
            "NumPy broadcast",
            "SciPy cdist cityblock x2",
            "torch.compile broadcast",
            "JAX jit float32",
        ),
    ),
    "W=1 points": (
        "Hamming distances",
        ("SciPy cdist hamming", "scikit-learn pairwise hamming", "torch cdist(p=0)"),
    ),
}
#: What tables call a job -> its case, and its name there.
_JOBS = {
    "a training epoch of 60,000 images, 2,500 boxes, batch 1,000": (
        "W=128 M=2500 epoch batch=1000",
        "2 cores",
    ),
    "the same with batch 100": ("W=128 M=2500 epoch batch=100", "2 cores"),
    "certifying 10,000 images with 2,500 boxes: kernel": ("certify 10000 images", "kernel"),
    "the same: `boxnn certify`, from start to end": ("certify 10000 images", "whole process"),
    "the passes of RA for as many images, a small network (extrapolated)": (
        "certify 10000 images",
        "RA forward passes (10000 an image)",
    ),
}


def peers(kept: Kept) -> str:
    """Return how many times as long other libraries take for distances and training steps."""
    file = "xeon-2-cores-busy"
    rows = []
    for case, (words, others) in _PEERS.items():
        for name in others:
            times = kept.bench(file, case, f"ours on 2 cores / {name}")
            rows.append([f"{words}: {name}", f"{times:,.0f}"])
    step = kept.bench(file, "step W=128 batch=1000", "ours / torch.compile broadcast")
    rows.append(["a training step, W = 128, batch 1,000: torch.compile broadcast", f"{step:,.0f}"])
    return table(["what, and by whom", "times as long as ours on 2 cores"], rows)


def jobs(kept: Kept) -> str:
    """Return seconds of whole jobs."""
    rows = []
    for words, (case, name) in _JOBS.items():
        rows.append([words, _short(kept.bench("xeon-2-cores-busy", case, name))])
    return table(["job, on two cores", "seconds"], rows)


def _short(value: float) -> str:
    """Return a number with two digits, or all of a large one."""
    return f"{value:,.2g}" if value < 100 else f"{value:,.0f}"


def pairwise(kept: Kept) -> str:
    """Return what pairwise certificates cost."""
    rows = []
    for data, words in (
        ("mnist-sample", "784 pixels, 10 classes"),
        ("30 random codes", "30 columns, 2 classes"),
    ):
        for kind in ("plain boxes", "4 parts", "2 members"):
            case = f"{kind}, {data}"
            speed = kept.bench("epyc-2-cores-quick", case, "1 core")
            share = kept.bench("epyc-2-cores-quick", case, "class distances, 1 core")
            rows.append([f"{words}: {kind}", f"{float(f'{speed:.2g}'):,.0f}", f"{100 * share:.2g}"])
    return table(["", "rows a second", "of the time for distances, %"], rows)


def steps(kept: Kept) -> str:
    """Return what a training step on two workers costs."""
    runs = kept.result("cluster-steps-2-cores")["training"]
    lines = [
        ["speed, of one process with two threads", *(f"{run['ratio']:.2f}" for run in runs)],
        ["MB sent to both", *(f"{run['bytes_of_a_step'][0] / 1e6:.1f}" for run in runs)],
        ["MB of their answers", *(f"{run['bytes_of_a_step'][1] / 1e6:.1f}" for run in runs)],
    ]
    return table(["", *(f"{run['boxes']:,} boxes" for run in runs)], lines)


def plan(kept: Kept) -> str:
    """Return predicted speed-ups and bytes."""
    heads = {
        ("mnist", 2500): "MNIST, 2,500 boxes",
        ("mnist", 25_000): "25,000 boxes",
        ("imagenet", 100_000): "ImageNet's size, 100,000 split boxes, 100 Gbit/s",
    }
    lines = []
    for workers in (32, 100):
        for threads in (0, 16):
            words = f"speed-up of {workers} workers" + (
                f", the client with {threads} threads" if threads else ""
            )
            values = [kept.planned(job, boxes, workers, threads) for job, boxes in heads]
            lines.append([words, *(f"{value['speedup']:.1f}" if value else "" for value in values)])
        sends = [kept.planned(job, boxes, workers, 0)["client_sends"] / 1e6 for job, boxes in heads]
        lines.append(
            [
                f"MB of a step that leave the client, {workers} workers",
                *(_short(value) for value in sends),
            ]
        )
    return table(["", *heads.values()], lines)


#: Page -> its blocks. Those of docs/training.md that list options are written by option_tables.py.
BLOCKS: dict[str, dict[str, Callable[[Kept], str]]] = {
    "README.md": {"figures": summary},
    "docs/certificate.md": {"patches": patches, "pairwise": pairwise},
    "docs/comparison.md": {"paper": paper, "comparison": comparison},
    "docs/leaderboard.md": leaderboard.BLOCKS,
    "docs/performance.md": {
        "kernels": kernels,
        "peers": peers,
        "jobs": jobs,
        "steps": steps,
        "plan": plan,
    },
    "docs/reproducing.md": {"runs": runs},
    "docs/training.md": {"reach": reach, "commands": commands, "frontier": frontier},
    "docs/tutorials/mnist.md": {"whole": whole_set},
    "docs/tutorials/tabular.md": {"tabular": tabular},
    "docs/which-method.md": {"tables": tables, "leaders": leaders, "colour": colour},
}
#: Blocks that other tools write.
OTHERS = {"docs/training.md": ("presets", "options")}
