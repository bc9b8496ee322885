"""Greedy attack: a white-box search for the smallest adversarial change of each input."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.adversary import groups_changed
from boxnn_numba.attacks.domain import Domain, Limit, writable_of
from boxnn_numba.attacks.result import AttackResult
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.boxes import Boxes
from boxnn_numba.classifier import Classifier, group_count, need_two_classes, patch_image
from boxnn_numba.distances import pairwise_distance, part_distance
from boxnn_numba.kernels.attack import greedy_attacks
from boxnn_numba.kernels.attack_moves import LANES, VALUES
from boxnn_numba.kernels.attack_state import FAR, Task, View, Work
from boxnn_numba.kernels.patch_attack import patch_attacks
from boxnn_numba.rivals import rival_tuples

#: Inputs that a thread takes at a time.
_BLOCK_ROWS = 16


def greedy_attack(
    model: Classifier,
    x: ArrayLike,
    *,
    max_features: int | None = None,
    domain: tuple[Limit, Limit] | None = None,
    features: ArrayLike | None = None,
    attackable: Any = None,
    rivals: int = 16,
    own: int = 16,
    tries: int = 32,
    seed: int = 0,
    threads: int | None = None,
    patch: Any = None,
) -> AttackResult:
    """Change the prediction of each input by rewriting as few features as possible (white box).

    Rival boxes are tried in order of margin. Each step rewrites the feature (or group), and with
    the code, that brings a rival box closest in comparison with the nearest boxes of the predicted
    class. Changes that turn out not to be needed are undone. Then a random search replaces several
    changes by fewer, until the certificate shows that no attack is smaller.

    Parameters
    ----------
    model
        The classifier.
    x
        Samples, as for `BoxNN.encode`.
    max_features
        Most features (or groups) to change; any number by default.
    domain
        (low, high) codes that may be written, numbers or (n,) arrays; 0..255 by default. With a
        grid, only codes that it can produce are written. Each may also be a mapping from names of
        columns to raw values, such as ``({"amount": 0}, {"amount": 100})``.
    features
        (n,) bool, features that may change; all by default.
    attackable
        The only columns (or groups) that may change, by name or number; all by default.
    rivals, own
        Number of rival boxes to try, and of boxes of the predicted class to compare them with.
    tries
        Rounds of the random search; with a patch, the places that are tried for each rival.
    seed
        Seed of the random search. The result does not depend on the number of threads or on which
        other inputs are attacked in the same call.
    threads
        Threads to use; all cores by default.
    patch
        Size of a block: only pixels of one block, anywhere in the image, are rewritten, as many of
        them as needed. The side of a square, (rows, columns), or text such as ``"3x7"``, for a
        model of images as for `patch_certified`. The blocks with the largest sums of gains against
        the nearest own box are tried.

    Returns
    -------
    AttackResult
        Unpacks as ``x_adv, changed, prediction``; predictions are labels of the model. With a
        grid, changed features are raw values that have the new codes.

    Raises
    ------
    InputError
        As for `BoxNN.encode`, or the model has boxes of one class only.
    OptionError
        An option is out of range.

    Examples
    --------
    >>> from boxnn_numba import Boxes, BoxNN
    >>> from boxnn_numba.attacks import greedy_attack
    >>> model = BoxNN(Boxes([[0] * 5, [200] * 5], [[50] * 5, [255] * 5], [0, 1], 100), ["a", "b"])
    >>> greedy_attack(model, [[25] * 5])
    AttackResult(x_adv=array([[200, 200, 200,  25,  25]], dtype=uint8), changed=array([3], \
dtype=int32), prediction=array(['b'], dtype='<U1'))
    """
    limit = group_count(model)
    if max_features is not None:
        limit = min(limit, validation.integer("max_features", max_features, 0))
    rivals, own = validation.positive("rivals", rivals), validation.integer("own", own, 1, 32)
    tries, seed = validation.integer("tries", tries, 0), validation.integer("seed", seed, 0)
    raw = model.rows(x)
    codes = model.encode(raw)
    need_two_classes(model)
    size = None if patch is None else validation.one_patch("patch", patch)
    image = None if size is None else patch_image(model, [size])
    writable = writable_of(model, domain, features, attackable, raw.dtype)
    task = _task(model, writable, tries, limit, by_patch=size is not None)
    found = np.empty_like(codes)
    changed = np.empty(len(codes), np.int32)

    def work(first: int, last: int) -> None:
        scratch = _scratch(task, own)
        for start in range(first, last, _BLOCK_ROWS):
            rows = slice(start, min(last, start + _BLOCK_ROWS))
            # The kernels are compiled for each kind of array: theirs are writable, row by row.
            block = np.array(codes[rows], order="C")
            with limit_threads(1):
                distance = [_distances(block, boxes) for boxes in model.box_sets]
            predicted, order = rival_tuples(distance, model, rivals)
            known = task, *scratch, block, _joined(distance), predicted, np.ascontiguousarray(order)
            if size is None or image is None:
                greedy_attacks(*known, _seeds(block, seed), found[rows], changed[rows])
            else:
                pixel = _pixels(task, image)
                patch_attacks(*known, pixel, (*size, *image[:2]), found[rows], changed[rows])

    get_backend("cpu", threads).parallel(len(codes), _BLOCK_ROWS, work)
    if size is not None:
        changed = np.where(changed < 0, -1, groups_changed(codes, found, model.groups))
        changed = np.where(changed <= limit, changed, -1).astype(np.int32)
        found = np.where(changed[:, None] < 0, codes, found)
    x_adv = writable.decode(raw, codes, found)
    with limit_threads(threads):
        return AttackResult(x_adv, changed, model.predict(x_adv))


def _distances(x: np.ndarray, boxes: Boxes) -> np.ndarray:
    """Return the distances (N, P, M) to rows in the parts of `Structure.simplest`."""
    if boxes.structure.is_plain:
        return pairwise_distance(x, boxes)[:, None]
    return part_distance(x, boxes)


def _joined(distances: Sequence[np.ndarray]) -> np.ndarray:
    """Join the distances to the rows of several sets, of which some may have fewer parts."""
    parts = max(distance.shape[1] for distance in distances)
    fill = [np.pad(d, ((0, 0), (0, parts - d.shape[1]), (0, 0))) for d in distances]
    return np.concatenate(fill, axis=2) if len(fill) > 1 else fill[0]


def _pixels(task: Task, image: tuple[int, int, int]) -> np.ndarray:
    """Return (G, 2) int64, row and column of the pixel of each group."""
    assert task.starts is not None
    pixel = task.members[task.starts[:-1]] // image[2]
    return np.stack((pixel // image[1], pixel % image[1]), axis=1)


def _task(model: Classifier, domain: Domain, tries: int, limit: int, by_patch: bool) -> Task:
    sets = model.box_sets
    # A block takes all codes of a pixel, those of the first version's groups one by one.
    groups, reach = model.groups, model.reach // len(sets)
    if by_patch:
        groups, reach = model.boxes.group, model.boxes.width
    structures = [boxes.structure.simplest for boxes in sets]
    lower, upper = (
        np.concatenate([getattr(boxes, side) for boxes in sets]) for side in ("lower", "upper")
    )
    first_row = np.cumsum([0, *map(len, sets)])
    first_template = np.cumsum([0, *(len(one.rows) - 1 for one in structures)])
    rows = np.concatenate(
        [start + one.rows[:-1] for start, one in zip(first_row, structures, strict=False)]
        + [first_row[-1:]]
    )
    members = np.argsort(groups, kind="stable")
    task = Task(
        lower, upper, np.ascontiguousarray(lower.T), np.ascontiguousarray(upper.T),
        labels=np.concatenate([boxes.labels for boxes in sets]),
        template=np.repeat(np.arange(len(rows) - 1, dtype=np.int32), np.diff(rows)),
        sets=first_row, rows=rows,
        classes=np.array(
            [start + one.templates for start, one in zip(first_template, structures, strict=False)]
        ),
        part=np.array([one.part for one in structures]),
        members=members,
        starts=np.searchsorted(groups[members], np.arange(groups.max() + 2)),
        offset=model.offset, up=domain.up(), down=domain.down(), free=domain.free,
        width=model.boxes.width, cap=reach,
        tries=tries, limit=limit,
    )  # fmt: skip
    return task if by_patch else _simplest(task)  # one kernel for all blocks of pixels


def _simplest(task: Task) -> Task:
    """Leave out groups of one feature each and templates of one row each: the kernel is smaller."""
    if task.starts is not None and len(task.starts) > len(task.members):
        task = task._replace(starts=None)
    return task if task.part.any() else task._replace(template=None)


def _scratch(task: Task, own: int) -> tuple[Work, View]:
    m, n = task.lower.shape
    groups = n if task.starts is None else len(task.starts) - 1
    sets = len(task.part)
    parts, templates, whole = int(task.part.max()) + 1, len(task.rows) - 1, task.template is None
    codes = VALUES * sets
    distance = np.empty((parts, m), np.int32)
    work = Work(
        start=np.empty(n, np.int32),
        code=np.empty(n, np.int32),
        best=np.empty(n, np.int32),
        pick=np.empty(n, np.int32),
        chosen=np.empty(n, np.int32),
        distance=distance,
        least=distance if whole else np.empty((parts, templates), np.int32),
        total=distance[0] if whole else np.empty(templates, np.int32),
        dirty=np.zeros(parts, np.bool_),
        changed=np.empty(groups, np.bool_),
        banned=np.empty(groups, np.bool_),
        rival=np.empty((sets, parts), np.int64),
        key=distance[0] if whole else np.empty(m, np.int32),
        sums=np.empty((2, m), np.int32),
        random=np.empty(1, np.uint64),
    )
    lanes = (-(-own // LANES), LANES)
    view = View(
        near=np.empty((sets, parts, own), np.int64),
        running=np.full((sets, parts, *lanes), FAR, np.int32),
        first=np.empty((sets, parts), np.int64),
        base=np.empty((sets, parts), np.int64),
        aim=np.empty(sets, np.int32),
        stale=np.zeros(parts, np.bool_),
        low=np.zeros(lanes, np.int32),
        high=np.full(lanes, 255, np.int32),
        held=np.empty(lanes, np.int32),
        here=np.empty((sets, *lanes), np.int32),
        trial=np.empty((sets, *lanes), np.int32),
        load=np.empty((sets, own + 1), np.int32),
        listed=np.empty(n, np.int64),
        reach=np.empty(n, np.int32),
        ends=np.zeros((codes, n), np.int32),
        prices=np.full((codes, n), FAR, np.int32),
        rises=np.empty((codes, n), np.int32),
        most=np.zeros(1, np.int64),
        own_low=np.empty(n, np.int32),
        own_high=np.empty(n, np.int32),
        known=np.zeros(n, np.bool_),
        values=np.empty((n, codes), np.int32),
        counts=np.empty(n, np.int64),
        costs=np.empty((n, codes, sets + 1), np.int32),
        gains=np.empty((n, codes, sets, *lanes), np.int16),
        before=np.empty((n, sets, own + 1), np.int32),
    )
    return work, view


def _seeds(codes: np.ndarray, seed: int) -> np.ndarray:
    """Return a number for each row that depends on nothing but the row and the seed."""
    numbers = [(zlib.crc32(row.tobytes(), seed & 0xFFFFFFFF) << 20) | 1 for row in codes]
    return np.array(numbers, np.uint64)
