"""Arrays for workers on this machine: messages say where they lie in memory that all can map.

Messages between the processes of a run are encrypted and read 16 KB at a time. That is a quarter of
what a training step waits for besides its kernels, so arrays do not go in messages. The memory has
no name. Access to it is by this process's descriptor, for its user alone, and it is gone with the
process. It is written anew for every round of calls, and begins with the number of the round. So a
worker that was stopped for a while notices that it comes too late.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import mmap
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from boxnn_numba.backends.box_layout import round_up

if TYPE_CHECKING:
    from distributed import Client

#: Smaller arrays go with the message, and so do larger ones, since the memory is kept.
_LEAST_BYTES, _MOST_BYTES = 2**12, 2**26
#: Arrays begin at multiples of this; before the first of them is the number of the round.
_ALIGNED = 64
_HEAD = "<i8"


class TooLateError(OSError):
    """A later round has overwritten the arrays that were to be read."""


@dataclass(frozen=True)
class SharedArray:
    """Where an array lies, and the number of its round.

    `name` tells apart memories that were at one path one after the other.
    """

    path: str
    name: str
    turn: int
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Return a copy (runs on a worker)."""
        room = _mapped(self.path, self.name)
        count = int(np.prod(self.shape, dtype=np.int64))
        found = np.frombuffer(room, self.dtype, count, self.offset).reshape(self.shape).copy()
        # Looked at after the copy: a round that began before it ended has changed the number.
        if int(np.frombuffer(room, _HEAD, 1)[0]) != self.turn:
            raise TooLateError("this worker comes too late for a round of calls")
        return found


@functools.lru_cache(maxsize=2)
def _mapped(path: str, name: str) -> mmap.mmap:
    with Path(path).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def unpacked(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return values with the arrays that some of them stand for (runs on a worker)."""
    return tuple(value.read() if isinstance(value, SharedArray) else value for value in values)


class SharedRoom:
    """The client's end of the memory."""

    def __init__(self) -> None:
        self._turn = 0
        self._descriptor: int | None = None
        self._name, self._path = "", ""
        self._room = np.empty(0, np.uint8)

    @classmethod
    def for_workers(cls, client: Client) -> SharedRoom | None:
        """Return one if there is such memory, and all workers can read it."""
        if sys.platform != "linux":
            return None
        room, sent = cls(), np.arange(_LEAST_BYTES, dtype=np.uint8)
        with contextlib.suppress(OSError):
            ((told,),) = room.round([(sent,)])
            read = client.run(told.read, on_error="return").values()
            if all(isinstance(got, np.ndarray) and np.array_equal(got, sent) for got in read):
                return room
        room.close()
        return None

    def round(self, calls: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Begin a round; return the arguments of its calls with arrays replaced.

        What several calls have in common is written once.
        """
        arrays = {id(value): value for value in _arrays(calls)}
        sizes = [round_up(value.nbytes, _ALIGNED) for value in arrays.values()]
        *places, needed = itertools.accumulate(sizes, initial=_ALIGNED)
        if needed > len(self._room):
            self._grow(2 * needed)
        self._turn += 1
        self._room[: np.dtype(_HEAD).itemsize].view(_HEAD)[0] = self._turn
        packed = {
            key: self._pack(value, first)
            for first, (key, value) in zip(places, arrays.items(), strict=True)
        }
        return [tuple(packed.get(id(value), value) for value in call) for call in calls]

    def _pack(self, value: np.ndarray, first: int) -> SharedArray:
        place = self._room[first : first + value.nbytes].view(value.dtype)
        place.reshape(value.shape)[...] = value
        return SharedArray(self._path, self._name, self._turn, first, value.dtype.str, value.shape)

    def _grow(self, size: int) -> None:
        self.close()
        assert sys.platform == "linux"
        self._descriptor, self._name = os.memfd_create("boxnn"), uuid4().hex
        os.ftruncate(self._descriptor, size)
        self._path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self._room = np.frombuffer(mmap.mmap(self._descriptor, size), np.uint8)

    def close(self) -> None:
        """Give the memory up; a worker that still reads keeps its mapping."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._room = np.empty(0, np.uint8)


def _arrays(calls: Sequence[tuple[Any, ...]]) -> Iterator[np.ndarray]:
    for call in calls:
        for value in call:
            if isinstance(value, np.ndarray) and _LEAST_BYTES <= value.nbytes <= _MOST_BYTES:
                yield value
