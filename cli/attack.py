"""`boxnn attack`: the smallest adversarial change found for each sample."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import options
from boxnn_numba.cli.certify import cluster_text


@options.command("Attack samples of a split.", "attacking")
@click.argument("model", type=options.StorePath(exists=True))
@click.argument("data", type=options.StorePath(exists=True))
@options.out("Where the attacks go.")
@options.split
@click.option("--limit", type=int, help="Attack only this many rows, spread evenly.")
@options.choice(
    "--method",
    ("greedy", "quick", "random"),
    help="greedy uses the boxes; quick uses them with less effort and no compilation; random is a "
    "black-box search, in the manner of Sparse-RS.",
)
@options.choice(
    "--certificate",
    ("margin", "pairwise"),
    default=None,
    help="Certificate that attacks are compared with. Default as for certify: margin for images, "
    "pairwise for tables.",
)
@click.option("--max-features", type=int, help="Most features, or groups, to change.")
@options.attackable
@click.option(
    "--low",
    default="0",
    metavar="LIMITS",
    help="Smallest code to write, or smallest values of columns, e.g. amount=0,age=18.",
)
@click.option(
    "--high",
    default="255",
    metavar="LIMITS",
    help="Largest code to write, or largest values of columns.",
)
@click.option(
    "--features",
    type=click.Path(exists=True, dir_okay=False),
    help="A .npy file of booleans, one for each feature: whether it may change.",
)
@click.option(
    "--patch",
    metavar="SIZE",
    help="Change only one block of pixels: its side, or rows x columns such as 3x7.",
)
@click.option("--rivals", default=16, help="Rival boxes to try.")
@click.option("--tries", default=32, help="Rounds of local search.")
@click.option(
    "--queries", default=1000, help="Predictions that the random method may use for each sample."
)
@click.option("--seed", default=0, help="Seed of random choices.")
@options.cluster
@options.log
@options.run
def attack(
    model: str,
    data: str,
    out: str,
    split: str,
    limit: int | None,
    certificate: str | None,
    run: Any,
    **given: Any,
) -> options.Output:
    """Look for the smallest change of features that changes the prediction of MODEL.

    Writes, for each sample of a split of DATA, an adversarial input and how many features it
    changes. Each is checked with the model and against the certified radius.

    Example: boxnn attack model.zarr mnist.zarr --out attack.zarr --limit 1000
    """
    from boxnn_numba.pipelines.attack.attack import AttackOptions
    from boxnn_numba.pipelines.attack.attack import attack as work

    for side in ("low", "high"):
        given[side] = options.limits(f"--{side}", given[side])
    chosen = AttackOptions(**given | {"attackable": options.column_names(given["attackable"])})
    how: dict[str, Any] = {"split": split, "limit": limit, "certificate": certificate or "auto"}
    result = work(model, data, out, chosen, **how, run=run).as_dict()
    return result, _text(result)


def _text(result: dict[str, Any]) -> str:
    curve = result["radii"]
    if result["patches"]:
        return "\n".join(_patch_text(result)) + cluster_text(result.get("cluster"))
    changed = result["mean_changed"]
    return "\n".join(
        [
            f"{result['attack']}: {result['n']} samples in {result['seconds']:.2f} s, "
            f"{_accuracy(result)}; attacks found on {result['found']:.2f}%"
            + ("" if changed is None else f", changing {changed:.1f} on average"),
            f"{result['meets']:.2f}% need exactly one change more than is certified "
            f"({result['certificate']}), none fewer",
            "radius                       " + "".join(f"{radius:>7}" for radius in curve),
            "certified accuracy           "
            + "".join(f"{row['certified_accuracy']:>7.1f}" for row in curve.values()),
            "robust accuracy under attack "
            + "".join(f"{row['robust_accuracy']:>7.1f}" for row in curve.values()),
        ]
    ) + cluster_text(result.get("cluster"))


def _accuracy(result: dict[str, Any]) -> str:
    accuracy = result["accuracy"]
    return "no labels" if accuracy is None else f"accuracy {accuracy:.2f}%"


def _patch_text(result: dict[str, Any]) -> list[str]:
    ((size, row),) = result["patches"].items()
    return [
        f"{result['attack']}: {result['n']} samples in {result['seconds']:.2f} s, "
        f"{_accuracy(result)}; attacks by one block of {size} found on "
        f"{result['found']:.2f}%",
        f"certified accuracy           {row['certified_accuracy']:>7.1f}",
        f"robust accuracy under attack {row['robust_accuracy']:>7.1f}",
    ]
