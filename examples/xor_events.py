"""Classifies irregular events: the parity of bit strings that are written as runs of equal bits.

    python examples/xor_events.py [--short] [--bits 12] [--events FILE.npz]

The event-based XOR task of the CfC paper: a string such as 0001101 becomes the events (0, 3),
(1, 2), (0, 1), (1, 1): a bit, and how long it lasts. Only who reads the time can tell whether the
number of ones is odd. Strings have 2 to --bits bits, so sequences differ in length and come with a
mask. FILE.npz may hold events of your own: `x` [N, T, F], `elapsed` and `mask` [N, T], `y` [N].
Prints the accuracies on new strings of a CfC that is told the time, of one that is not, and of
always choosing the more frequent class.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from common import accuracy, make_parser, parse, train
from mlx_ncps import CfC


def encode(bits):
    """The runs of a bit string: bits [R], their lengths [R]."""
    ends = np.flatnonzero(np.diff(bits, append=1 - bits[-1])) + 1
    return bits[ends - 1], np.diff(ends, prepend=0)


def make_events(count, longest, rng):
    """Events [N, T, 1], elapsed times [N, T], masks [N, T], parities [N] of random strings."""
    x, elapsed = np.zeros((count, longest, 1)), np.zeros((count, longest))
    mask, y = np.zeros((count, longest), bool), np.zeros(count, int)
    for n in range(count):
        bits = rng.integers(0, 2, rng.integers(2, longest + 1))
        values, lengths = encode(bits)
        x[n, : len(values), 0], elapsed[n, : len(values)] = values, lengths / longest
        mask[n, : len(values)], y[n] = True, bits.sum() % 2
    return x, elapsed, mask, y


def load_events(path):
    """The same arrays from a file."""
    with np.load(path, allow_pickle=False) as file:
        return tuple(file[name] for name in ("x", "elapsed", "mask", "y"))


def to_mlx(x, elapsed, mask, y):
    return mx.array(x, mx.float32), mx.array(elapsed, mx.float32), mx.array(mask), mx.array(y)


def main(arguments=None):
    parser = make_parser(__doc__)
    parser.add_argument("--bits", type=int, help="longest string")
    parser.add_argument("--samples", type=int, help="strings to train on")
    parser.add_argument("--events", help="a .npz file with x, elapsed, mask, y")
    args = parse(parser, arguments, epochs=60, short_epochs=20)
    rng = np.random.default_rng(args.seed)
    if args.events:
        arrays = to_mlx(*load_events(args.events))
    else:
        samples = args.samples or (4000 if args.short else 20000)
        arrays = to_mlx(*make_events(samples * 5 // 4, args.bits or (6 if args.short else 12), rng))
    cut = len(arrays[0]) * 4 // 5
    training, test = [a[:cut] for a in arrays], [a[cut:] for a in arrays]
    counts = np.bincount(training[-1])
    share = mx.mean(test[-1] == int(counts.argmax())).item()
    print(f"{cut} sequences to train, {len(test[0])} to test, at most {arrays[0].shape[1]} events")

    def logits_of(model, x, elapsed, mask):
        return model(x, timespans=elapsed, mask=mask)[0]

    def loss_of(model, x, elapsed, mask, y):
        return nn.losses.cross_entropy(logits_of(model, x, elapsed, mask), y, reduction="mean")

    accuracies = {"more frequent class": share}
    for name, timed in (("CfC without time", False), ("CfC with time", True)):
        model = CfC(arrays[0].shape[-1], 64, proj_size=len(counts), return_sequences=False)
        seen = [training, test]
        if not timed:
            seen = [(x, mx.zeros_like(elapsed), mask, y) for x, elapsed, mask, y in seen]
        train(model, loss_of, seen[0], args.epochs, 0.005, batch=128, name=name)
        accuracies[name] = accuracy(logits_of(model, *seen[1][:3]), seen[1][3])
    for name, value in accuracies.items():
        print(f"{name:20} {value:6.1%} right")
    return accuracies


if __name__ == "__main__":
    main()
