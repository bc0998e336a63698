"""Predicts a noisy, irregularly sampled time series one observation ahead, with and without time.

    python examples/time_series.py [--short] [--csv FILE [--time COLUMN]]

The series is the Lorenz attractor observed at random times, or the numeric columns of a CSV file
with a header, whose column --time holds the times of the rows (without it: a row per unit of time).
A CfC reads an observation and the time until the next one, and predicts that; another CfC is not
told the time. Prints the mean squared errors on the last fifth of the series, in units of its
variance, beside that of predicting the value seen last.
"""

import csv

import mlx.core as mx
import numpy as np
from common import make_parser, parse, train
from mlx_ncps import CfC

WINDOW = 32  # observations that the network reads at a time
WARM_UP = 4  # first predictions of a window, which don't count


def lorenz(observations, rng):
    """Times [N] of random distance and values [N, 3] with noise, by the Runge-Kutta method."""

    def slope(p):
        x, y, z = p
        return np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    dt, point = 0.01, np.array([1.0, 1.0, 20.0])
    steps = rng.integers(2, 20, observations)  # of dt between two observations
    path = [point]
    for _ in range(steps.sum()):
        a = slope(point)
        b = slope(point + dt / 2 * a)
        c = slope(point + dt / 2 * b)
        d = slope(point + dt * c)
        point = point + dt / 6 * (a + 2 * b + 2 * c + d)
        path.append(point)
    seen = np.cumsum(steps)
    return seen * dt, np.array(path)[seen] + 0.1 * rng.normal(size=(observations, 3))


def read_csv(path, time):
    """Times [N] and the other columns [N, F] of a CSV file; rows with a gap are left out."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name != time]
    complete = [row for row in rows if all(row[name] for name in rows[0])]
    values = np.array([[float(row[name]) for name in names] for row in complete])
    if time is None:
        return np.arange(len(values), dtype=float), values
    return np.array([float(row[time]) for row in complete]), values


def windows(times, values, stride):
    """Observations [N, W, F], the times until the next ones [N, W], the next ones [N, W, F]."""
    starts = range(0, len(values) - WINDOW, stride)
    parts = (
        (values[s : s + WINDOW], np.diff(times[s : s + WINDOW + 1]), values[s + 1 : s + WINDOW + 1])
        for s in starts
    )
    return [mx.array(np.stack(each), mx.float32) for each in zip(*parts, strict=True)]


def prepare(times, values):
    """Windows of the first four fifths, and of the rest; standardised by the former."""
    cut = len(values) * 4 // 5
    values = (values - values[:cut].mean(axis=0)) / values[:cut].std(axis=0)
    times = times / np.diff(times[:cut]).mean()
    if min(cut, len(values) - cut) <= WINDOW:
        raise SystemExit(f"the series must have more than {5 * WINDOW} rows, got {len(values)}")
    return windows(times[:cut], values[:cut], 4), windows(times[cut:], values[cut:], WINDOW)


def main(arguments=None):
    parser = make_parser(__doc__)
    parser.add_argument("--csv", help="a CSV file with a header and numbers")
    parser.add_argument("--time", help="name of the column with the times")
    parser.add_argument("--samples", type=int, help="observations of the attractor")
    args = parse(parser, arguments, epochs=60, short_epochs=20)
    rng = np.random.default_rng(args.seed)
    observations = args.samples or (2000 if args.short else 6000)
    series = read_csv(args.csv, args.time) if args.csv else lorenz(observations, rng)
    training, test = prepare(*series)
    features = training[0].shape[-1]
    print(f"{len(training[0])} windows to train, {len(test[0])} to test, {features} features")

    def error(model, x, gaps, y):
        output, _ = model(x, timespans=gaps)
        return mx.mean(mx.square(output - (y - x))[:, WARM_UP:])  # predicts the change

    x, _, y = test
    errors = {"value seen last": mx.mean(mx.square(x - y)[:, WARM_UP:]).item()}
    for name, timed in (("CfC without time", False), ("CfC with time", True)):
        model = CfC(features, 64, proj_size=features)
        loss_of = error if timed else lambda model, x, gaps, y: error(model, x, None, y)
        train(model, loss_of, training, args.epochs, 0.005, name=name)
        errors[name] = loss_of(model, *test).item()
    for name, value in errors.items():
        print(f"{name:18}  mean squared error {value:.4f}")
    return errors


if __name__ == "__main__":
    main()
