"""The columns of ncps.torch: its modules with the parameters of the row's case, eager and with
`torch.compile`d cells.
"""

from __future__ import annotations

import numpy as np

from tests.support.cases import make

from ..launches import torch_operators
from . import Missing, Program
from .mlx_programs import LEARNING_RATE

COMPILER = "inductor"


def eager(row, threads: int) -> Program:
    """The row in ncps.torch."""
    program, _ = _load(row, threads)
    return program._replace(launches=lambda: torch_operators(program.run))


def compiled(row, threads: int) -> Program:
    """The same with the cell, all its unfolds, as one compiled function; the loop over time stays
    Python's, because to compile it too takes minutes. Raises Missing where nothing compiles.
    """
    import torch

    program, module = _load(row, threads)
    cell = module.rnn_cell
    cell.forward = torch.compile(cell.forward, backend=COMPILER)

    def check():
        try:
            return program.check()
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise Missing(f"torch.compile failed: {str(error).splitlines()[0]}") from None

    return program._replace(check=check)


def _load(row, threads: int):
    """(program, module)."""
    import ncps
    import torch

    from .torch_device import choose_device

    put, wait = choose_device(threads)
    call = make(row.case)
    module, leaves = _ltc(row, call, ncps) if row.is_ltc else _cfc(row, call)
    with torch.no_grad():
        for name, parameter in leaves.items():
            parameter.copy_(torch.tensor(_leaf(call.params, name)))
    x, state = put(call.inputs), put(call.state)
    module.to(x.device)
    if row.mode == "step":
        return _step_program(module.eval().rnn_cell, x, state, wait), module
    weights = put(call.cotangents[..., : row.outputs])
    return _sequence_program(row, module, leaves, (x, state), weights, wait), module


def _sequence_program(row, module, leaves, arguments, weights, wait) -> Program:
    import torch

    @torch.no_grad()
    def forward():
        output = module(*arguments)[0]
        wait()
        return output

    def gradients():
        module.zero_grad(set_to_none=True)
        output, _ = module(*arguments)
        (output * weights).sum().backward()
        wait()
        return output

    if not row.gradients:
        return Program(lambda: {"output": forward().cpu().numpy()}, forward)

    def check():
        output = gradients().detach().cpu().numpy()
        return {"output": output, **{k: p.grad.cpu().numpy().copy() for k, p in leaves.items()}}

    optimiser = torch.optim.Adam(leaves.values(), LEARNING_RATE)

    def train():
        gradients()
        optimiser.step()
        wait()
        return leaves

    return Program(check, train if row.mode == "train" else gradients)


def _step_program(cell, x, start, wait) -> Program:
    import torch

    state = start

    @torch.no_grad()
    def run():
        nonlocal state
        output, state = cell(x[:, 0], state, 1.0)
        wait()
        return output

    @torch.no_grad()
    def check():
        output, _ = cell(x[:, 0], start, 1.0)
        return {"output": output[:, None].cpu().numpy()}

    return Program(check, run)


def _ltc(row, call, ncps):
    """(module, its parameters by the names of truth.want)."""
    from ncps.torch import LTC

    name, *arguments = row.case.wiring or ("Wiring", row.case.units)
    wiring = getattr(ncps.wirings, name)(*arguments)
    if not row.case.wiring:
        _connect(wiring, row.case, call.params)
    module = LTC(
        row.case.inputs,
        wiring,
        ode_unfolds=row.case.unfolds,
        implicit_param_constraints=row.case.implicit,
    )
    fields = call.params._asdict().items()
    names = [k for k, value in fields if value is not None and "mask" not in k]
    return module, {f"params.{k}": getattr(module.rnn_cell, k) for k in names}


def _connect(wiring, case, params) -> None:
    """Give a wiring the synapses of the masks, or all."""
    wiring.build(case.inputs)
    wiring.set_output_dim(case.units)
    for name, mask in (("adjacency", params.mask), ("sensory_adjacency", params.sensory_mask)):
        matrix = getattr(wiring, f"{name}_matrix")
        matrix[:] = 1 if mask is None else mask


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
