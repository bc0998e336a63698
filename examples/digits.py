"""Trains a CfC and an LTC wired as a neural circuit policy on handwritten digits, read row by row.

    python examples/digits.py [--short] [--mnist FOLDER] [--output digits.png] [--seed 0]

The digits are scikit-learn's, 1797 images of 8x8 pixels, or MNIST's, 70000 of 28x28, when FOLDER
holds its four files, `train-images-idx3-ubyte` and so on, packed with gzip or not.

Prints the accuracy on images never trained on and the time of an epoch, fused and unfused, and
saves a picture. The exit code is 1 when an accuracy is below what is wanted; `--short` trains for
few epochs and only prints it. Needs mlx-ncps with the extra `examples`.
"""

import gzip
import statistics
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from common import batches, lacking, make_parser, make_step, parse
from mlx_ncps import LTC, CfC, last_backend, use_backend
from mlx_ncps.wirings import AutoNCP
from tqdm import tqdm

try:
    from digits_figure import save_figure
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ModuleNotFoundError as error:
    raise lacking(error) from None

BATCH = 32
DIGITS = 10
NOISE = 0.1  # added to the pixels in training, against overfitting


class Task(NamedTuple):
    """A network to train, and the accuracy it has to reach."""

    name: str
    build: Callable[[int], nn.Module]  # images [B, R, R] -> (logits [B, 10], state [B, H])
    epochs: int
    learning_rate: float
    wanted: float


class Result(NamedTuple):
    """What training and timing gave."""

    task: Task
    model: nn.Module
    accuracies: list[float]  # on the test images, after each epoch
    seconds: float  # of training
    fused: float  # seconds per epoch
    unfused: float


def build_cfc(row):
    """64 neurons, each connected to all, and a linear map from the last state to the logits."""
    return CfC(row, 64, proj_size=DIGITS, return_sequences=False)


def build_ltc(row):
    """48 sparsely wired neurons; the logits are a linear map of the 10 motor neurons."""
    return LTC(row, AutoNCP(48, 10), proj_size=DIGITS, return_sequences=False)


TASKS = (
    Task("CfC", build_cfc, epochs=15, learning_rate=0.004, wanted=0.95),
    Task("LTC, NCP wiring", build_ltc, epochs=50, learning_rate=0.02, wanted=0.92),
)


def load_data():
    """Training and test images [N, 8, 8] in [0, 1], training and test labels [N]."""
    digits = load_digits()
    arrays = train_test_split(
        digits.images / 16, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    x_train, x_test, y_train, y_test = map(mx.array, arrays)
    return x_train.astype(mx.float32), x_test.astype(mx.float32), y_train, y_test


def read_idx(path):
    """The array in a file of MNIST's format, `path` or `path`.gz."""
    packed = path.with_name(path.name + ".gz")
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    zeros, kind, rank = struct.unpack(">HBB", data[:4])
    if (zeros, kind) != (0, 8):
        raise SystemExit(f"{path} must be an idx file of bytes")
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load_mnist(folder):
    """As `load_data`, of MNIST: 60000 and 10000 images [N, 28, 28]."""
    arrays = []
    for kind in ("train", "t10k"):
        arrays.append(mx.array(read_idx(Path(folder) / f"{kind}-images-idx3-ubyte")) / 255.0)
        arrays.append(mx.array(read_idx(Path(folder) / f"{kind}-labels-idx1-ubyte")))
    x_train, y_train, x_test, y_test = arrays
    return x_train, x_test, y_train, y_test


def noisy_batches(x, y):
    """The training images in a new order: (noisy images [B, R, R], labels [B])."""
    for images, labels in batches((x, y), BATCH):
        yield images + NOISE * mx.random.normal(images.shape), labels


def loss_of(model, images, labels):
    logits, _ = model(images)  # [B, 10]
    return nn.losses.cross_entropy(logits, labels, reduction="mean")


def make_trainer(model, learning_rate):
    """A function that trains `model` on one batch."""
    return make_step(model, loss_of, optim.Adam(learning_rate, bias_correction=True))


def accuracy(model, x, y):
    """The share of images whose largest logit is the label's."""
    logits, _ = model(x)
    return mx.mean(logits.argmax(axis=-1) == y).item()


def train(task, epochs, data):
    """The trained model, and the accuracy on the test images after each epoch."""
    x_train, x_test, y_train, y_test = data
    row = x_train.shape[-1]  # an image is a sequence of R rows, each of R pixels
    model = task.build(row)
    print(f"\n{task.name}: {model.state_size} neurons\n  {model.explain((BATCH, row, row))}")
    decay = optim.cosine_decay(task.learning_rate, epochs * (len(x_train) // BATCH))
    step = make_trainer(model, decay)
    accuracies = []
    progress = tqdm(range(epochs), desc=task.name, unit="epoch")
    for _ in progress:
        model.train()
        for images, labels in noisy_batches(x_train, y_train):
            step(images, labels)
        model.eval()
        accuracies.append(accuracy(model, x_test, y_test))
        progress.set_postfix_str(f"test accuracy {accuracies[-1]:.1%}")
    return model, accuracies


def epoch_time(task, data, backend, limit):
    """Trains a new model on one backend for an epoch, or for `limit` seconds: (seconds per epoch,
    from the median step; what was measured).
    """
    x, _, y, _ = data
    row = x.shape[-1]
    step = make_trainer(task.build(row), task.learning_rate)
    times = []
    with use_backend(backend):
        step(x[:BATCH], y[:BATCH])
        for images, labels in noisy_batches(x, y):
            mx.eval(images, labels)
            start = time.perf_counter()
            step(images, labels)
            times.append(time.perf_counter() - start)
            if sum(times) > limit:
                break
    seconds = statistics.median(times) * (len(x) // BATCH)
    return seconds, f"{seconds:.3f} s (backend {last_backend()}, median of {len(times)} steps)"


def run(task, data, short, epochs):
    """Trains one network, then measures its epochs."""
    start = time.perf_counter()
    model, accuracies = train(task, epochs or task.epochs, data)
    seconds = time.perf_counter() - start
    limit = 1.0 if short else 5.0
    fused, how = epoch_time(task, data, "auto", limit)
    print(f"  epoch fused    {how}")
    if last_backend() == "reference":
        print("  nothing fused ran: `python -m mlx_ncps` says why")
    unfused, how = epoch_time(task, data, "reference", limit)
    print(f"  epoch unfused  {how}: fused is {unfused / fused:.1f} times faster")
    return Result(task, model, accuracies, seconds, fused, unfused)


def report(results, short):
    """Prints the accuracies; True when all are as high as wanted, or in the short mode."""
    print()
    passed = True
    for task, _, accuracies, seconds, *_ in results:
        verdict = "short training, not enforced"
        if not short:
            good = accuracies[-1] >= task.wanted
            passed = passed and good
            verdict = "reached" if good else "MISSED"
        print(
            f"{task.name}: test accuracy {accuracies[-1]:.1%} after {len(accuracies)} epochs "
            f"in {seconds:.1f} s (wanted {task.wanted:.0%}: {verdict})"
        )
    return passed


def main(arguments=None):
    parser = make_parser(__doc__)
    parser.add_argument("--mnist", help="a folder with the files of MNIST")
    parser.add_argument("--output", default="digits.png", help="where to save the picture")
    args = parse(parser, arguments, epochs=None, short_epochs=5)
    data = load_mnist(args.mnist) if args.mnist else load_data()
    print(f"{len(data[0])} training images, {len(data[1])} test images, read row by row")
    results = []
    for task in TASKS:
        mx.random.seed(args.seed)
        results.append(run(task, data, args.short, args.epochs))
    passed = report(results, args.short)
    save_figure(results, args.output)
    print(f"saved {args.output}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
