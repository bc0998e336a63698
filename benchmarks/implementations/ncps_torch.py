"""The column of ncps.torch, eager: its modules with the parameters of the row's case."""

from __future__ import annotations

import numpy as np
from cases import make

from . import Missing, Program
from .mlx_programs import LEARNING_RATE


def eager(row, threads: int) -> Program:
    """The row in ncps.torch. Raises Missing when torch or ncps is not installed."""
    try:
        import ncps
        import torch
    except ImportError as error:
        raise Missing(f"not installed: {error.name}") from None
    torch.set_num_threads(threads)
    call = make(row.case)
    module, leaves = _ltc(row, call, ncps) if row.is_ltc else _cfc(row, call)
    with torch.no_grad():
        for name, parameter in leaves.items():
            parameter.copy_(torch.tensor(_leaf(call.params, name)))
    x, state = torch.tensor(call.inputs), torch.tensor(call.state)
    if row.mode == "step":
        return _step_program(module.eval().rnn_cell, x, state, torch)
    weights = torch.tensor(call.cotangents[..., : row.outputs])
    return _sequence_program(row, module, leaves, (x, state), weights, torch)


def _sequence_program(row, module, leaves, arguments, weights, torch) -> Program:
    @torch.no_grad()
    def forward():
        return module(*arguments)[0]

    def gradients():
        module.zero_grad(set_to_none=True)
        output, _ = module(*arguments)
        (output * weights).sum().backward()
        return output

    if not row.gradients:
        return Program(lambda: {"output": forward().numpy()}, forward)

    def check():
        output = gradients().detach().numpy()
        return {"output": output, **{k: p.grad.numpy().copy() for k, p in leaves.items()}}

    optimiser = torch.optim.Adam(leaves.values(), LEARNING_RATE)

    def train():
        gradients()
        optimiser.step()
        return leaves

    return Program(check, train if row.mode == "train" else gradients)


def _step_program(cell, x, start, torch) -> Program:
    state = start

    @torch.no_grad()
    def run():
        nonlocal state
        output, state = cell(x[:, 0], state, 1.0)
        return output

    @torch.no_grad()
    def check():
        output, _ = cell(x[:, 0], start, 1.0)
        return {"output": output[:, None].numpy()}

    return Program(check, run)


def _ltc(row, call, ncps):
    """(module, its parameters by the names of truth.want)."""
    from ncps.torch import LTC

    name, *arguments = row.case.wiring or ("FullyConnected", row.case.units)
    wiring = getattr(ncps.wirings, name)(*arguments)
    module = LTC(
        row.case.inputs,
        wiring,
        ode_unfolds=row.case.unfolds,
        implicit_param_constraints=row.case.implicit,
    )
    fields = call.params._asdict().items()
    names = [k for k, value in fields if value is not None and "mask" not in k]
    return module, {f"params.{k}": getattr(module.rnn_cell, k) for k in names}


def _cfc(row, call):
    from ncps.torch import CfC

    c = row.case
    options = {"mode": c.mode, "activation": c.activation}
    sizes = {"backbone_units": c.backbone_units, "backbone_layers": c.layers}
    module = CfC(c.inputs, c.units, **options, **sizes)
    cell = module.rnn_cell
    linears = {f"backbone.{n}": cell.backbone[2 * n] for n in range(c.layers)}
    linears |= {name: getattr(cell, name) for name in ("ff1", "ff2", "time_a", "time_b")}
    leaves = {}
    for name, linear in linears.items():
        leaves |= {f"params.{name}.0": linear.weight, f"params.{name}.1": linear.bias}
    return module, leaves


def _leaf(params, name: str) -> np.ndarray:
    """The array of the params at "params.backbone.0.1"."""
    for key in name.split(".")[1:]:
        params = params[int(key)] if key.isdigit() else getattr(params, key)
    return params
