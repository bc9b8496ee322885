"""`boxnn localize`: how localized the certified data are."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import options

_LEGEND = (
    "delta: part of the class not certified at eps; C: 1 / (1 - volume predicted as the class); "
    "volume: C exp(-eps^2/n), of a set with 1 - delta of the class, * no claim (true of any data); "
    "log10 volume: of the union of the class's boxes, grown (all inputs: 0); holds: part of the "
    "class in it; vacuous: Eq. (7) excludes no robust classifier, shown to that eps."
)
_GRADED = (
    "Grown by t: all inputs whose graded distance D/W to a box of the class is at most t features; "
    "it contains whatever rewriting t features of a point of the box can make."
)


@options.command("Report how localized the data of each class are.", "localizing")
@click.argument("certificate", type=options.StorePath(exists=True))
@click.argument("model", type=options.StorePath(exists=True))
@click.option(
    "--radius",
    "radii",
    type=int,
    multiple=True,
    help="Features eps that an adversary rewrites; may be repeated. Default: the median "
    "certified radius.",
)
@click.option("--share", default=0.9, help="Share of each class that grown boxes must hold.")
@click.option(
    "--samples", default=10_000, help="Uniform inputs that bound the volumes of decision regions."
)
@click.option("--seed", default=0, help="Seed of the uniform inputs.")
def localize(certificate: str, model: str, radii: tuple[int, ...], **given: Any) -> options.Output:
    """Report per class how localized the certified data are, in the sense of the paper.

    CERTIFICATE is a file of `boxnn certify`, and MODEL the model it was made with. Prints, for each
    class, what Theorem 2.2 concludes from the certificates, the volume of the model's own boxes,
    grown, and whether the impossibility bound of Eq. (7) is vacuous.

    Example: boxnn localize cert.zarr model.zarr --radius 8 --radius 16
    """
    from boxnn_numba.pipelines.localize import localize as report

    result = report(certificate, model, radii, **given).as_dict()
    return result, _text(result, bool(radii))


def _text(result: dict[str, Any], chosen: bool) -> str:
    counted = "features" if result["group_size"] == 1 else f"groups of {result['group_size']}"
    lines = [
        f"{result['dataset']} {result['split']}: {result['n']} samples of {result['features']} "
        f"{counted}; {result['boxes']} boxes of width {result['width']}"
        + ("" if chosen else "; eps is the median certified radius"),
        _summary(result),
    ]
    for part in result["radii"]:
        lines += ["", *_table(part, result["share"]), _strong(part)]
    lines += ["", _LEGEND]
    if result["width"] > 1:
        lines.append(_GRADED)
    rows = result["radii"][0]["classes"]
    larger = max(row["delta_upper"] - row["delta"] for row in rows)
    lines.append(
        f"With 95% confidence: C, by {result['samples']} random inputs; and of the distribution "
        f"behind the samples, each delta is at most {larger:.3f} larger."
    )
    return "\n".join(lines)


def _summary(result: dict[str, Any]) -> str:
    rows = result["radii"][0]["classes"]
    volumes = [row["holding"]["log10_volume"][1] for row in rows]
    if any(volume is None for volume in volumes):
        return "A class has no box, so nothing bounds it."
    return (
        f"{100 * result['share']:g}% of each class lie in a part of the inputs of volume "
        f"10^{max(volumes):.1f} or less"
    )


def _table(part: dict[str, Any], share: float) -> list[str]:
    eps, rows = part["radius"], part["classes"]
    name = max(5, *(len(str(row["class"])) for row in rows))
    theorem = f"Theorem 2.2, eps^2/n = {part['exponent']:.3f}"
    lines = [
        f"{f'eps = {eps}':<{name + 7}} | {theorem:<28} | {f'boxes grown by {eps}':<28} | "
        f"{f'boxes grown to hold {100 * share:g}%':<27} | Eq. (7)",
        f"{'class':<{name}}{'n':>7} |{'delta':>7}{'C':>10}{'volume <=':>12} |{'boxes':>6}"
        f"{'log10 volume':>16}{'holds':>7} |{'by':>9}{'log10 volume':>19} | vacuous",
    ]
    for row in rows:
        grown, held, bound = row["grown"], row["holding"], row["impossibility"]
        verdict = f"to eps {bound['up_to']}" if bound["vacuous"] else "not shown"
        lines.append(
            f"{row['class']!s:<{name}}{row['n']:>7} |{row['delta']:>7.3f}"
            f"{_constant(row['constant']):>10}{row['volume']:>11.3f}{'* '[not row['trivial']]} |"
            f"{row['boxes']:>6}{_volume(grown):>16}{100 * grown['holds']:>6.1f}% |"
            f"{held['growth']:>9.1f}{_volume(held):>19} | {verdict}"
        )
    return lines


def _strong(part: dict[str, Any]) -> str:
    strong = part["strong"]
    return (
        f"Theorem 3.2 (Definition 3.1 with 2 eps), boxes grown by {strong['growth']:.1f}: delta "
        f"{strong['delta']:.3f} + gamma {strong['gamma']:.3f}, so some classifier has robust risk "
        f"<= {strong['risk']:.3f}; this model: <= {part['certified_risk']:.3f}"
    )


def _constant(value: float | None) -> str:
    if value is None:
        return "unbounded"
    return f"{value:.3f}" if value < 1e5 else f"{value:.2g}"


def _volume(union: dict[str, Any]) -> str:
    low, high = ("-inf" if v is None else f"{v:.1f}" for v in union["log10_volume"])
    return low if low == high else f"{low}..{high}"
