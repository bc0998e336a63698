"""The check of the built site sees each kind of fault, and nothing where there is none."""

import importlib.util

import pytest

from tests.support import ROOT

PAGE = '<html><body><h1 id="here">x</h1>{}</body></html>'


@pytest.fixture
def check_site():
    path = ROOT / "docs" / "_sphinx" / "check_site.py"
    spec = importlib.util.spec_from_file_location("check_site", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BLOB = "https://github.com/mlx-ncps/mlx-ncps/blob/main"


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ('<a href="other.html#here">', ""),
        ('<a href="#here">', ""),
        ('<a href="https://example.org/#any">', ""),
        (f'<a href="{BLOB}/LICENSE#L1">', ""),
        ('<a href="other.html#there">', "index.html: other.html#there has no such anchor"),
        ('<a href="#there">', "index.html: #there has no such anchor"),
        ('<a href="no.html">', "index.html: no.html leads nowhere"),
        ('<img src="no.png">', "index.html: no.png leads nowhere"),
        ('<script src="https://cdn.org/x.js">', "index.html: loads https://cdn.org/x.js"),
        ('<link rel="stylesheet" href="//a.org/x.css">', "index.html: loads //a.org/x.css"),
        (f'<a href="{BLOB}/no.py">', f"index.html: {BLOB}/no.py is not in the repository"),
    ],
)
def test_what_is_wrong_with_a_page_is_told(part, fault, check_site, tmp_path, capsys):
    (tmp_path / "index.html").write_text(PAGE.format(part))
    (tmp_path / "other.html").write_text(PAGE.format(""))
    assert check_site.main(tmp_path) == (1 if fault else 0)
    assert capsys.readouterr().out.startswith(fault or f"{tmp_path}: links")
