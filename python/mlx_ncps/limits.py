"""How much a number among the arguments, a configuration or a file may ask for, where nothing else
bounds it. The limits are far above what such networks need, and what they admit fits one machine;
they are checked before anything is allocated or looped over.
"""

MAX_SIZE = 2**20  # one axis: inputs, neurons, outputs
MAX_AXIS = 2**31 - 1  # any other axis of an MLX array: batch, time
MAX_PLACES = 2**26  # a matrix of a wiring: 8192 fully connected neurons
MAX_NUMBERS = 2**31  # all weights of a layer: 8 GB
MAX_WIRED_INPUTS = 2**17  # inputs of a wiring, whose synapses are drawn input by input
MAX_LAYERS = 1024  # stacked layers, layers of a backbone
MAX_UNFOLDS = 10_000  # solver steps per time step
MAX_DRAWS = 2**22  # recurrent synapses that an NCP draws one by one
MAX_NESTING = 64  # lists and dicts in each other in a configuration
MAX_ITEMS = 2**18  # lists and dicts in a configuration
