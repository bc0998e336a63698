"""Classifies short films with a stack of a convolution over each frame and a CfC over the frames.

    python examples/video.py [--short] [--films FILE.npz]

A film shows a bright spot that moves in one of eight directions, in noise, with frames dropped at
random; a single frame tells little of the direction. FILE.npz may hold films of your own: `x`
[N, T, height, width], `elapsed` [N, T] (the time since the frame before), `y` [N]. The convolution
sees all frames of a batch as images [B T, height, width, 1]; the CfC reads what it makes of each.
Prints the accuracy on new films, that of the same network on one frame, and that of guessing.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from common import accuracy, make_parser, parse, train
from mlx_ncps import CfC

SIZE, FRAMES, DIRECTIONS = 12, 8, 8


class FilmClassifier(nn.Module):
    """A convolution over each frame, then a CfC over the frames."""

    def __init__(self, height, width, classes):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        features = 16 * -(-height // 4) * -(-width // 4)
        self.map = nn.Linear(features, 32)
        self.rnn = CfC(32, 48, proj_size=classes, return_sequences=False)

    def __call__(self, x, elapsed):
        """Films [B, T, height, width] and time spans [B, T] -> logits [B, classes]."""
        B, T = x.shape[:2]
        z = x.reshape(B * T, *x.shape[2:], 1)
        z = nn.relu(self.second(nn.relu(self.first(z))))
        z = self.map(z.reshape(B, T, -1))
        return self.rnn(z, timespans=elapsed)[0]


def make_films(count, rng):
    """Films [N, T, S, S], the times between frames [N, T], directions [N]."""
    y = rng.integers(0, DIRECTIONS, count)
    angle = 2 * np.pi * y / DIRECTIONS
    elapsed = rng.integers(1, 3, (count, FRAMES))  # 2: a frame was dropped
    time = np.cumsum(elapsed, axis=1) - elapsed[:, :1]
    way = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    middle = SIZE / 2 + rng.uniform(-3, 3, (count, 1, 2))
    path = middle + 0.6 * (time - time[:, -1:] / 2)[..., None] * way[:, None]  # [N, T, 2]
    away = np.arange(SIZE) - path[..., None]  # [N, T, 2, S]
    shape = np.exp(-0.5 * away**2)
    films = shape[..., 0, :, None] * shape[..., 1, None, :]
    return films + 0.1 * rng.normal(size=films.shape), elapsed, y


def load_films(path):
    """The same arrays from a file."""
    with np.load(path, allow_pickle=False) as file:
        return tuple(file[name] for name in ("x", "elapsed", "y"))


def main(arguments=None):
    parser = make_parser(__doc__)
    parser.add_argument("--films", help="a .npz file with x, elapsed, y")
    parser.add_argument("--samples", type=int, help="films to train on")
    args = parse(parser, arguments, epochs=30, short_epochs=10)
    rng = np.random.default_rng(args.seed)
    samples = args.samples or (800 if args.short else 3000)
    x, elapsed, y = load_films(args.films) if args.films else make_films(samples * 5 // 4, rng)
    classes = int(y.max()) + 1
    arrays = mx.array(x, mx.float32), mx.array(elapsed, mx.float32), mx.array(y)
    cut = len(x) * 4 // 5
    training, test = [a[:cut] for a in arrays], [a[cut:] for a in arrays]
    print(f"{cut} films of {x.shape[1]} frames to train, {len(test[0])} to test")

    def loss_of(model, x, elapsed, y):
        return nn.losses.cross_entropy(model(x, elapsed), y, reduction="mean")

    accuracies = {"guessing": 1 / classes}
    for name, frames in (("one frame", 1), ("all frames", x.shape[1])):
        parts = [[a[:, -frames:] for a in part[:2]] + part[2:] for part in (training, test)]
        model = FilmClassifier(*x.shape[2:], classes)
        train(model, loss_of, parts[0], args.epochs, 0.004, name=name)
        accuracies[name] = accuracy(model(*parts[1][:2]), parts[1][2])
    for name, value in accuracies.items():
        print(f"{name:11} {value:6.1%} right")
    return accuracies


if __name__ == "__main__":
    main()
