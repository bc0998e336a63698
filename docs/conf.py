"""Sphinx's configuration of the documentation site: `make docs` builds it into build/docs."""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS / "_sphinx"), str(ROOT / "python")]

REPOSITORY = "https://github.com/mlx-ncps/mlx-ncps"

project = "mlx-ncps"
author = "The mlx-ncps authors"
project_copyright = f"2026, {author}"
release = re.search(
    r'__version__ = "(.*)"', (ROOT / "python" / "mlx_ncps" / "__init__.py").read_text()
)[1]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "mathml",
    "api_pages",
    "repository_links",
]
exclude_patterns = ["_*"]
nitpick_ignore_regex = [
    ("py:obj", ".*"),  # single backticks, most of which are code
    ("py:func", r"mlx_ncps\.wirings\.draw\..*"),
    ("py:.*", r"(mlx|mx|nn|np|numpy|torch|keras|collections|typing|pathlib)\..*"),  # not ours
]

# Markdown as GitHub reads it: `$` formulas, and an anchor for every heading.
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

# Docstrings.
default_role = "quoted"  # of api_pages: a link where the name is public, code otherwise
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and units, which types do not
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
maximum_signature_line_length = 80
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"

copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"mlx-ncps {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": f"{REPOSITORY}/",
    "source_branch": "main",
    "source_directory": "docs/",
}
