"""How a job runs is checked, or has an effect, in every pipeline that takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from boxnn_numba import Boxes, BoxNN, pipelines, save_model
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.errors import OptionError
from boxnn_numba.pipelines.running import RunOptions

ON_CPU: dict[str, Callable[[RunOptions], Any]] = {
    "explain": lambda run: pipelines.explain("m.zarr", "x.npy", run=run),
    "verify": lambda run: pipelines.verify("c.zarr", "m.zarr", "d.zarr", run=run),
    "localize": lambda run: pipelines.localize("c.zarr", "m.zarr", run=run),
    "attack": lambda run: pipelines.attack("m.zarr", "d.zarr", "a.zarr", run=run),
}
ALL = ON_CPU | {
    "predict": lambda run: pipelines.predict("m.zarr", "x.npy", "p.csv", run=run),
    "certify": lambda run: pipelines.certify("m.zarr", "d.zarr", "n.zarr", run=run),
}


@pytest.fixture
def files(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of two boxes, a data set, an array and a certificate, in the working folder."""
    monkeypatch.chdir(tmp_path)
    boxes = Boxes([[0] * 4, [200] * 4], [[90] * 4, [255] * 4], [0, 1], 100)
    save_model(BoxNN(boxes, ["dark", "bright"]), "m.zarr")
    x = np.array([[20] * 4, [230] * 4] * 3, np.uint8)
    rows = x, np.array([0, 1] * 3)
    write_dataset("d.zarr", name="d", classes=["dark", "bright"], train=rows, test=rows)
    np.save("x.npy", x)
    pipelines.certify("m.zarr", "d.zarr", "c.zarr", certificate="margin")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.usefixtures("files")
def test_threads_are_checked_and_kept_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"threads is -5; it must be a whole number"):
        ALL[name](RunOptions(threads=-5))
    seen, parallel = set(), CpuBackend.parallel

    def spy(self: CpuBackend, *given: Any, **more: Any) -> Any:
        seen.add(self.threads)
        return parallel(self, *given, **more)

    monkeypatch.setattr(CpuBackend, "parallel", spy)
    ALL[name](RunOptions(threads=1))
    assert seen <= {1}


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.usefixtures("files")
def test_what_runs_on_the_cpu_only_says_so(name: str) -> None:
    with pytest.raises(OptionError, match=r"^device is 'cuda'; .* run on the CPU, leave out"):
        ON_CPU[name](RunOptions(device="cuda"))
