"""What the pages of docs/api need: docstrings, which are plain text, as reStructuredText."""

import importlib
import re

from docutils import nodes
from sphinx import addnodes

CODE = re.compile(r"(`+.+?`+)")
COLON = "\ue000"  # stands for a colon while napoleon would take what precedes one for a type


def quoted(name, rawtext, text, lineno, inliner, options=None, content=()):
    """`text` as code, and as a link where it is the name of a documented object."""
    text = text.replace("\x00", "")
    environment = inliner.document.settings.env
    code = nodes.literal(rawtext, text, classes=["py"])
    if not re.fullmatch(r"[A-Za-z_][\w.]*", text):
        return [code], []
    reference = addnodes.pending_xref(
        rawtext, code, refdoc=environment.docname, refdomain="py", reftype="obj", reftarget=text
    )
    reference["py:module"] = environment.ref_context.get("py:module")
    reference["py:class"] = environment.ref_context.get("py:class")
    return [reference], []


def escape(app, what, name, obj, options, lines):
    """Let | and * outside of code stand for themselves; those of examples do already."""
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = CODE.split(line)
        parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
        lines[i] = "".join(parts)
    if what in ("property", "attribute", "data"):
        lines[:] = [line.replace(":", COLON) for line in lines]


def restore(app, what, name, obj, options, lines):
    """Put back the colons that `escape` hid."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def source_module(app, module, name):
    """The module of a method's class for a method that another module defines: it then has no link
    to a source, as it has one beside its own class. None leaves the choice to viewcode.
    """
    owner, _, method = name.partition(".")
    owner = getattr(importlib.import_module(module), owner, None)
    place = getattr(getattr(owner, method, None), "__module__", None) if method else None
    return owner.__module__ if place and place != owner.__module__ else None


def setup(app):
    app.add_role("quoted", quoted)
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon, at 500
    app.connect("autodoc-process-docstring", restore, priority=600)
    app.connect("viewcode-follow-imported", source_module)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
