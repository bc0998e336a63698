"""Checks of a built site: links and anchors within it and links to the repository lead somewhere,
and no page loads anything from elsewhere.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = re.compile(r"https://github\.com/mlx-ncps/mlx-ncps/(?:blob|tree|edit|raw)/main/(.*)")
LOADED = {("script", "src"), ("img", "src"), ("source", "src"), ("iframe", "src")}


class Page(HTMLParser):
    """The anchors of a page, what it links, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded = {"", "top"}, [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        """Look at one tag."""
        given = dict(attributes)
        self.anchors.update(given[name] for name in ("id", "name") if given.get(name))
        for name in ("href", "src"):
            if given.get(name):
                self.links.append(given[name])
                sheet = tag == "link" and "stylesheet" in given.get("rel", "")
                if sheet or (tag, name) in LOADED:
                    self.loaded.append(given[name])


def faults(site):
    """What is wrong with the pages of `site`, a line each."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        for link in page.loaded:
            if urlsplit(link).netloc:
                yield f"{name}: loads {link}"
        for link in sorted(set(page.links)):
            parts, inside = urlsplit(link), REPOSITORY.fullmatch(link)
            if inside and not (ROOT / unquote(urlsplit(inside[1]).path)).exists():
                yield f"{name}: {link} is not in the repository"
            if parts.scheme or parts.netloc:
                continue
            target = Path(
                unquote(urljoin(path.as_uri(), parts.path or path.name))[len("file://") :]
            )
            if not target.is_file():
                yield f"{name}: {link} leads nowhere"
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name}: {link} has no such anchor"


def main(site):
    found = list(faults(Path(site)))
    print("\n".join(found) or f"{site}: links and anchors lead somewhere, nothing is loaded")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
