"""Compile every CUDA kernel without a GPU and print what the code is made of, as JSON.

Run as a script: the beginning of kernels' names, then compute capabilities, e.g. ``"" 7.5 9.0``.
"""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from numba.cuda import compiler, dispatcher
from numba.cuda.cudadrv.driver import _have_nvjitlink

from boxnn_numba.kernels import cuda_distances, cuda_training

_WORDS, _CODES = "uint32[:, ::1]", "uint8[:, ::1]"
_ROWS, _BOXES, _OUT = "int32[::1]", "uint32[:, :, ::1]", "int32[:, ::1]"
_PARTS, _MASTERS = "int32[:, :, ::1]", "float32[:, :, ::1]"


def kernels() -> dict[str, tuple[Any, str, bool]]:
    """Return every kernel, the types it is called with, and whether it is hot (integers only)."""
    found: dict[str, tuple[Any, str, bool]] = {}
    for penalty in ("capped", "uncapped", "grouped", "l1", "l2"):
        for listed in (True, False):
            if listed or penalty not in ("l1", "l2"):
                kernel = cuda_distances.pairwise(penalty, listed)
                types = (
                    f"{_WORDS}, {_ROWS}, int32, int32, {_BOXES}, {_ROWS}, {_ROWS}, int32, {_PARTS}"
                )
                found[f"pairwise {penalty} {listed}"] = kernel, types, True
    for penalty in ("capped", "uncapped", "grouped"):
        types = f"{_WORDS}, {_BOXES}, {_ROWS}, {_ROWS}, int32, {_OUT}"
        found[f"nearest {penalty}"] = cuda_distances.nearest(penalty), types, True
    found["combine"] = cuda_distances.combine, f"{_PARTS}, {_ROWS}, {_ROWS}, {_OUT}", True
    found["arrange"] = cuda_distances.arrange, f"{_CODES}, {_ROWS}, {_WORDS}", True
    found["add_up"] = cuda_distances.add_up, f"{_OUT}, {_OUT}", True
    found["fill"] = cuda_distances.fill, f"{_ROWS}, int32", True
    numbers = "int32, int32, int32"
    found["certify"] = cuda_distances.certify, f"{_OUT}, {numbers}, {_ROWS}, {_ROWS}", True
    found["count_radii"] = cuda_distances.count_radii, ", ".join([_ROWS] * 4), True
    bytes_, floats = _CODES, "float32[:, ::1]"
    found["box_distances bytes"] = (
        cuda_distances.box_distances, f"{bytes_}, {bytes_}, {bytes_}, int32, {_OUT}", True
    )  # fmt: skip
    found["box_distances floats"] = (
        cuda_distances.box_distances, f"{floats}, {floats}, {floats}, float32, {floats}", True
    )  # fmt: skip
    found["judge"] = (
        cuda_training.judge,
        f"{_OUT}, {_ROWS}, int32, {_ROWS}, int64[::1], int64[::1], int64, float64[::1], int32, "
        f"float64[::1], float64[::1], int64, {_ROWS}, {_OUT}, {_OUT}",
        False,
    )
    soft = f"{_ROWS}, int64[::1], int64, float64[::1]"
    found["assemble"] = cuda_training.assemble, f"{_PARTS}, {soft}, int32, {_OUT}", False
    found["spread"] = (
        cuda_training.spread,
        f"{_PARTS}, {soft}, int32, {_ROWS}, {_OUT}, {_OUT}, {_ROWS}, {_OUT}, {_OUT}",
        False,
    )
    found["settle"] = cuda_training.settle, f"{_MASTERS}, {_ROWS}, int32, {_BOXES}", True
    for relaxation in ("graded", "grouped", "l1", "l2"):
        # Moments are the same for all of them.
        for optimizer in ("sgd", "momentum", "adam") if relaxation == "graded" else ("sgd",):
            found[f"step {relaxation} {optimizer}"] = (
                cuda_training.step(relaxation, optimizer),
                f"{_WORDS}, {_ROWS}, int32, {_ROWS}, {_ROWS}, {_ROWS}, {_ROWS}, {_OUT}, {_OUT}, "
                "int32, float64, float64, "
                f"UniTuple(float64, 4), boolean, {_MASTERS}, {_MASTERS}, {_MASTERS}, {_BOXES}, "
                "float64",
                False,
            )
    return found


def rounding_risks(ptx: str) -> list[str]:
    """Return instructions on doubles that round once where the CPU rounds twice.

    Those are fused ones (harmless if they multiply by a power of two, which is exact), and sums
    of products that the assembler may still fuse, those without an explicit rounding.
    """
    risks = []
    fusible = set()
    power_of_two = re.compile(r"0d[0-9A-F]{3}0{13}")
    for line in ptx.splitlines():
        words = re.findall(r"[^\s,;]+", line)
        if not words:
            continue
        if words[0].startswith("fma") and words[0].endswith("f64"):
            if not power_of_two.fullmatch(words[3]):
                risks.append(line.strip())
        elif words[0] == "mul.f64" and not power_of_two.fullmatch(words[3]):
            fusible.add(words[1])
        elif words[0] in ("add.f64", "sub.f64") and fusible & set(words[2:]):
            risks.append(line.strip())
    return risks


def resources(ptx: str, capability: str) -> str | None:
    """Return what ptxas says of registers and spills, or why not; None without ptxas."""
    near = next(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cu*/bin/ptxas"), None)
    program = str(near) if near is not None else shutil.which("ptxas")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        architecture = f"-arch=sm_{capability.replace('.', '')}"
        words = [program, "-v", architecture, str(source), "-o", str(source.with_suffix(".bin"))]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        # Such as one of the machine that is older than the compiler that wrote the code.
        return f"ptxas failed: {done.stderr.strip().splitlines()[:1]}"
    return "; ".join(re.findall(r"Used [^\n]*|[^\n]*spill[^\n]*", done.stderr)).strip()


def reports(capabilities: list[str], names: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what the code of each kernel whose name begins so is made of."""

    class Device:
        compute_capability = (7, 5)

    # Device functions are typed for the GPU that is there; here it is a name only.
    dispatcher.get_current_device = lambda: Device
    found: dict[str, dict[str, dict[str, Any]]] = {word: {} for word in capabilities}
    for name, (kernel, types, hot) in kernels().items():
        if not name.startswith(names):
            continue
        # What `cuda.compile_ptx` does, which would type the kernel again for each capability.
        library, _ = compiler._compile_pyfunc_with_fixup(
            kernel.py_func, f"void({types})", device=False, abi="numba", lto=False, cc=(7, 5),
            launch_bounds=kernel.targetoptions.get("launch_bounds"),
        )  # fmt: skip
        for word in capabilities:
            major, minor = (int(part) for part in word.split("."))
            (ptx,) = library.get_asm_strs(cc=(major, minor))
            risks = rounding_risks(ptx)
            if not hot and word == capabilities[-1] and _have_nvjitlink():
                # What runs is optimised once more, where it is linked.
                library._lto = True
                risks += rounding_risks(library.get_lto_ptx(cc=(major, minor)))
            found[word][name] = {
                "hot": hot,
                "double": len(re.findall(r"\.f64\b", ptx)),
                "local": len(re.findall(r"\.local\b", ptx)),
                "packed": ptx.count("vabsdiff4"),
                "risks": risks,
                "ptxas": resources(ptx, word) if word == capabilities[-1] else None,
            }
    return found


if __name__ == "__main__":
    gc.disable()  # what compilers leave is looked through for a tenth of the time otherwise
    json.dump(reports(sys.argv[2:], sys.argv[1]), sys.stdout)
