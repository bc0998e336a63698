"""A renderer of formulas that writes MathML: pages show them without scripts or a network."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
TAG = re.compile(r"\\tag\{([\d.]+)\}")
SPELLINGS = {r"\\dots\b": r"\\ldots", r"\\texttt\b": r"\\mathtt"}  # that tex2mathml lacks


def mathml(node, as_block):
    """The MathML of a node's formula; a warning and its LaTeX where that can't be had."""
    formula = TAG.sub("", node.astext()).strip()
    for spelling, ours in SPELLINGS.items():
        formula = re.sub(spelling, ours, formula)
    try:
        return tex2mathml(formula, as_block=as_block)
    except MathError as error:
        LOGGER.warning("formula %s: %s", formula, error, location=node)
        return f"<code>{formula}</code>"


def visit_inline(self, node):
    self.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_block(self, node):
    """A formula on lines of its own, with the number of its tag at the right."""
    number = TAG.search(node.astext())
    self.body.append('<div class="formula">')
    self.body.append(f'<div class="formula-scroll">{mathml(node, as_block=True)}</div>')
    if number:
        self.body.append(f'<span class="formula-number">({number[1]})</span>')
    self.body.append("</div>")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
