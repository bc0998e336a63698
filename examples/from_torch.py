"""Moves a checkpoint of ncps.torch to mlx_ncps and back, and shows that the outputs are equal.

    python examples/from_torch.py [--checkpoint FILE [--prefix rnn.]]

With PyTorch and ncps installed, a model of ncps.torch is made, saved and loaded as a layer of
mlx_ncps, and both are run. Without them, the state dict is written by NumPy under the names that
ncps.torch gives its weights, and the layer is compared with the equations in float64. The layer is
then trained a little with MLX and saved for ncps.torch again. FILE may be a checkpoint of your own,
`.pt`, `.safetensors` or `.npz`; PREFIX is what stands before the layer's names in a larger model.
Prints what was loaded and the largest difference of the outputs.
"""

import importlib.util
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from common import make_parser, parse, train
from mlx.utils import tree_flatten
from mlx_ncps import ops
from mlx_ncps.convert import from_torch, save_torch

I, H, K = 3, 16, 32  # inputs, neurons, units of the backbone


def make_inputs():
    """Inputs [B, T, I], time spans [B, T]."""
    key = mx.random.key(1)
    x = mx.random.normal((4, 20, I), key=key)
    return x, mx.random.uniform(0.1, 2.0, (4, 20), key=key)


def torch_checkpoint(path):
    """Saves a model of ncps.torch; its outputs [B, T, H]."""
    import torch
    from ncps.torch import CfC

    torch.manual_seed(0)
    model = CfC(I, H, backbone_units=K)
    torch.save(model.state_dict(), path)
    x, ts = (torch.from_numpy(np.array(array)) for array in make_inputs())
    with torch.no_grad():  # one sequence at a time: ncps.torch fails on time spans of a batch
        rows = [model(x[n : n + 1], timespans=ts[n : n + 1])[0] for n in range(len(x))]
    return torch.cat(rows).numpy()


def numpy_checkpoint(path, rng):
    """Saves a state dict under ncps.torch's names; the outputs [B, T, H] of its equations."""

    def linear(name, outputs, inputs):
        weight, bias = (
            rng.normal(size=(outputs, inputs)) / np.sqrt(inputs),
            rng.normal(size=outputs),
        )
        names = f"rnn_cell.{name}.weight", f"rnn_cell.{name}.bias"
        arrays.update(zip(names, (weight, 0.1 * bias), strict=True))
        return weight, 0.1 * bias

    arrays = {}
    backbone = (linear("backbone.0", K, I + H),)
    heads = {name: linear(name, H, K) for name in ("ff1", "ff2", "time_a", "time_b")}
    mx.save_safetensors(str(path), {name: mx.array(a, mx.float32) for name, a in arrays.items()})
    x, ts = make_inputs()
    params = ops.CfCParams(backbone, **heads)
    return ops.numpy.cfc_sequence(np.array(x), np.zeros((len(x), H)), np.array(ts), params)


def convert(folder, rng):
    """The layer, and the largest difference of its outputs from the source's."""
    if all(importlib.util.find_spec(name) for name in ("torch", "ncps")):
        path = folder / "model.pt"
        want = torch_checkpoint(path)
        print(f"{path.name} is a state dict of ncps.torch")
    else:
        path = folder / "model.safetensors"
        want = numpy_checkpoint(path, rng)
        print(f"{path.name} is a state dict with the names of ncps.torch, compared with float64")
    layer = from_torch(path)
    x, ts = make_inputs()
    output, _ = layer(x, timespans=ts)
    return layer, np.abs(np.array(output) - want).max()


def main(arguments=None):
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", help="a state dict of ncps.torch to load")
    parser.add_argument("--prefix", default="", help="of the layer's names in it")
    args = parse(parser, arguments, epochs=100, short_epochs=30)
    if args.checkpoint:
        describe(from_torch(args.checkpoint, prefix=args.prefix))
        return None
    with tempfile.TemporaryDirectory() as name:
        layer, difference = convert(Path(name), np.random.default_rng(args.seed))
        describe(layer)
        print(f"largest difference of the outputs: {difference:.2g}")

        x, ts = make_inputs()
        y = mx.sin(mx.cumsum(x[..., :1], axis=1))

        def error(layer, x, ts, y):
            return mx.mean(mx.square(layer(x, timespans=ts)[0][..., :1] - y))

        losses = train(layer, error, (x, ts, y), args.epochs, 0.01, name="training on")
        back = Path(name) / "trained.safetensors"
        save_torch(layer, back)
        again = from_torch(back)
        same = mx.max(mx.abs(layer(x, timespans=ts)[0] - again(x, timespans=ts)[0])).item()
        print(f"trained on from loss {losses[0]:.3f} to {losses[-1]:.3f}, saved for ncps.torch")
        print(f"largest difference after loading that file: {same:.2g}")
    return difference, same


def describe(layer):
    sizes = {name: array.shape for name, array in tree_flatten(layer.parameters())}
    print(
        f"a {type(layer).__name__} of {layer.state_size} neurons and {layer.sensory_size} inputs:"
    )
    for name, shape in sizes.items():
        print(f"  {name:30} {shape}")


if __name__ == "__main__":
    main()
