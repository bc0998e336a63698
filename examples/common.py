"""What the examples share: arguments, batches, a training step, a loop with a progress bar."""

import argparse

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


def lacking(error):
    """What ends a program where a package can't be imported: its name, and how to install it."""
    return SystemExit(
        f"the examples need {error.name.split('.')[0]}, which is not installed: pip install "
        "matplotlib networkx scikit-learn scipy tqdm (the extra `examples` of mlx-ncps)."
    )


try:
    from tqdm import tqdm
except ModuleNotFoundError as error:
    raise lacking(error) from None


def make_parser(doc):
    """A parser described by the first line of `doc`, with what every example takes."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="less data and training: seconds")
    parser.add_argument("--epochs", type=int, help="passes over the training data")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and batches")
    return parser


def parse(parser, arguments, epochs, short_epochs):
    """The arguments. Seeds MLX, and chooses the CPU: steps this small are too short for a GPU."""
    args = parser.parse_args(arguments)
    if args.epochs is None:
        args.epochs = short_epochs if args.short else epochs
    mx.set_default_device(mx.cpu)
    mx.random.seed(args.seed)
    return args


def batches(arrays, size):
    """The samples of all arrays in a new order, `size` at a time; the rest is left out."""
    order = mx.random.permutation(len(arrays[0]))
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield tuple(array[chosen] for array in arrays)


def make_step(model, loss_of, optimizer):
    """A function that trains on one batch and returns loss_of(model, *batch) before it.

    `mx.compile` works on it too (docs/training.md); for a training this short, compiling takes
    longer than it saves.
    """
    loss_and_gradients = nn.value_and_grad(model, loss_of)

    def step(*batch):
        loss, gradients = loss_and_gradients(model, *batch)
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        mx.eval(loss, model.parameters(), optimizer.state)
        return loss.item()

    return step


def train(model, loss_of, arrays, epochs, learning_rate, batch=32, name="training", validate=None):
    """Trains with Adam, whose learning rate falls to 0; the mean loss of each epoch.

    With validate(model) -> number the model ends with the weights of the epoch where it was least.
    """
    batch = min(batch, len(arrays[0]))
    decay = optim.cosine_decay(learning_rate, epochs * (len(arrays[0]) // batch))
    step = make_step(model, loss_of, optim.Adam(decay, bias_correction=True))
    losses, best, weights = [], float("inf"), model.parameters()
    progress = tqdm(range(epochs), desc=name, unit="epoch")
    for _ in progress:
        model.train()
        values = [step(*chosen) for chosen in batches(arrays, batch)]
        losses.append(sum(values) / len(values))
        model.eval()
        value = validate(model) if validate else -len(losses)
        if value < best:
            best, weights = value, model.parameters()
        progress.set_postfix_str(f"loss {losses[-1]:.4g}")
    model.update(weights)
    return losses


def accuracy(logits, labels):
    """The share of samples whose largest logit [N, C] is the label's [N]."""
    return mx.mean(logits.argmax(axis=-1) == labels).item()
