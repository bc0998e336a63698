"""Relative links out of docs/, which work on a page of the repository, lead there from the site."""

import posixpath
import re

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
LINK = re.compile(r"(?<!\!)(\]\()((?!https?:|mailto:|#)[^)\s#]+)(#[^)\s]*)?(\))")
FENCED = re.compile(r"(^```.*?^```|^:::.*?^:::)", re.DOTALL | re.MULTILINE)


def rewrite(app, docname, content):
    """Give the address in the repository of what a page links and the site does not hold."""
    config, root = app.config, app.srcdir.parent
    folder = posixpath.dirname(docname)

    def replaced(match):
        path = posixpath.normpath(posixpath.join("docs", folder, match[2]))
        inside = path.startswith("docs/")
        if inside and path.endswith((".md", ".png", ".svg")):
            return match[0]
        if not (root / path).exists():
            LOGGER.warning("link to %s, which does not exist", match[2], location=docname)
        kind = "tree" if (root / path).is_dir() else "blob"
        source = config.html_theme_options["source_repository"].rstrip("/")
        branch = config.html_theme_options["source_branch"]
        return f"{match[1]}{source}/{kind}/{branch}/{path}{match[3] or ''}{match[4]}"

    parts = FENCED.split(content[0])
    content[0] = "".join(p if i % 2 else LINK.sub(replaced, p) for i, p in enumerate(parts))


def setup(app):
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
