"""Report of a plan: as text, and its curves as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.paths import Name
from boxnn_numba.pipelines.figures.curves import new_figure, save
from boxnn_numba.pipelines.plan import predict as plan
from boxnn_numba.pipelines.plan.inputs import Constants, Hardware, Job

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Curves of a figure: title, job, and clusters that differ in bandwidth or shards.
Case = tuple[str, Job, Sequence[Hardware]]

_COLOURS = ("#0b5fd0", "#d97000", "#0a7f42", "#b0178a")
_GUIDE = "#c9ccd1"
_PARTS = {
    "workers: distances": (plan.GROUPS["workers"], "#0b5fd0"),
    "network": (plan.GROUPS["network"], "#d97000"),
    "Dask": (plan.GROUPS["Dask"], "#8a8f98"),
    "client: gradient": (("rows gathered", "gradient"), "#0a7f42"),
}
_NAMES = {
    "workers": "the workers' distances",
    "network": "the network",
    "Dask": "Dask's overhead",
    "client": "the client's gradient",
}


def amount(size: float) -> str:
    """Return a number of bytes in words."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.3g} {unit}"
        size /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Return a time in words."""
    for limit, factor, unit in ((1, 1e3, "ms"), (120, 1, "s"), (7200, 1 / 60, "min")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 3600:,.3g} h"


def plan_text(result: plan.Plan) -> str:
    """Return a plan as lines."""
    step, epoch, cluster = result.step, result.epoch, result.cluster
    proof, memory = result.certification, result.memory
    parts = ", ".join(f"{name} {100 * part:.0f}%" for name, part in step["shares"].items())
    lines = [
        f"{cluster.workers} workers of {cluster.threads} threads, links of "
        f"{8e-9 * cluster.bandwidth:.3g} Gbit/s"
        + (f", boxes in {cluster.box_shards} shards" if cluster.box_shards else ""),
        f"step        {duration(step['seconds'])} ({parts}); most is {_NAMES[step['bottleneck']]}",
        f"            one process with a worker's threads takes {duration(step['local_seconds'])}: "
        f"speed-up {result.speedup:.2f}, efficiency {100 * result.efficiency:.0f}%",
        f"epoch       {duration(epoch['seconds'])}, {epoch['steps']} steps; "
        f"{duration(epoch['validation_seconds'])} of it validation on the client",
        f"bytes       {amount(step['bytes'])} a step ({amount(step['client_sends'])} leave the "
        f"client), {amount(epoch['bytes'])} an epoch",
        f"start       {duration(result.start['seconds'])} more, once: all boxes to every worker, "
        f"{amount(result.start['bytes'])}",
        f"certify     {duration(proof['seconds'])} for all samples in {proof['chunks']:,} chunks; "
        f"most is {proof['bottleneck']}",
        f"memory      {amount(memory['worker'])} a worker "
        f"({amount(memory['certification worker'])} to certify), "
        f"{amount(memory['client'])} the client",
        "",
        "workers     step        speed-up  efficiency  most of it",
    ]
    lines += [
        f"{p['workers']:>7,}     {duration(p['seconds']):<10}  {p['speedup']:>8.2f}  "
        f"{100 * p['efficiency']:>9.1f}%  {_NAMES[p['bottleneck']]}"
        for p in result.curve
    ]
    best = max(result.curve, key=lambda p: p["speedup"])
    takeover = result.takeover
    lines.append(
        f"fastest with {best['workers']:,} workers; "
        + (
            f"from {takeover:,} on, network and Dask take longer than computing"
            if takeover
            else "computing always takes longer than network and Dask"
        )
    )
    return "\n".join(lines)


def draw_plan(
    cases: Sequence[Case], constants: Constants, path: Name, *, overwrite: bool = False
) -> None:
    """Draw curves to 1,000 workers as a PNG file.

    A column per case: the speed-up of a step over one process with a worker's threads, and what a
    step is made of on the fastest cluster.
    """
    figure = new_figure(5.4 * len(cases) + 0.4, 7.2)
    rows = figure.subplots(2, len(cases), squeeze=False, sharex=True)
    for column, (title, job, clusters) in enumerate(cases):
        curves = [plan.curve(job, cluster, constants) for cluster in clusters]
        _draw_speedups(rows[0][column], clusters, curves)
        rows[0][column].set_title(title, fontsize=9.5)
        best = min(range(len(curves)), key=lambda i: min(p["seconds"] for p in curves[i]))
        _draw_parts(rows[1][column], curves[best], _label(clusters[best]))
    machine = constants.source.get("machine", {}).get("cpu", "constants of a file")
    counts = {cluster.threads for _, _, clusters in cases for cluster in clusters}
    threads = "one thread" if counts == {1} else f"{'/'.join(map(str, sorted(counts)))} threads"
    figure.suptitle(
        "One training step, predicted; constants measured on one core and the loopback of\n"
        f"{machine}; workers of {threads}, each with a link of its own",
        fontsize=9.5,
    )
    with staged_output(path, overwrite=overwrite, directory=False) as partial:
        save(figure, partial)


def _label(cluster: Hardware) -> str:
    shards = ", boxes split" if cluster.box_shards else ""
    return f"{8e-9 * cluster.bandwidth:.3g} Gbit/s{shards}"


def _axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, 1000)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.grid(True, color=_GUIDE, linewidth=0.5)


def _draw_speedups(
    axes: Axes, clusters: Sequence[Hardware], curves: Sequence[list[dict[str, Any]]]
) -> None:
    _axis(axes)
    axes.plot([1, 1000], [1, 1000], color=_GUIDE, linewidth=1.2, linestyle="--", label="ideal")
    for cluster, points, colour in zip(clusters, curves, _COLOURS, strict=False):
        workers = [p["workers"] for p in points]
        speedups = [p["speedup"] for p in points]
        axes.plot(workers, speedups, color=colour, linewidth=1.6, label=_label(cluster),
                  linestyle="--" if cluster.box_shards else "-")  # fmt: skip
        first = plan.takeover(points)
        if first is not None:
            at = workers.index(first)
            axes.plot(first, speedups[at], marker="o", color=colour, markersize=6)
    axes.plot(
        [], [], "o", color="#8a8f98", label="from here network and Dask take longer than computing"
    )
    top = max(p["speedup"] for points in curves for p in points)
    low = min(p["speedup"] for points in curves for p in points)
    axes.set_ylim(min(0.5, low / 1.5), 6 * top)
    axes.set_ylabel("speed-up of a step")
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")


def _draw_parts(axes: Axes, points: list[dict[str, Any]], label: str) -> None:
    _axis(axes)
    workers = [p["workers"] for p in points]
    for name, (phases, colour) in _PARTS.items():
        seconds = [sum(p["phases"][phase] for phase in phases) for p in points]
        axes.plot(workers, seconds, color=colour, linewidth=1.4, label=name)
    total = [p["seconds"] for p in points]
    axes.plot(workers, total, color="#1f2430", linewidth=2, label="step")
    axes.set_ylim(min(total) / 300, 8 * max(total))
    axes.set_xlabel("workers")
    axes.set_ylabel(f"seconds of a step, {label}")
    axes.legend(fontsize=7.5, frameon=False, loc="upper right", ncols=2)
