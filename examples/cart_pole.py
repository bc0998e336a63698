"""Balances a pole on a cart, in a closed loop with a stream, after imitating a controller.

    python examples/cart_pole.py [--short]

The controller to imitate knows positions and velocities (a linear-quadratic regulator). The
network, an NCP-wired CfC, sees the positions alone, at irregular times, and has to find the
velocities by itself. It learns in rounds: carts are driven by the controller first, then by the
network, while the controller tells what it would do (Ross et al. 2011). Then the network drives
carts by itself, one step of a `StreamingSession` (`layer.step`) per observation. Prints how long
the poles stay up without a force, with the controller and with the network, and a step's latency.
"""

import time

import mlx.core as mx
import numpy as np
from common import make_parser, parse, train
from mlx_ncps import CfC, StreamingSession
from mlx_ncps.wirings import AutoNCP
from tqdm import tqdm

GRAVITY, CART, POLE, LENGTH = 9.81, 1.0, 0.1, 0.5  # kg, and half of the pole in m
FORCE = 20.0  # N, the most that the motor gives
SPANS = (0.01, 0.03)  # s between two observations


def advance(state, force, span, pieces=4):
    """The carts [N, 4] (position, angle, their speeds) after `span` s [N] of a constant force."""
    position, angle, speed, turn = state.T
    dt = span / pieces
    for _ in range(pieces):
        sine, cosine = np.sin(angle), np.cos(angle)
        push = (force + POLE * LENGTH * turn**2 * sine) / (CART + POLE)
        fall = (GRAVITY * sine - cosine * push) / (
            LENGTH * (4 / 3 - POLE * cosine**2 / (CART + POLE))
        )
        speed = speed + dt * (push - POLE * LENGTH * fall * cosine / (CART + POLE))
        turn = turn + dt * fall
        position, angle = position + dt * speed, angle + dt * turn
    return np.stack([position, angle, speed, turn], axis=1)


def regulator(span=0.02):
    """The gain [4] of the linear-quadratic regulator about the upright pole."""
    span, small = np.full(5, span), 1e-4
    points = np.vstack([small * np.eye(4), np.zeros(4)])
    A = advance(points, np.zeros(5), span)[:4].T / small
    B = advance(points, np.append(np.zeros(4), small), span)[4:].T / small
    cost = weight = np.diag([1.0, 10.0, 0.1, 0.1])
    for _ in range(1000):  # the Riccati equation, by iteration
        gain = np.linalg.solve(0.01 * np.eye(1) + B.T @ cost @ B, B.T @ cost @ A)
        cost = weight + A.T @ cost @ (A - B @ gain)
    return gain[0]


def starts(count, rng):
    """Carts [N, 4] near the middle, their poles near upright."""
    return rng.uniform(-1, 1, (count, 4)) * np.array([0.5, 0.2, 0.2, 0.2])


def is_up(state):
    """Whether each cart [..., 4] is in the field and its pole not fallen."""
    return (np.abs(state[..., 1]) < np.pi / 4) & (np.abs(state[..., 0]) < 3)


def drive(act, state, steps, rng, noise=0.0):
    """Carts under act(state, observation, span) -> force [N]: observations [N, T, 2], spans [N, T],
    states [N, T, 4]. `noise` is the share of random forces.
    """
    record = []
    span = np.full(len(state), SPANS[0])
    for _ in range(steps):
        seen = state[:, :2]
        force = np.clip(act(state, seen, span), -FORCE, FORCE)
        record.append((seen, span, state))
        span = rng.uniform(*SPANS, len(state))
        state = advance(state, force + noise * FORCE * rng.normal(size=len(state)), span)
    return [np.stack(each, axis=1) for each in zip(*record, strict=True)]


def controller_of(layer, latencies=None):
    """`act` of the network, whose state it keeps; adds the seconds of each step to `latencies`."""
    session = StreamingSession(layer)

    def act(_, seen, span):
        began = time.perf_counter()
        elapsed = float(span[0]) if len(span) == 1 else span  # a number takes the fast path
        force = session(seen, elapsed)[:, 0] * FORCE
        if latencies is not None:
            latencies.append(time.perf_counter() - began)
        return force

    return act


def imitate(layer, expert, args, rng):
    """Rounds of driving and learning from what the controller would have done."""
    data = []

    def loss_of(layer, seen, spans, wanted):
        return mx.mean(mx.square(layer(seen, timespans=spans)[0][..., 0] - wanted))

    for n in range(args.rounds):
        act = controller_of(layer) if n else expert
        seen, spans, states = drive(act, starts(args.samples, rng), 150, rng, noise=0.1)
        wanted = np.clip(expert(states) / FORCE, -1, 1)
        data.append((seen, spans, wanted))
        arrays = [mx.array(np.concatenate(each), mx.float32) for each in zip(*data, strict=True)]
        train(layer, loss_of, arrays, args.epochs, 0.01, 16, f"round {n + 1}")


def seconds_up(spans, states):
    """How long each cart [N, T, 4] stayed up."""
    up = np.minimum.accumulate(is_up(states), axis=1)
    return (spans * up).sum(axis=1)


def main(arguments=None):
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, help="rounds of driving and learning")
    parser.add_argument("--samples", type=int, default=64, help="carts of a round")
    parser.add_argument("--steps", type=int, default=1500, help="observations of the last drives")
    args = parse(parser, arguments, epochs=40, short_epochs=15)
    args.rounds = args.rounds or (3 if args.short else 6)
    rng = np.random.default_rng(args.seed)
    gain = regulator()

    def expert(state, *_):
        return state @ -gain

    layer = CfC(2, AutoNCP(32, 1))
    imitate(layer, expert, args, rng)

    first = starts(5 if args.short else 20, rng)
    results = {}
    for name, act in (("no force", lambda state, *_: np.zeros(len(state))), ("controller", expert)):
        _, spans, states = drive(act, first, args.steps, rng)
        results[name] = seconds_up(spans, states)
    times, latencies = [], []
    for cart in tqdm(first, desc="network", unit="drive"):
        act = controller_of(layer, latencies)
        _, spans, states = drive(act, cart[None], args.steps, rng)
        times.append(seconds_up(spans, states)[0])
    results["network"] = np.array(times)
    print(f"{len(first)} carts, at most {args.steps} observations of each, 10 to 30 ms apart:")
    for name, up in results.items():
        print(f"  {name:10} up for {up.mean():5.1f} s, the least {up.min():.1f} s")
    middle, worst = np.percentile(np.array(latencies[10:]) * 1e6, (50, 99))
    print(f"latency of a step of the network: p50 {middle:.0f} us, p99 {worst:.0f} us")
    return results


if __name__ == "__main__":
    main()
