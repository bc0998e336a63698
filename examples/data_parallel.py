"""Trains on several processes, each with its share of the batch, over MLX's ring.

    python examples/data_parallel.py [--processes 2] [--short]
    mlx.launch -n 2 -- python examples/data_parallel.py

The first line starts the processes by itself, on this machine; mlx.launch starts them on any. Every
process computes the gradients of its share, `nn.average_gradients` averages them, and all take the
same step. Prints that the weights of all processes are the same at the end, and the loss beside
that of one process with the whole batch. For data of your own, let `make_batch` read a share of it.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from common import make_parser, parse
from mlx.utils import tree_flatten
from mlx_ncps import LTC
from mlx_ncps.wirings import AutoNCP
from tqdm import trange

BATCH, STEPS, INPUTS = 32, 40, 2


def make_batch(n, rank, size):
    """A share of batch n: inputs [B / size, T, I] and their moving averages to learn."""
    share = BATCH // size
    x = mx.random.normal((BATCH, STEPS, INPUTS), key=mx.random.key(n))
    x = x[share * rank : share * (rank + 1)]
    age = mx.arange(STEPS)[:, None] - mx.arange(STEPS)
    return x, mx.where(age >= 0, 0.3 * 0.7**age, 0.0) @ x


def train(group, batches, seed):
    """The trained layer and its losses, each the mean over all processes."""
    mx.random.seed(seed)  # the same weights in every process
    layer = LTC(INPUTS, AutoNCP(16, INPUTS))
    optimizer = optim.Adam(0.02, bias_correction=True)

    def error(layer, x, y):
        return mx.mean(mx.square(layer(x)[0] - y))

    loss_and_gradients = nn.value_and_grad(layer, error)
    losses = []
    rank, size = (group.rank(), group.size()) if group else (0, 1)
    for n in trange(batches, desc=f"{size} processes", disable=rank > 0):
        loss, gradients = loss_and_gradients(layer, *make_batch(n, rank, size))
        if group:
            gradients = nn.average_gradients(gradients, group)
            loss = mx.distributed.all_sum(loss, group=group) / size
        optimizer.update(layer, gradients)
        mx.eval(loss, layer.parameters(), optimizer.state)
        losses.append(loss.item())
    return layer, losses


def work(args):
    """What each process does."""
    group = mx.distributed.init()
    if BATCH % group.size():
        raise SystemExit(f"{BATCH} samples can't be shared by {group.size()} processes")
    layer, losses = train(group, args.epochs, args.seed)
    for name, weight in tree_flatten(layer.trainable_parameters()):
        mean = mx.distributed.all_sum(weight, group=group) / group.size()
        if mx.max(mx.abs(mean - weight)).item() > 1e-6:
            raise SystemExit(f"{name} differs between the processes")
    sys.stdout.write(f"rank {group.rank()} of {group.size()}: weights are those of all\n")
    sys.stdout.flush()
    if group.rank() == 0:
        _, alone = train(None, args.epochs, args.seed)
        print(f"loss {losses[0]:.4f} at first, {losses[-1]:.6f} at last")
        print(f"loss of one process with the whole batch {alone[-1]:.6f}")


def spawn(processes, arguments):
    """Runs this file once per rank on ports of this machine; the worst exit code."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(processes)]
    hosts = [[f"127.0.0.1:{each.getsockname()[1]}"] for each in sockets]
    for each in sockets:
        each.close()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hosts.json"
        path.write_text(json.dumps(hosts), encoding="utf-8")
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, *arguments],
                env=os.environ | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(path)},
            )
            for rank in range(processes)
        ]
        return max(abs(rank.wait()) for rank in ranks)


def main(arguments=None):
    parser = make_parser(__doc__)
    parser.add_argument("--processes", type=int, default=2, help="to start, without mlx.launch")
    args = parse(parser, arguments, epochs=300, short_epochs=60)
    if "MLX_RANK" in os.environ:
        work(args)
        return 0
    if not mx.distributed.is_available("ring"):
        raise SystemExit("this MLX has no ring backend")
    return spawn(args.processes, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
