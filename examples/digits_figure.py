"""The picture of the digits example: learning curves, time per epoch, the wiring."""

import matplotlib

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt
from matplotlib.patches import ConnectionStyle
from matplotlib.ticker import MaxNLocator

COLORS = ("tab:blue", "tab:orange")
COLUMNS = ("pixels\nof a row", "inter\nneurons", "command\nneurons", "motor\nneurons")
NEURON_COLORS = ("tab:olive", "tab:blue", "tab:purple", "tab:orange")


def save_figure(results, path):
    """Saves the picture of both networks; the wiring is that of the last one."""
    figure = plt.figure(figsize=(13, 7), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.25), height_ratios=(1.6, 1))
    draw_learning(figure.add_subplot(grid[0, 0]), results)
    draw_times(figure.add_subplot(grid[1, 0]), results)
    draw_wiring(figure.add_subplot(grid[:, 1]), results[-1].model.rnn_cell.wiring)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_learning(ax, results):
    """Test accuracy after each epoch, and the accuracy wanted as a dashed line."""
    for result, color in zip(results, COLORS, strict=True):
        percent = [100 * a for a in result.accuracies]
        label = f"{result.task.name}: {percent[-1]:.1f} %"
        ax.plot(range(1, len(percent) + 1), percent, color=color, label=label)
        ax.axhline(100 * result.task.wanted, color=color, linestyle="--", linewidth=0.8)
    ax.set(title="Handwritten digits never trained on", xlabel="epoch", ylabel="accuracy [%]")
    ax.set_ylim(top=100)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right", title="dashed: wanted")


def draw_times(ax, results):
    """Seconds per epoch, fused and unfused, and their ratio."""
    for row, (result, color) in enumerate(zip(results, COLORS, strict=True)):
        for offset, kind, seconds, alpha in (
            (-0.2, "fused", result.fused, 1.0),
            (0.2, "plain MLX operations", result.unfused, 0.4),
        ):
            ax.barh(row + offset, seconds, height=0.36, color=color, alpha=alpha)
            ax.annotate(
                f" {kind} {seconds:.2f} s", (seconds, row + offset), va="center", fontsize=9
            )
    names = [f"{r.task.name}\n{r.unfused / r.fused:.0f} times" for r in results]
    ax.set_yticks(range(len(results)), names)
    longest = max(result.unfused for result in results)
    ax.set(title="Time of a training epoch", xlabel="seconds", xlim=(0, 1.6 * longest))
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)


def draw_wiring(ax, wiring):
    """The neural circuit policy, from the pixels to the motor neurons."""
    kinds = ("sensory", "inter", "command", "motor")
    colors = dict(zip(kinds, NEURON_COLORS, strict=True))
    handles = wiring.draw_graph(layout="layered", neuron_colors=colors, ax=ax)
    for nodes in ax.collections:
        nodes.set(sizes=[90], zorder=3)
    for synapse in ax.patches:
        synapse.set(alpha=0.45, linewidth=0.7, mutation_scale=7)
        synapse.shrinkA = synapse.shrinkB = 5
        if isinstance(synapse.get_connectionstyle(), ConnectionStyle.Arc3):  # all but self-loops
            synapse.set_connectionstyle("arc3", rad=0.08)
    for x, (name, color) in enumerate(zip(COLUMNS, NEURON_COLORS, strict=True)):
        ax.text(x, 1.0, name, ha="center", va="bottom", color=color, weight="bold")
    synapses = int((wiring.adjacency != 0).sum() + (wiring.sensory_adjacency != 0).sum())
    ax.set_title(f"The wiring of the LTC: {wiring.units} neurons, {synapses} synapses", pad=24)
    signs = [handle for handle in handles if "synapses" in handle.get_label()]
    ax.legend(handles=signs, loc="upper center", bbox_to_anchor=(0.5, 0.03), ncols=2, frameon=False)
    ax.axis("off")
