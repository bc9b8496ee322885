"""Origins: what a certificate names is opened only where it is a local path."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.report_files import certify, make_data, make_model

from boxnn_numba.data.atomic import remove
from boxnn_numba.data.model_store import load_model, save_model
from boxnn_numba.data.paths import location
from boxnn_numba.pipelines.figures.origins import Origins
from boxnn_numba.pipelines.figures.runs import Run, load_runs

#: Ways to make fsspec ask a host; %s is its address.
URLS = [
    "ftp://%s/m.zarr",
    "http://%s/m.zarr",
    "https://%s/m.zarr",
    "webhdfs://%s/m.zarr",
    "zip://m.zarr::ftp://%s/a.zip",
    "zip://m.zarr::http://%s/a.zip",
    "simplecache::http://%s/m.zarr",
    "filecache::http://%s/m.zarr",
    "blockcache::ftp://%s/m.zarr",
    "reference://::http://%s/r.json",
    "dask::http://%s/m.zarr",
]


@pytest.fixture
def listener() -> Iterator[tuple[str, list[object]]]:
    """An address on this machine, and who has called it so far."""
    callers: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, caller = server.accept()
                except OSError:  # closed
                    return
                callers.append(caller)
                connection.close()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        host, port = server.getsockname()
        yield f"{host}:{port}", callers
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a model and a certificate in one folder."""
    folder = tmp_path_factory.mktemp("made")
    data = make_data(folder / "d.zarr", name="d", n=30)
    certify(folder / "c.zarr", make_model(folder / "m.zarr", data, seed=0), data)
    return folder


def naming(run: Run, place: str) -> Run:
    return replace(run, attributes={**run.attributes, "model": place, "dataset": place})


@pytest.mark.parametrize("url", URLS)
def test_no_url_in_a_certificate_is_opened(
    url: str, made: Path, listener: tuple[str, list[object]]
) -> None:
    address, callers = listener
    run = naming(load_runs([made / "c.zarr"])[0], url % address)
    origins = Origins([replace(run, path=Path("elsewhere") / "c.zarr")])
    # Found beside the file, if it is called so.
    assert (origins.model(run) is None) == (not url.endswith("m.zarr"))
    assert Origins([run]).dataset(replace(run, path=Path("elsewhere") / "c.zarr")) is None
    assert callers == []


def test_the_last_part_of_a_url_may_lie_beside_the_file(made: Path) -> None:
    run = load_runs([made / "c.zarr"])[0]
    moved = replace(run, attributes={**run.attributes, "model": "s3://bucket/runs/m.zarr"})
    assert Origins([moved]).model(moved) is not None


def test_a_url_that_the_user_gives_is_opened(made: Path) -> None:
    kept = location("memory://origins/m.zarr")
    save_model(load_model(made / "m.zarr"), kept)
    try:
        run = replace(load_runs([made / "c.zarr"])[0], path=Path("elsewhere") / "c.zarr")
        run = naming(run, str(kept))
        assert Origins([run]).model(run) is None
        assert Origins([run], models=[kept]).model(run) is not None
    finally:
        remove(kept)


@pytest.mark.parametrize("named", [None, "", 3, ["m.zarr"], {"a": 1}])
def test_what_is_no_name_is_no_place(named: object, made: Path) -> None:
    run = load_runs([made / "c.zarr"])[0]
    odd = replace(run, attributes={**run.attributes, "model": named})
    assert Origins([odd]).model(odd) is None
