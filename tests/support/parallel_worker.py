"""Some steps of training on this process's share of the batch; test_training_parallel runs it.

python parallel_worker.py FILE.npz   saves losses and weights; without MLX_RANK the whole batch
"""

import sys

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_ncps import LTC, CfC
from mlx_ncps.wirings import AutoNCP

B, T, I = 8, 6, 4
LAYERS = {
    "cfc": lambda: CfC(I, 6, backbone_units=9),
    "ltc": lambda: LTC(I, AutoNCP(10, 2), mixed_memory=True, ode_unfolds=3),
}


def mean_square(layer, x, ts):
    output, _ = layer(x, timespans=ts)
    return mx.mean(mx.square(output - mx.cumsum(x, axis=1)[..., :1]))


def train(layer, group):
    """Losses of 3 steps, averaged over the group, and the weights after them."""
    size = B // group.size()
    mine = slice(size * group.rank(), size * (group.rank() + 1))
    optimizer = optim.SGD(0.05, momentum=0.9)
    loss_and_gradients = nn.value_and_grad(layer, mean_square)
    losses = []
    for n in range(3):
        x = mx.random.normal((B, T, I), key=mx.random.key(n))[mine]
        ts = mx.random.uniform(0.1, 2.0, (B, T), key=mx.random.key(9 + n))[mine]
        loss, gradients = loss_and_gradients(layer, x, ts)
        optimizer.update(layer, nn.average_gradients(gradients, group))
        losses.append(mx.distributed.all_sum(loss, group=group) / group.size())
        mx.eval(losses, layer.parameters(), optimizer.state)
    return {"losses": mx.stack(losses), **dict(tree_flatten(layer.trainable_parameters()))}


def main():
    mx.set_default_device(mx.cpu)
    group = mx.distributed.init(backend="ring")
    results = {"size": mx.array(group.size())}
    for name, build in LAYERS.items():
        mx.random.seed(7)
        results |= {f"{name}.{key}": array for key, array in train(build(), group).items()}
    mx.savez(sys.argv[1], **results)


if __name__ == "__main__":
    main()
