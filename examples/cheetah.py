"""Predicts the next state of a simulated body (the half-cheetah task of the LTC and CfC papers).

    python examples/cheetah.py [--short] [--traces FOLDER]

FOLDER holds `.npy` traces [T, F], one per run of the body, such as the half-cheetah's with F = 17
joint angles and velocities; two fifths of them train, a fifth chooses the epoch, the rest tests.
Without it, traces are made of a chain of five damped masses on stiffening springs, pushed at its
end. An LTC and a CfC of 32 neurons read windows of 32 steps and predict the next step at each.
Prints the mean squared errors of the tests beside that of predicting that nothing moves.
"""

from pathlib import Path

import mlx.core as mx
import numpy as np
from common import make_parser, parse, train
from mlx_ncps import LTC, CfC

WINDOW = 32  # steps that the network reads at a time
STRIDE = 10  # steps between the starts of two windows
UNITS = 32


def load_traces(folder):
    """The traces [T, F] of a folder, in the order of their names."""
    files = sorted(Path(folder).glob("*.npy"))
    if len(files) < 5:
        raise SystemExit(f"{folder} must hold at least 5 .npy files, has {len(files)}")
    return [np.load(file, allow_pickle=False) for file in files]


def simulate(steps, rng, masses=5, dt=0.1):
    """A trace [T, 2 masses] of positions and velocities, by the semi-implicit Euler method."""
    position, velocity = rng.normal(size=(2, masses))
    pushes = rng.uniform(0.1, 0.4, 3), rng.uniform(0, 6, 3)  # frequencies and phases of the drive
    trace = []
    for step in range(steps):
        stretch = np.diff(position, prepend=0.0)
        pull = 2 * stretch + 0.5 * stretch**3
        force = np.append(pull[1:], 0.0) - pull - 0.1 * velocity
        force[-1] += np.sin(2 * np.pi * pushes[0] * step * dt + pushes[1]).sum()
        velocity = velocity + dt * force
        position = position + dt * velocity
        trace.append(np.concatenate([position, velocity]))
    return np.array(trace)


def windows(traces):
    """States [N, W, F] and the states one step later [N, W, F]."""
    pairs = [
        (trace[start : start + WINDOW], trace[start + 1 : start + WINDOW + 1])
        for trace in traces
        for start in range(0, len(trace) - WINDOW, STRIDE)
    ]
    return [mx.array(np.stack(each), mx.float32) for each in zip(*pairs, strict=True)]


def split(traces):
    """Windows for training, validation and test, standardised by those for training."""
    fifth = len(traces) // 5
    validation, test, training = traces[:fifth], traces[fifth : -2 * fifth], traces[-2 * fifth :]
    rows = np.concatenate(training)
    mean, deviation = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    return [
        windows([(trace - mean) / deviation for trace in part])
        for part in (training, validation, test)
    ]


def error(model, x, y):
    """Mean squared error of the predicted change."""
    return mx.mean(mx.square(model(x)[0] - (y - x)))


def main(arguments=None):
    parser = make_parser(__doc__)
    parser.add_argument("--traces", help="folder of .npy traces [T, F]")
    parser.add_argument("--samples", type=int, help="simulated traces")
    args = parse(parser, arguments, epochs=60, short_epochs=10)
    rng = np.random.default_rng(args.seed)
    count = args.samples or (10 if args.short else 25)
    traces = load_traces(args.traces) if args.traces else [simulate(500, rng) for _ in range(count)]
    training, validation, test = split(traces)
    features = training[0].shape[-1]
    print(f"{len(training[0])} windows to train, {len(test[0])} to test, {features} features")

    def validate(model):
        return error(model, *validation).item()

    errors = {"nothing moves": mx.mean(mx.square(test[0] - test[1])).item()}
    for kind, rate in ((LTC, 0.02), (CfC, 0.005)):
        model = kind(features, UNITS, proj_size=features)
        name = kind.__name__
        train(model, error, training, args.epochs, rate, 16, name, validate)
        errors[name] = error(model, *test).item()
    for name, value in errors.items():
        print(f"{name:14} mean squared error of the tests {value:.4f}")
    return errors


if __name__ == "__main__":
    main()
