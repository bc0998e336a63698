"""Configurations: how cells, layers and wirings become JSON and come back; `register` admits a
user's own cell.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .checks import brief, refused
from .config_bounds import bounded, check_nesting, count_value
from .recording import recorded

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Configurable", "from_config", "register", "to_config"]


def __dir__() -> list[str]:
    """The public names."""
    return __all__


Class = TypeVar("Class", bound=type)

_CLASSES: dict[str, Any] = {}  # by name; the only ones that a configuration can name
_LATER: list[Callable[[], Any]] = []  # import modules with more of our classes; each called once
_BUILT_FOR = "built_for"


def register(cls: Class) -> Class:
    """Let configurations name `cls`, which has `get_config()` and a class method `from_config`.

    A decorator for cells that are plain classes or modules; subclasses of `NCPLayer`, `LiquidCell`,
    the layers and `Wiring` are registered when they are defined. A name of this package stays its
    own; of two other classes of one name the later counts.

    Example:
        >>> @register
        ... class Double(nn.Module):
        ...     def get_config(self):
        ...         return {}
        ...     @classmethod
        ...     def from_config(cls, config):
        ...         return cls()
        >>> config.to_config(Double())
        {'class': 'Double', 'config': {}}
    """
    if not inspect.isclass(cls):
        raise refused("register", "cls", "a class", cls)
    known = _CLASSES.get(cls.__name__)
    if known is None or not _is_ours(known) or _is_ours(cls):
        _CLASSES[cls.__name__] = cls
    return cls  # pyright: ignore[reportReturnType]  what isclass narrowed it to


def _is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == __name__.split(".")[0]


class Configurable:
    """`get_config()` and `from_config()` by the arguments of the constructor, recorded once.

    The arguments may be what JSON knows, arrays, wirings, other configurable objects, and lists and
    dicts of these. Wirings are copied when they are recorded, so a configuration is that of the
    object as it was made, and of the number of inputs that it was built for; only of a wiring that
    was edited in the object since it tells the synapses of now (`_argument_now`).

    Example:
        >>> layer = CfC(20, AutoNCP(28, 4))  # layers, cells and wirings are all Configurable
        >>> twin = CfC.from_config(layer.get_config())
        >>> twin.output_size, isinstance(twin, config.Configurable)
        (4, True)
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register(cls)
        if "__init__" in cls.__dict__:
            cls.__init__ = recorded(cls.__init__)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs, compatible with JSON: the constructor's arguments, a wiring or
        cell among them as {"class": name, "config": its configuration}, and `built_for`, the number
        of inputs once it is known. Weights are not in it.

        Raises ValueError for an argument that has no such form, as a plain function.
        """
        with bounded():
            config = encoded_arguments(self)
        width = self._built_for()
        return config if width is None else {**config, _BUILT_FOR: width}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """An object of this class from a `get_config()`, with new weights; `load_weights` fills it.

        Only registered classes are made, whatever the configuration names.
        Raises ValueError for another class or arguments that this class does not take.
        """
        check_nesting(_mapping(cls, config))
        arguments = {key: _decode(value) for key, value in config.items()}
        width = arguments.pop(_BUILT_FOR, None)
        made = construct(cls, arguments)
        if width is not None:
            made._build_for(width)
        return made

    def _built_for(self) -> int | None:
        """The number of inputs that this is built for."""
        return None

    def _build_for(self, width: int) -> None:
        """Make the weights for so many inputs."""

    def __copy__(self) -> Self:
        """A shallow copy: the arrays and modules are the same, what is known of them its own."""
        twin = type(self).__new__(type(self))
        own = {key: copy.copy(value) for key, value in vars(self).items() if key.startswith("_")}
        twin.__dict__.update({**vars(self), **own})
        dict.update(cast(dict, twin), cast(dict, self))
        return twin


def construct(cls: type, arguments: dict[str, Any]) -> Any:
    """`cls(**arguments)`; ValueError when the constructor doesn't take these arguments."""
    if not all(isinstance(key, str) for key in arguments):
        raise ValueError(f"[from_config] config must have names as keys, got {brief(arguments)}.")
    try:
        inspect.signature(cls.__init__).bind(None, **arguments)
    except TypeError as error:
        raise ValueError(
            f"[from_config] config must hold the arguments of {cls.__name__}: {error}; "
            f"got {brief(list(arguments))}."
        ) from error
    return cls(**arguments)


def encoded_arguments(made: object) -> dict[str, Any]:
    """The recorded arguments of an object in the form that JSON knows."""
    name, arguments = type(made).__name__, made.__dict__.get("_arguments", {})
    if any(key.startswith("*") for key in arguments):
        raise ValueError(f"[get_config] {name} must define it itself, as it was given *args.")
    now = getattr(made, "_argument_now", lambda value: value)
    return {key: _encode(f"{name}.{key}", now(value)) for key, value in arguments.items()}


def _encode(name: str, value: Any) -> Any:
    """`value` in the form that JSON knows."""
    count_value()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) is dict:
        return {str(key): _encode(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(f"{name}[{n}]", item) for n, item in enumerate(value)]
    if hasattr(value, "get_config"):
        return to_config(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    kind = getattr(value, "__name__", type(value).__name__)
    raise ValueError(
        f"[get_config] {name} must be JSON, an array, or have get_config() and from_config() and "
        f"be registered with mlx_ncps.register, got {kind}."
    )


def _decode(value: object) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"class", "config"}:
            return from_config(value)
        return {key: _decode(item) for key, item in value.items()}
    return value


def to_config(value: Any) -> dict[str, Any]:
    """{"class": name, "config": configuration} of `value`, a cell, layer or wiring.

    Raises ValueError when its class is not registered.

    Example:
        >>> config.to_config(AutoNCP(28, 4))["class"]
        'AutoNCP'
    """
    name = type(value).__name__
    if _CLASSES.get(name) is not type(value):
        hint = "that name is taken" if name in _CLASSES else "use mlx_ncps.register"
        raise ValueError(f"[get_config] {name} must be a registered class, got none: {hint}.")
    return {"class": name, "config": value.get_config()}


def from_config(config: dict[str, Any]) -> Any:
    """The cell, layer or wiring of `config`, which `to_config` gave, with new weights.

    Raises ValueError when it isn't of that form or names a class that is not registered.

    Example:
        >>> layer = config.from_config(config.to_config(CfC(20, 16)))
        >>> layer(mx.zeros((8, 50, 20)))[0].shape
        (8, 50, 16)
    """
    if type(config) is not dict or set(config) != {"class", "config"}:
        raise ValueError(f"[from_config] config must hold class and config, got {brief(config)}.")
    name = config["class"]
    while isinstance(name, str) and name not in _CLASSES and _LATER:
        _LATER.pop()()
    if not isinstance(name, str) or name not in _CLASSES:
        raise ValueError(f"[from_config] class must be registered, got {brief(name)}.")
    return _CLASSES[name].from_config(_mapping(_CLASSES[name], config["config"]))


def _mapping(cls: type, config: object) -> Mapping[str, Any]:
    if not isinstance(config, Mapping):
        raise ValueError(
            f"[from_config] config of {cls.__name__} must be a dict, got {type(config).__name__}."
        )
    return config
