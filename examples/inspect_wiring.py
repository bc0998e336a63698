"""Trains a small neural circuit policy, prints its wiring, and draws it beside its neurons' states.

    python examples/inspect_wiring.py [--short] [--weights FILE] [--output wiring.png]

An LTC of 16 neurons reads a sine and learns to give its cosine and its double frequency. FILE holds
weights that an earlier run wrote with --save, used in place of training. Prints the neurons of each
type, their synapses and the strongest of them; the picture shows the wiring and what every neuron
does over time.
"""

import mlx.core as mx
import numpy as np
from common import lacking, make_parser, parse, train
from mlx_ncps import LTC
from mlx_ncps.wirings import AutoNCP

try:
    import matplotlib

    matplotlib.use("Agg")  # a file, no window

    import matplotlib.pyplot as plt
except ModuleNotFoundError as error:
    raise lacking(error) from None

COLORS = {
    "sensory": "tab:olive",
    "inter": "tab:blue",
    "command": "tab:purple",
    "motor": "tab:orange",
}
STEPS = 64


def make_waves(count, rng):
    """Sines [N, T, 1] of random phase and frequency; their cosines and double frequencies."""
    speed, phase = rng.uniform(0.15, 0.3, (count, 1)), rng.uniform(0, 2 * np.pi, (count, 1))
    angle = speed * np.arange(STEPS) + phase
    x, y = np.sin(angle)[..., None], np.stack([np.cos(angle), np.sin(2 * angle)], axis=-1)
    return mx.array(x, mx.float32), mx.array(y, mx.float32)


def error(layer, x, y):
    return mx.mean(mx.square(layer(x)[0] - y)[:, 8:])  # the first steps can't know


def describe(layer):
    """Prints the neurons by type, and the strongest synapses."""
    wiring, cell = layer.rnn_cell.wiring, layer.rnn_cell
    for kind in ("inter", "command", "motor"):
        neurons = wiring.get_neurons_of_type(kind)
        inputs = np.array(wiring.adjacency)[:, neurons]
        sensory = np.array(wiring.sensory_adjacency)[:, neurons]
        print(
            f"{kind:8} neurons {neurons}: {(inputs != 0).sum()} synapses, "
            f"{(inputs < 0).sum()} of them inhibitory, {(sensory != 0).sum()} from the inputs"
        )
    strength = np.logaddexp(0, np.array(cell.w)) * np.abs(np.array(wiring.adjacency))
    for index in np.argsort(strength, axis=None)[:-4:-1]:
        source, target = np.unravel_index(index, strength.shape)
        reversal = cell.erev[int(source), int(target)].item()
        print(
            f"strong synapse: {wiring.get_type_of_neuron(source)} {source} -> "
            f"{wiring.get_type_of_neuron(target)} {target}, conductance "
            f"{strength[source, target]:.2f}, reversal potential {reversal:+.2f}"
        )


def draw(layer, x, y, path):
    """Saves the wiring, and the states of all neurons over one sequence [T, 1] -> [T, 2]."""
    wiring, cell = layer.rnn_cell.wiring, layer.rnn_cell
    states = np.array(cell.sequence(x[None], mx.zeros((1, cell.state_size)), None)[0])  # [T, H]
    output = np.array(layer(x)[0])
    figure = plt.figure(figsize=(14, 8), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.2), height_ratios=(1, 2.6))
    left = figure.add_subplot(grid[:, 0])
    wiring.draw_graph(layout="layered", neuron_colors=COLORS, draw_labels=False, ax=left)
    left.legend(
        handles=[plt.Line2D([], [], marker="o", ls="", color=c, label=k) for k, c in COLORS.items()]
        + [plt.Line2D([], [], color=c, label=k) for k, c in (("excites", "g"), ("inhibits", "r"))],
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=3,
        frameon=False,
    )
    left.set_title(f"{wiring.units} neurons, {layer.synapse_count} synapses")
    left.axis("off")

    top = figure.add_subplot(grid[0, 1])
    for n, color in enumerate(("tab:orange", "tab:brown")):
        top.plot(output[:, n], color=color, label=f"output {n}")
        top.plot(np.array(y[:, n]), color=color, ls=":", label=f"wanted {n}")
    top.plot(np.array(x[:, 0]), color=COLORS["sensory"], lw=0.8, label="input")
    top.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    top.set_title("What goes in and what comes out")

    bottom = figure.add_subplot(grid[1, 1], sharex=top)
    order = [n for kind in ("inter", "command", "motor") for n in wiring.get_neurons_of_type(kind)]
    for row, n in enumerate(order):
        span = np.ptp(states[:, n])
        trace = (states[:, n] - states[:, n].min()) / max(span, 1e-6)
        kind = wiring.get_type_of_neuron(n)
        bottom.plot(0.8 * trace - row, color=COLORS[kind], lw=1.2)
        bottom.text(STEPS + 0.5, 0.2 - row, f"{span:.2f}", fontsize=8, color=COLORS[kind])
    names = [f"{wiring.get_type_of_neuron(n)} {n}" for n in order]
    bottom.set_yticks([0.4 - row for row in range(len(order))], names, fontsize=8)
    bottom.set(title="States, each in its own range (written at the right)", xlabel="step")
    bottom.set_xlim(-0.5, STEPS - 0.5)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments=None):
    parser = make_parser(__doc__)
    parser.add_argument("--samples", type=int, default=256, help="sequences to train on")
    parser.add_argument("--weights", help="a .safetensors or .npz file to load")
    parser.add_argument("--save", help="a .safetensors or .npz file to write")
    parser.add_argument("--output", default="wiring.png", help="where to save the picture")
    args = parse(parser, arguments, epochs=150, short_epochs=40)
    rng = np.random.default_rng(args.seed)
    layer = LTC(1, AutoNCP(16, 2, sparsity_level=0.4))
    x, y = make_waves(32, rng)
    if args.weights:
        layer.load_weights(args.weights)
    else:
        train(layer, error, make_waves(args.samples, rng), args.epochs, 0.02)
    if args.save:
        layer.save_weights(args.save)
    describe(layer)
    result = error(layer, x, y).item()
    print(f"mean squared error {result:.4f}, of always giving 0 {mx.mean(y**2).item():.4f}")
    draw(layer, x[0], y[0], args.output)
    print(f"saved {args.output}")
    return result


if __name__ == "__main__":
    main()
