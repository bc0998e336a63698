"""Which modules of the package are public."""

from tests.support import ROOT

PACKAGE = ROOT / "python" / "mlx_ncps"


def public_modules():
    """The names of the modules that hide from `dir` what is not public, the package first.

    Nothing is imported: `mlx_ncps.alias` changes `sys.modules`.
    """
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: (len(path.parts), path)):
        if "\ndef __dir__()" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__")
