"""A model as a folder, in the layout of Hugging Face: config.json and model.safetensors."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .checks import brief, flag, path, refused
from .config import from_config, to_config
from .weights import load_weights, save_weights

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]


def __dir__() -> list[str]:
    """The public names."""
    return __all__


CONFIG, WEIGHTS = "config.json", "model.safetensors"
_MOST_BYTES = 2**26  # of config.json: a wiring of 8192 neurons is larger than any that is read
_TYPE = "mlx_ncps"


def save_pretrained(model: Any, folder: str | os.PathLike[str]) -> Path:
    """Write a layer or cell, or a registered module of yours (`register`), as a folder; returns its
    path.

    Args:
        model: what to save; its weights must exist.
        folder: made when it isn't there; files of an earlier model in it are replaced.

    `config.json` holds {"model_type": "mlx_ncps", "architectures": [class], "mlx_ncps_version",
    "class", "config"}, the last two as `config.to_config` gives them; `model.safetensors` the
    weights with the metadata `format: mlx`, which `mx.load` reads too. Raises ValueError for what
    has no configuration, for a layer without weights, and where `folder` is a file.

    Example:
        >>> from mlx_ncps import LTC
        >>> from mlx_ncps.pretrained import from_pretrained, save_pretrained
        >>> from mlx_ncps.wirings import AutoNCP
        >>> where = save_pretrained(LTC(3, AutoNCP(16, 4)), "policy")
        >>> sorted(file.name for file in where.iterdir())
        ['config.json', 'model.safetensors']
        >>> type(from_pretrained("policy")).__name__
        'LTC'
    """
    import json  # when they are needed first, here and below
    import tempfile

    where = path("save_pretrained", "folder", folder)
    if where.exists() and not where.is_dir():
        raise ValueError(f"[save_pretrained] folder must be a folder, got the file {where.name}.")
    config = {"model_type": _TYPE, "architectures": [type(model).__name__]}
    config["mlx_ncps_version"] = import_module("mlx_ncps").__version__
    text = json.dumps(config | to_config(model), indent=2) + "\n"
    for part in model.modules():
        if isinstance(part, Pretrained):
            part.trainable_parameters()  # pyright: ignore[reportAttributeAccessIssue]  says what isn't built
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=where, prefix=".saving-") as half:  # both or none
        unfinished = path("save_pretrained", "folder", half)
        save_weights(model, unfinished / WEIGHTS)
        (unfinished / CONFIG).write_text(text, encoding="utf-8")
        for name in (WEIGHTS, CONFIG):
            os.replace(unfinished / name, where / name)
    return where


def from_pretrained(
    folder: str | os.PathLike[str], *, download: bool = False, revision: str | None = None
) -> Any:
    """The model that `save_pretrained` wrote, weights included, in training mode as any new one.

    Args:
        folder: its folder; with `download` the name of a repository of the Hugging Face hub.
        download: fetch it with the package `huggingface_hub`, into its cache. By default nothing is
            fetched.
        revision: branch, tag or commit of the repository; None: the newest.

    Only registered classes are made, and nothing in the files is executed. Raises
    FileNotFoundError for a missing folder or file, ValueError for a configuration that is none of
    this package or weights that don't fit it, ImportError when `huggingface_hub` is not installed.

    Example:
        >>> from mlx_ncps import CfC, from_pretrained, save_pretrained
        >>> from_pretrained(save_pretrained(CfC(3, 8), "model")).state_size
        8
    """
    if flag("from_pretrained", "download", download):
        folder = _downloaded(folder, revision)
    elif revision is not None:
        raise refused("from_pretrained", "revision", "None without download=True", revision)
    where = path("from_pretrained", "folder", folder)
    if not where.is_dir():
        raise FileNotFoundError(
            f"[from_pretrained] folder must exist, got {where}, which doesn't. For a repository of "
            "the Hugging Face hub: from_pretrained(name, download=True)."
        )
    made = from_config(_read_config(where / CONFIG))
    return load_weights(made, where / WEIGHTS)


def push_to_hub(
    model: Any,
    repository: str,
    *,
    private: bool = False,
    message: str = "Model of mlx-ncps",
    revision: str | None = None,
) -> Any:
    """Upload a model as `save_pretrained` writes it, with the package `huggingface_hub` and the
    user's own login there; returns what its `upload_folder` returns.

    Args:
        model: as in `save_pretrained`.
        repository: "user/name"; made when it isn't there.
        private: whether a new repository is private.
        message: of the commit.
        revision: branch to commit to; None: the main one.

    Raises as `save_pretrained` does; ImportError when `huggingface_hub` is not installed.

    Example:
        >>> from mlx_ncps import CfC
        >>> from mlx_ncps.pretrained import push_to_hub
        >>> push_to_hub(CfC(3, 8), "user/policy", private=True)  # doctest: +SKIP
        >>> push_to_hub(CfC(3, 8), "")
        Traceback (most recent call last):
        ValueError: [push_to_hub] repository must be a string, got ''.
    """
    import tempfile

    for name, value in (("repository", repository), ("message", message)):
        if not isinstance(value, str) or not value:
            raise refused("push_to_hub", name, "a string", value)
    private = flag("push_to_hub", "private", private)
    api = _hub("push_to_hub").HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        api.create_repo(repository, private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message, revision=revision
        )


class Pretrained:
    """`save_pretrained`, `from_pretrained` and `push_to_hub` of every layer and cell."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write this as a folder; see `mlx_ncps.pretrained.save_pretrained`."""
        return save_pretrained(self, folder)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        download: bool = False,
        revision: str | None = None,
    ) -> Self:
        """The model in a folder; see `mlx_ncps.pretrained.from_pretrained`. Raises ValueError when
        it is of another class.
        """
        made = from_pretrained(folder, download=download, revision=revision)
        if not isinstance(made, cls):
            raise ValueError(
                f"[from_pretrained] {CONFIG} must be of a {cls.__name__}, "
                f"got {type(made).__name__}."
            )
        return made

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        message: str = "Model of mlx-ncps",
        revision: str | None = None,
    ) -> Any:
        """Upload this; see `mlx_ncps.pretrained.push_to_hub`."""
        options = {"private": private, "message": message, "revision": revision}
        return push_to_hub(self, repository, **options)


def _read_config(file: Path) -> dict[str, Any]:
    """{"class", "config"} of a config.json."""
    import json

    op = "from_pretrained"
    if not file.is_file():
        raise FileNotFoundError(f"[{op}] {file} must exist, got no such file.")
    if file.stat().st_size > _MOST_BYTES:
        size = file.stat().st_size
        raise ValueError(f"[{op}] {CONFIG} must be at most {_MOST_BYTES} bytes, got {size}.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[{op}] {CONFIG} must be JSON ({error}).") from error
    if not isinstance(config, dict) or config.get("model_type") != _TYPE:
        got = config.get("model_type") if isinstance(config, dict) else config
        raise ValueError(f"[{op}] {CONFIG} must have model_type {_TYPE!r}, got {brief(got)}.")
    return {key: config.get(key) for key in ("class", "config")}


def _downloaded(repository: Any, revision: str | None) -> str:
    """The folder of a repository in the hub's cache, its two files alone."""
    if not isinstance(repository, str):
        raise refused("from_pretrained", "folder", "the name of a repository", repository)
    hub, files = _hub("from_pretrained"), [CONFIG, WEIGHTS]
    return hub.snapshot_download(repository, revision=revision, allow_patterns=files)


def _hub(op: str) -> Any:
    try:
        return import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise ImportError(
            f"[{op}] needs huggingface_hub, which is not installed: pip install huggingface_hub."
        ) from error
