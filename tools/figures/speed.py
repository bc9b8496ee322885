"""Blocks on speed: what `bench.py`, `cluster_speed.py` and `boxnn plan` say."""

from __future__ import annotations

from kept import Kept
from layout import table


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
    runs = kept.result("cluster-2-cores")["training"]
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
