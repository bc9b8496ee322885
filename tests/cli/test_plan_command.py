"""`boxnn plan`: units, what it prints and draws, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from boxnn_numba.cli.plan import bytes_per_second, seconds
from boxnn_numba.cli.plan import plan as command
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.pipelines.plan import predict as plan
from boxnn_numba.pipelines.plan.inputs import Hardware, Job, load_constants
from boxnn_numba.pipelines.plan.report import amount, duration

MEASURED = load_constants()


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1.25e9", 1.25e9), ("10Gbit/s", 1.25e9), ("100 Gbit/s", 1.25e10), ("1GB/s", 1e9),
        ("1GiB/s", 2**30), ("800Mb/s", 1e8), ("10Gbps", 1.25e9), ("5 kB/s", 5e3), ("7", 7),
        ("16bit/s", 2),
    ],
)  # fmt: skip
def test_bandwidth_is_read_with_its_unit(text: str, rate: float) -> None:
    assert bytes_per_second(text) == pytest.approx(rate)


def test_latency_is_read_with_its_unit() -> None:
    found = [seconds(t) for t in ("50us", "0.2ms", "1e-3", "1 s", "50µs")]
    assert found == pytest.approx([5e-5, 2e-4, 1e-3, 1.0, 5e-5])


def test_amounts_are_written_with_three_digits() -> None:
    assert [amount(x) for x in (5, 1234, 5.6e9, 7e15)] == ["5 B", "1.23 KB", "5.6 GB", "7e+03 TB"]
    found = [duration(x) for x in (0.0123, 5, 600, 86_400)]
    assert found == ["12.3 ms", "5 s", "10 min", "24 h"]


def test_the_command_predicts_and_draws(tmp_path: Path) -> None:
    plot = tmp_path / "plan.png"
    words = ["--boxes", "25000", "--workers", "8", "--bandwidth", "10Gbit/s", "--bandwidth",
             "100Gbit/s", "--plot", str(plot)]  # fmt: skip
    done = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
    found = json.loads(done.output)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert found["cluster"]["workers"] == 8 and found["cluster"]["bandwidth"] == 1.25e9
    expected = plan.predict(Job(boxes=25_000), Hardware(workers=8), MEASURED)
    assert found["step"]["seconds"] == pytest.approx(expected.step["seconds"])
    assert found["curve"][-1]["workers"] == 1000
    text = CliRunner().invoke(command, ["--workers", "7", "--box-shards", "7"]).output
    assert text.startswith("7 workers of 1 threads, links of 10 Gbit/s, boxes in 7 shards\n")
    assert "speed-up" in text and "1,000" in text and "takeover" not in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--workers 0", "workers is 0"),
        ("--samples -1", "samples is -1"),
        ("--boxes 5", "fewer than the 10 classes"),
        ("--width 256", "width is 256"),
        ("--validation 2", "validation is 2.0"),
        ("--box-shards -1", "--box-shards is -1"),
        ("--bandwidth fast", "bandwidth 'fast' is no rate"),
        ("--bandwidth 1.2.3", "bandwidth '1.2.3' is no rate"),
        ("--bandwidth 0", "bandwidth is 0.0"),
        ("--bandwidth GB/s", "bandwidth 'GB/s' is no rate"),
        ("--bandwidth 1e999", "bandwidth '1e999' is no rate"),
        ("--latency 3parsecs", "latency '3parsecs' is no time"),
        ("--latency ms", "latency 'ms' is no time"),
    ],
)
def test_bad_options_are_one_line(words: str, says: str) -> None:
    done = CliRunner().invoke(command, words.split())
    assert isinstance(done.exception, OptionError) and done.output == ""
    assert says in str(done.exception) and "\n" not in str(done.exception)


def test_missing_constants_are_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["--constants", str(tmp_path / "none.json")])
    assert isinstance(done.exception, DataError) and "not a readable JSON" in str(done.exception)
