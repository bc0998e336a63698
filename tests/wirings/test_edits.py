"""A wiring, the masks, the counts, the graph, the files and what is computed are one truth, however
a built layer is edited.
"""

import copy
import json
import pickle
import warnings

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_ncps import LTC, CfC, ELTCCell, LiquidRNN, StreamingSession, WiredCfCCell, use_backend
from mlx_ncps.cells import LTCCell
from mlx_ncps.wirings import NCP, AutoNCP, FullyConnected, Random

from tests.support.cases import assert_close, tolerance

B, T, I = 2, 4, 3
SAME = tolerance("float32", "forward")
SIDES = ("adjacency_matrix", "sensory_adjacency_matrix")


def ncp():
    return NCP(4, 4, 2, 2, 2, 4, 2)


def wired(wiring, **options):
    return CfC(WiredCfCCell(I, wiring, **options), return_sequences=True, return_state=True)


LAYERS = {  # name: (the layer of a wiring, its first wiring)
    "ltc": (lambda w: LTC(I, w, ode_unfolds=3), ncp),
    "ltc_full": (lambda w: LTC(I, w, ode_unfolds=3), lambda: FullyConnected(8, 2)),
    "ltc_implicit": (lambda w: LTC(I, w, implicit_param_constraints=True), ncp),
    "ltc_euler": (lambda w: LTC(I, w, ode_solver="explicit", ode_unfolds=12), ncp),
    "ltc_mixed": (lambda w: LTC(I, w, mixed_memory=True), lambda: AutoNCP(9, 2)),
    "ltc_both": (lambda w: LTC(I, w, bidirectional=True), ncp),
    "ltc_backbone": (
        lambda w: LTC(LTCCell(w, I, backbone_units=[3]), return_sequences=True, return_state=True),
        ncp,
    ),
    "eltc": (
        lambda w: LiquidRNN(ELTCCell(w, I), return_sequences=True, return_state=True),
        lambda: Random(7, 3, 0.5),
    ),
    "cfc": (lambda w: CfC(I, w), ncp),
    "cfc_random": (lambda w: CfC(I, w), lambda: Random(7, 3, 0.5)),
    "cfc_own": (lambda w: CfC(I, w, fully_recurrent=False), ncp),
    "cfc_keras": (lambda w: wired(w, fully_recurrent=False, variant="keras"), ncp),
    "cfc_paper": (lambda w: wired(w, variant="paper"), ncp),
    "cfc_pure": (lambda w: wired(w, mode="pure"), ncp),
    "cfc_no_gate": (lambda w: wired(w, mode="no_gate"), ncp),
    "cfc_backbone": (lambda w: wired(w, backbone_units=5), ncp),
    "cfc_mixed": (lambda w: CfC(I, w, mixed_memory=True), ncp),
    "cfc_both": (lambda w: CfC(I, w, bidirectional=True), ncp),
}
COMPILED = ("ltc", "ltc_full", "ltc_both", "eltc", "cfc", "cfc_keras", "cfc_backbone")


def made(name):
    mx.random.seed(3)
    make, wiring = LAYERS[name]
    layer = make(wiring())
    for cell in cells(layer):
        if "erev" in cell:  # as after training: erev is not what the wiring drew
            cell.erev = cell.erev * 1.5 + 0.1
        mx.eval(layer.parameters())
    return layer


@pytest.fixture(autouse=True)
def quiet():
    """Edits that a CfC can't read warn; one test is about that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*(layer reads whole|from layer to layer)")
        yield


def cells(layer):
    return [each.rnn_cell for each in layer._directions]


def read_pairs(cell, side):
    """The synapses of a wiring that are read one by one, [source, target]."""
    matrix = np.array(cell.wiring[side])
    reads = np.zeros(matrix.shape, bool)
    for block in cell._tie.blocks:
        if block.matrix == side and block.kind != "own":
            reads[np.ix_(block.sources, block.targets)] = True
    return reads & (matrix != 0)


def first_read(cell, side):
    """A synapse that acts, such that its target keeps others."""
    source, target = np.argwhere(read_pairs(cell, side))[0]
    return int(source), int(target)


def without(matrix, source, target):
    matrix = np.array(matrix)
    matrix[source, target] = 0
    return matrix


def mask_places(cell, side, source, target):
    """Where a mask has a synapse: (holder, key, index)."""
    for block in cell._tie.blocks:
        if block.matrix == side and source in block.sources and target in block.targets:
            if block.kind == "own":
                continue
            holder = cell[block.part] if block.part else cell
            row = block.first + block.sources.index(source)
            if block.kind == "sources":
                return holder, block.key, (row,)
            column = block.targets.index(target)
            return holder, block.key, (column, row) if block.transposed else (row, column)
    raise AssertionError("no mask reads this synapse")


def assigned(layer, cell, side, source, target):
    setattr(cell.wiring, side, without(cell.wiring[side], source, target))


def in_place(layer, cell, side, source, target):
    cell.wiring[side][source, target] = 0


def item(layer, cell, side, source, target):
    cell.wiring[side] = mx.array(without(cell.wiring[side], source, target))


def removed(layer, cell, side, source, target):
    remove = "remove_sensory_synapse" if "sensory" in side else "remove_synapse"
    getattr(cell.wiring, remove)(source, target)


def pruned(layer, cell, side, source, target):
    sensory = "sensory" in side
    count = cell.wiring.prune(lambda s: s[:2] == (source, target), sensory=sensory)
    assert count == 1


def pruned_by_bools(layer, cell, side, source, target):
    gone = np.zeros(cell.wiring[side].shape, bool)
    gone[source, target] = True
    assert cell.wiring.prune(gone, sensory="sensory" in side) == 1


def masked(layer, cell, side, source, target):
    holder, key, at = mask_places(cell, side, source, target)
    mask = np.array(holder[key])
    mask[at] = 0
    setattr(holder, key, mx.array(mask))


def masked_in_place(layer, cell, side, source, target):
    holder, key, at = mask_places(cell, side, source, target)
    holder[key][at] = 0


def whole_wiring(layer, cell, side, source, target):
    wiring = copy.deepcopy(cell.wiring)
    wiring[side] = without(wiring[side], source, target)
    cell.wiring = wiring


def updated(layer, cell, side, source, target):
    model = nn.Sequential(layer)
    twin = copy.deepcopy(model)
    index = layer._directions.index(next(d for d in layer._directions if d.rnn_cell is cell))
    there = twin.layers[0]._directions[index].rnn_cell
    there.wiring[side] = without(there.wiring[side], source, target)
    model.update(twin.parameters())


def loaded(layer, cell, side, source, target):
    twin = copy.deepcopy(layer)
    index = layer._directions.index(next(d for d in layer._directions if d.rnn_cell is cell))
    removed(twin, twin._directions[index].rnn_cell, side, source, target)
    layer.load_weights(tree_flatten(twin.parameters()))


def loaded_by_mlx(layer, cell, side, source, target):
    twin = copy.deepcopy(layer)
    index = layer._directions.index(next(d for d in layer._directions if d.rnn_cell is cell))
    masked(twin, twin._directions[index].rnn_cell, side, source, target)
    nn.Sequential(layer).load_weights(tree_flatten(nn.Sequential(twin).parameters()))


EDITS = (
    *(assigned, in_place, item, removed, pruned, pruned_by_bools, masked, masked_in_place),
    *(whole_wiring, updated, loaded, loaded_by_mlx),
)


def fresh_of(name, layer):
    """A layer made with the edited wiring, and the same weights."""
    make = LAYERS[name][0]
    fresh = make(copy.deepcopy(layer.rnn_cell.wiring))
    for mine, theirs in zip(cells(fresh), cells(layer), strict=True):
        mine.wiring = theirs.wiring
    weights = [
        (key, value)
        for key, value in tree_flatten(layer.parameters())
        if "mask" not in key and "wiring" not in key
    ]
    fresh.update(tree_unflatten(weights))
    return fresh


def call(layer):
    mx.random.seed(8)
    x = mx.random.normal((B, T, I))
    mx.eval(x)
    return layer(x)[0]


def step(layer):
    if layer.bidirectional:
        return call(layer)
    mx.random.seed(9)
    x = mx.random.normal((B, I))
    mx.eval(x)
    _, state = layer.step(x)
    return layer.step(x, state, 0.5)[0]


def session(layer):
    if layer.bidirectional:
        return call(layer)
    mx.random.seed(10)
    x = mx.random.normal((B, I))
    mx.eval(x)
    stream = StreamingSession(layer)
    stream(x)
    return stream(x)


def cell_call(layer):
    outputs = []
    for cell in cells(layer):
        mx.random.seed(11)
        x = mx.random.normal((B, cell.sensory_size))
        h = mx.random.normal((B, cell.state_size))
        mx.eval(x, h)
        outputs += cell(x, h)
    return mx.concatenate(outputs, axis=-1)


FORMS = (call, step, session, cell_call)


def assert_one_truth(name, layer, form, path=None):
    fresh = fresh_of(name, layer)
    assert_close(form.__name__, form(layer), form(fresh), SAME)
    for cell, other in zip(cells(layer), cells(fresh), strict=True):
        for (key, mask), (_, wanted) in zip(
            tree_flatten(cell.parameters()), tree_flatten(other.parameters()), strict=True
        ):
            if "mask" in key:
                assert_close(key, mask, wanted, 0.0)
        wiring = cell.wiring
        assert cell.synapse_count == np.count_nonzero(np.array(wiring.adjacency_matrix))
        assert cell.sensory_synapse_count == np.count_nonzero(
            np.array(wiring.sensory_adjacency_matrix)
        )
        assert len(wiring.get_synapses()) == cell.synapse_count
        if isinstance(cell, LTCCell):
            full = all(np.array(cell[key]).all() for key in cell.fixed_keys)
            assert (cell.synapses is None) == full
            assert full or len(cell.synapses.source) == cell.synapse_count


def edited(name, edit, side, form):
    """A layer that has computed and was edited then, and what it gave before."""
    layer = made(name)
    cell = cells(layer)[-1]
    before = np.array(form(layer))
    edit(layer, cell, side, *first_read(cell, side))
    while name == "cfc_backbone" and np.array_equal(form(layer), before):  # reads whole sources
        edit(layer, cell, side, *first_read(cell, side))
    return layer, before


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_acts_at_once_and_everywhere(name, edit):
    for side in SIDES[name == "cfc_random" :]:  # of one layer, whose neurons all read each other
        for form in FORMS:
            layer, before = edited(name, edit, side, form)
            assert not np.array_equal(form(layer), before), (side, form.__name__)
            assert_one_truth(name, layer, form)


def absent(cell, side):
    """A pair without a synapse that a cell would read."""
    for block in cell._tie.blocks:
        if block.matrix == side and block.kind == "pairs":
            rows, columns = np.nonzero(
                np.array(cell.wiring[side])[np.ix_(block.sources, block.targets)] == 0
            )
            if len(rows):
                return block.sources[rows[0]], block.targets[columns[0]]
    return None


def add(cell, side, source, target, polarity):
    add = cell.wiring.add_sensory_synapse if "sensory" in side else cell.wiring.add_synapse
    add(source, target, polarity)


def set_in_place(cell, side, source, target, polarity):
    cell.wiring[side][source, target] = polarity


@pytest.mark.parametrize("how", [add, set_in_place])
@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"ltc_full", "cfc_backbone", "cfc_random"}))
def test_a_new_synapse_acts_and_starts_from_its_polarity(name, how):
    for side in SIDES:
        for form in FORMS:
            layer = made(name)
            cell = cells(layer)[-1]
            place = absent(cell, side)
            if place is None:
                continue
            before = np.array(form(layer))
            how(cell, side, *place, -1)
            assert not np.array_equal(form(layer), before), (side, form.__name__)
            assert_one_truth(name, layer, form)
            if "erev" in cell:
                erev = cell.erev if side == SIDES[0] else cell.sensory_erev
                assert erev[place].item() == -1


@pytest.mark.parametrize("how", [add, set_in_place])
@pytest.mark.parametrize("name", ["ltc", "ltc_mixed", "cfc_keras", "cfc_paper"])
def test_another_polarity_acts(name, how):
    for side in SIDES:
        layer = made(name)
        cell = cells(layer)[-1]
        place = first_read(cell, side)
        polarity = -int(np.array(cell.wiring[side])[place])
        before = np.array(call(layer))
        how(cell, side, *place, polarity)
        assert not np.array_equal(call(layer), before)
        assert_one_truth(name, layer, call)
        if "erev" in cell:
            erev = cell.erev if side == SIDES[0] else cell.sensory_erev
            assert erev[place].item() == polarity


def test_polarities_of_a_loaded_wiring_leave_the_reversal_potentials_as_loaded():
    layer, other = made("ltc"), made("ltc")
    wiring = other.rnn_cell.wiring
    wiring.adjacency_matrix = -wiring.adjacency
    other.rnn_cell.erev = other.rnn_cell.erev * 0.3
    layer.load_weights(tree_flatten(other.parameters()))
    assert_close("output", call(layer), call(other), 0.0)
    layer, pairs = made("ltc"), tree_flatten(other.parameters())
    nn.Sequential(layer).update({"layers": [tree_unflatten(pairs[::-1])]})
    assert_close("output", call(layer), call(other), 0.0)
    assert_close("erev", layer.rnn_cell.erev, other.rnn_cell.erev, 0.0)


def test_a_synapse_that_only_the_mask_gets_takes_the_sign_of_erev():
    layer = made("ltc")
    cell = layer.rnn_cell
    source, target = absent(cell, SIDES[0])
    cell.erev[source, target] = -0.7
    cell.sparsity_mask[source, target] = 1.0
    assert cell.wiring.get_synapses(source, target)[0].polarity == -1
    assert cell.erev[source, target].item() == pytest.approx(-0.7)
    assert_one_truth("ltc", layer, call)


def compiled_call(layer):
    def run(x):
        return layer(x)[0]

    return mx.compile(run, inputs=[layer.state], outputs=[layer.state])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_function_follows_or_gives_nan(name, backend):
    """Nobody tells a compiled function of an edit in place, before the layer is used otherwise."""
    x = mx.random.normal((B, T, I))
    side = SIDES[name == "cfc_random"]
    for edit in EDITS:
        with use_backend(backend):
            layer = made(name)
            run = compiled_call(layer)
            before = np.array(run(x))
            assert_close("before", before, layer(x)[0], SAME)
            cell = cells(layer)[-1]
            place = first_read(cell, side)
            edit(layer, cell, side, *place)
            after = run(x)
            if edit in (in_place, item, masked_in_place) and not np.isfinite(after).all():
                assert cell.synapse_count >= 0  # any use of the layer
                after = run(x)
            assert_close(edit.__name__, after, layer(x)[0], SAME)
            assert name == "cfc_backbone" or not np.array_equal(after, before)


@pytest.mark.parametrize("name", LAYERS)
def test_an_edit_is_in_files_copies_and_configurations(name, tmp_path):
    for number, edit in enumerate([removed, masked, in_place, masked_in_place]):
        side, suffix = SIDES[name == "cfc_random" or number % 2], ("npz", "safetensors")[number % 2]
        layer = made(name)
        cell = cells(layer)[-1]
        edit(layer, cell, side, *first_read(cell, side))
        path = str(tmp_path / f"{edit.__name__}.{suffix}")
        layer.save_weights(path)
        other = type(layer).from_config(json.loads(json.dumps(layer.get_config())))
        if not layer.bidirectional:  # whose other direction has a wiring that no argument tells
            wirings = (cells(each)[0].wiring[side].tolist() for each in (layer, other))
            assert len(set(map(str, wirings))) == 1
        other.load_weights(path)
        assert_close("loaded", call(other), call(layer), 0.0)
        assert_one_truth(name, other, call)
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert_close("copied", call(twin), call(layer), 0.0)
            last = cells(twin)[-1]
            assert_one_truth(name, twin, call)
            removed(twin, last, side, *first_read(last, side))  # a copy's wiring is its own
            assert last.wiring[side].tolist() != cell.wiring[side].tolist()
            assert_one_truth(name, twin, call)
        assert_one_truth(name, layer, call)


def test_masks_and_wiring_that_were_both_edited_must_agree():
    layer = made("ltc")
    cell = layer.rnn_cell
    source, target = absent(cell, SIDES[0])
    wiring, mask = cell["wiring"], cell["sparsity_mask"]
    kept = mx.array(mask)
    layer(mx.zeros((B, T, I)))
    mx.eval(wiring["adjacency_matrix"])
    wiring["adjacency_matrix"][source, target] = 1
    dict.__setitem__(cell, "sparsity_mask", kept * 1.0)  # no synapse of its own there
    layer(mx.zeros((B, T, I)))
    assert cell.sparsity_mask[source, target].item() == 1
    gone = first_read(cell, SIDES[0])
    wiring["adjacency_matrix"][gone] = -wiring["adjacency_matrix"][gone]
    mask = np.array(cell["sparsity_mask"])
    mask[gone] = 0
    dict.__setitem__(cell, "sparsity_mask", mx.array(mask))
    for use in (call, step, cell_call):
        with pytest.raises(ValueError, match=r"^\[ltc\] sparsity_mask and wiring.adjacency"):
            use(layer)
    wiring["adjacency_matrix"][gone] = 0
    assert_one_truth("ltc", layer, call)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["cfc", "cfc_backbone"])
def test_an_edit_that_a_cfc_does_not_read_warns(name):
    cell = made(name).rnn_cell
    commands = cell.wiring.get_neurons_of_type("command")
    synapse = next(s for s in cell.wiring.get_synapses() if s[0] in commands and s[1] in commands)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"^\[cfc\] 1 of the edited synapses change"):
            cell.wiring.remove_synapse(*synapse[:2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cell.wiring.add_synapse(*synapse)
    assert [warning.filename for warning in caught] == [__file__]  # the user's line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = made("cfc_own").rnn_cell
        own.wiring.remove_synapse(*synapse[:2])


def test_the_own_masks_of_a_fully_recurrent_layer_are_followed():
    layer = made("cfc")
    cell = layer.rnn_cell
    commands = cell.wiring.get_neurons_of_layer(1)
    synapse = next(s for s in cell.wiring.get_synapses() if s[0] in commands and s[1] in commands)
    row, column = commands.index(synapse.target), commands.index(synapse.source)
    part = cell.layer_1
    part.sparsity_mask[row, part.input_size + column] = 0
    assert cell.wiring.get_synapses(synapse.source, synapse.target) == []
    before = np.array(call(layer))
    cell.wiring.add_synapse(synapse.source, synapse.target, 1)
    assert part.sparsity_mask[row, part.input_size + column].item() == 1
    assert not np.array_equal(call(layer), before)


def test_another_wiring_must_fit():
    cell = made("ltc").rnn_cell
    for wrong in (NCP(4, 4, 3, 2, 2, 4, 2), None, "NCP"):
        before = dict(cell)
        with pytest.raises(ValueError, match=r"^\[ltc\] wiring must be a Wiring of 10 units"):
            cell.wiring = wrong
        assert dict(cell) == before
    with pytest.raises(ValueError, match="input_dim"):
        cell.wiring = NCP(4, 4, 2, 2, 2, 4, 2, input_dim=I + 1)


@pytest.mark.parametrize("sensory", [False, True])
def test_prune_takes_a_function_or_bools(sensory):
    wiring = AutoNCP(10, 2, input_dim=4)
    synapses = wiring.get_synapses(sensory=sensory)
    gone = [s for s in synapses if s.polarity < 0]
    assert wiring.prune(lambda s: s.polarity < 0, sensory=sensory) == len(gone) > 0
    assert wiring.get_synapses(sensory=sensory) == [s for s in synapses if s.polarity > 0]
    shape = wiring[SIDES[sensory]].shape
    assert wiring.prune(np.ones(shape, bool), sensory=sensory) == len(synapses) - len(gone)
    assert wiring.get_synapses(sensory=sensory) == []
    for wrong in (np.ones((3, 3), bool), np.ones(shape), 0.1, None):
        with pytest.raises(ValueError, match=r"^\[prune\] remove must be a function or bools"):
            wiring.prune(wrong, sensory=sensory)


def test_remove_synapse_checks_its_arguments():
    wiring = AutoNCP(10, 2)
    wiring.remove_synapse(0, 0)  # there is none
    for wrong in ((10, 0), (0, -1), (0.5, 0), ("a", 0)):
        with pytest.raises(ValueError, match=r"^\[remove_synapse\]"):
            wiring.remove_synapse(*wrong)
    with pytest.raises(ValueError, match="must be built"):
        wiring.remove_sensory_synapse(0, 0)


def test_the_owners_wiring_is_a_template():
    """Layers keep copies: an edit of it reaches those that are made later."""
    wiring = ncp()
    mx.random.seed(0)
    first = LTC(I, wiring)
    before = first.rnn_cell.synapse_count
    wiring.remove_synapse(*wiring.get_synapses()[0][:2])
    second = LTC(I, wiring)
    assert first.rnn_cell.synapse_count == before == second.rnn_cell.synapse_count + 1
    third = ncp()
    LTC(I, third)  # builds it for its owner
    third.adjacency_matrix[third.get_synapses()[0][:2]] = 0
    assert LTC(I, third).rnn_cell.synapse_count == before - 1


def test_edits_in_place_that_are_no_wiring_raise_and_can_be_mended():
    layer = made("ltc")
    wiring = layer.rnn_cell["wiring"]
    kept = [(name, mx.array(array)) for name, array in tree_flatten(layer.parameters())]
    wiring["adjacency_matrix"][0, 0] = 5
    for use in (call, step, cell_call):
        with pytest.raises(ValueError, match="must hold -1, 0 and"):
            use(layer)
    layer.load_weights(kept)
    assert_one_truth("ltc", layer, call)


def test_command_synapses_act_in_a_cfc_that_is_not_fully_recurrent():
    layer = made("cfc_own")
    commands = layer.rnn_cell.wiring.get_neurons_of_type("command")
    before = np.array(call(layer))
    gone = layer.rnn_cell.wiring.prune(lambda s: s.source in commands and s.target in commands)
    assert gone > 0
    assert not np.array_equal(call(layer), before)
    assert_one_truth("cfc_own", layer, call)
    with pytest.raises(ValueError, match=r"^\[cfc\] fully_recurrent=False wants a wiring"):
        CfC(I, 8, fully_recurrent=False)
    with pytest.raises(ValueError, match="fully_recurrent"):
        CfC(layer.rnn_cell, fully_recurrent=False)


def test_files_of_masks_and_wirings_that_disagree_are_refused_whole():
    layer, other = made("ltc"), made("ltc")
    cell = other.rnn_cell
    gone = first_read(cell, SIDES[0])
    weights = dict(tree_flatten(other.parameters()))
    names = [f"rnn_cell.{name}" for name in ("wiring." + SIDES[0], "sparsity_mask")]
    matrix, mask = (np.array(weights[name]) for name in names)
    matrix[gone] *= -1
    mask[gone] = 0
    weights.update(zip(names, (mx.array(matrix), mx.array(mask)), strict=True))
    before = [(k, np.array(v)) for k, v in tree_flatten(layer.parameters())]
    with pytest.raises(ValueError, match=r"^\[ltc\] sparsity_mask and wiring.adjacency"):
        layer.load_weights(list(weights.items()))
    for (key, was), (_, now) in zip(before, tree_flatten(layer.parameters()), strict=True):
        assert_close(key, now, was, 0.0)
    assert_one_truth("ltc", layer, call)


def test_a_mask_that_comes_before_erev_takes_its_new_sign():
    layer, other = made("ltc"), made("ltc")
    cell = other.rnn_cell
    source, target = absent(cell, SIDES[0])
    cell.erev[source, target] = -0.5
    cell.sparsity_mask[source, target] = 1.0
    weights = [(k, v) for k, v in tree_flatten(other.parameters()) if "wiring" not in k]
    weights.sort(key=lambda item: "mask" not in item[0])
    layer.load_weights(weights, strict=False)
    assert layer.rnn_cell.wiring.get_synapses(source, target)[0].polarity == -1
    assert_close("output", call(layer), call(other), 0.0)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "cfc_backbone"])
def test_weak_synapses_can_be_pruned(name):
    layer = made(name)
    cell = layer.rnn_cell
    for side in SIDES:
        sensory = side != SIDES[0]
        weights = np.array(cell.synapse_weights(sensory))
        reads = read_pairs(cell, side)
        exists = np.array(cell.wiring[side]) != 0
        assert weights.shape == exists.shape
        assert (weights >= 0).all()
        assert np.isinf(weights[exists & ~reads]).all()
        if not reads.any():
            continue
        threshold = np.median(weights[reads])
        weak = reads & (weights < threshold)
        gone = cell.synapse_weights(sensory) < threshold.item()
        assert cell.wiring.prune(gone, sensory=sensory) == weak.sum()
        assert np.array_equal(np.array(cell.wiring[side]) != 0, exists & ~weak)
    assert_one_truth(name, layer, call)


def test_weights_of_synapses_are_those_of_the_masked_heads():
    cell = made("cfc").rnn_cell
    source, target = first_read(cell, SIDES[0])
    part, _, (row, column) = mask_places(cell, SIDES[0], source, target)
    part.ff2.weight[row, column] = -7.0
    assert cell.synapse_weights()[source, target].item() == 7.0
    with pytest.raises(ValueError, match=r"^\[cfc\] synapse_weights wants"):
        made("cfc_backbone").rnn_cell.synapse_weights()
