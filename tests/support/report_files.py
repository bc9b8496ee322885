"""Real data sets, models and certificates, made quickly, for the tests of the report."""

from __future__ import annotations

import numpy as np

from boxnn_numba import Boxes, BoxNN, Grid, certified_radius
from boxnn_numba.data.certificate_store import CertificateFile
from boxnn_numba.data.dataset import open_dataset, write_dataset
from boxnn_numba.data.model_store import model_digest, save_model
from boxnn_numba.data.row_files import RowWriter, write_chunk

N_CLASSES = 3


def make_data(path, name, shape=(6, 5), n=300, seed=0, real=False, classes=(0, 1, 2)):
    """Write a data set of three noisy clusters with `n` rows in either split."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (N_CLASSES, *shape))

    def split():
        y = rng.integers(0, N_CLASSES, n)
        x = centres[y] + rng.normal(0, 90, (n, *shape))
        x = x.astype(np.float32) if real else np.clip(x, 0, 255).astype(np.uint8)
        return x, y.astype(np.int32)

    write_dataset(path, name=name, classes=list(classes), train=split(), test=split())
    return open_dataset(path)


def make_model(path, data, seed, n_boxes=30, width=64, group_size=1):
    """Save a model of boxes around training samples; return its path and the model."""
    x, y = data.read("train")
    grid = None if data.is_codes else Grid.fit(x)
    rows = np.random.default_rng(seed).choice(len(x), n_boxes, replace=False)
    codes = (x if grid is None else grid.encode(x))[rows].astype(int)
    lower, upper = (np.clip(codes + edge, 0, 255).astype(np.uint8) for edge in (-25, 25))
    boxes = Boxes(lower, upper, y[rows], width, N_CLASSES)
    training = {"preset": "graded", "options": {"lr": 1.5, "boxes": n_boxes}, "history": [{"a": 1}]}
    model = BoxNN(boxes, data.classes, grid, data.feature_shape, group_size, training)
    save_model(model, path)
    return path, model


def certify(path, made, data, split="test", labelled=True):
    """Write the certificate of a model from `make_model` on one split of a data set."""
    model_path, model = made
    x, y = data.read(split)
    distance = model.class_distance(x)
    prediction, radius = certified_radius(distance, model.boxes.width, model.group_size)
    attributes = {
        "method": "Box-NN",
        "model": model_path.name,
        "model_digest": model_digest(model),
        "dataset": data.path.name,
        "dataset_name": data.name,
        "dataset_digest": data.digest,
        "split": split,
        "width": model.boxes.width,
        "group_size": model.group_size,
        "classes": list(model.classes),
        "feature_shape": list(model.feature_shape),
        "training": model.training,
    }
    writer = RowWriter(path, CertificateFile, attributes, len(x), len(x))
    label = y if labelled else np.full_like(y, -1)
    columns = {"prediction": prediction, "radius": radius, "label": label}
    write_chunk(path, 0, len(x), {**columns, "class_distance": distance})
    writer.finish(seconds=0.5)
