"""docs/architecture.md: every path and every name that it gives in backticks exists."""

import re
from pathlib import Path

import pytest

from tests.support import ROOT

PAGES = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"]
HOMES = [ROOT, ROOT / "python" / "mlx_ncps", ROOT / "python" / "mlx_ncps" / "backends"]
FOLDERS = ("python", "csrc", "src", "metal", "tests", "simulator", "benchmarks", "tools")
FOLDERS += ("build_backend", "cmake", "examples", "docs", ".github", ".ci")
REPOSITORY = re.compile(
    r"https://(?:github|raw\.githubusercontent)\.com/mlx-ncps/mlx-ncps/(?:(?:blob|tree|raw)/)?main/(.*)"
)
SUFFIXES = {".py", ".pyi", ".md", ".h", ".cpp", ".inl", ".metal", ".cmake", ".toml"}
SUFFIXES |= {".json", ".yml"}


def project_files():
    paths = [
        p for folder in FOLDERS if (ROOT / folder).is_dir() for p in (ROOT / folder).rglob("*")
    ]
    return [p for p in [*paths, *ROOT.glob("*")] if p.is_file() and "__pycache__" not in p.parts]


FILES = project_files()
NAMES = {path.name for path in FILES}
WORDS = set()
for _path in FILES:
    if _path.name == Path(__file__).name:
        continue  # it names what does not exist
    if (_path.suffix in SUFFIXES and _path.suffix != ".md") or _path.name == "Makefile":
        WORDS.update(re.findall(r"\w+", _path.read_text(encoding="utf-8", errors="replace")))


MAPPED = ("python/mlx_ncps", "csrc", "src", "metal")
UNMAPPED = ("__init__.py", "_build_info.py", "py.typed")
GENERATED = ("_build_info.py",)
EXAMPLES = re.compile("[Ff]oo|softsign|midpoint")  # what the page tells how to add


def quoted(page):
    """What stands in backticks, outside of blocks of code."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def missing(token):
    """What of a quoted text does not exist; "" where all of it does."""
    if EXAMPLES.search(token) or token in GENERATED:
        return ""
    if token.startswith("make "):
        target = token.split()[1]
        return "" if re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text()) else target
    if " " in token or token.startswith(("-", "[", "<")) or "<" in token:
        parts = [part for part in re.findall(r"[\w./*-]+", token) if "/" in part]
        return next((part for part in parts if not exists(part.rstrip("."))), "")
    if "/" in token:
        return "" if exists(token) else token
    if "*" in token or Path(token).suffix in SUFFIXES:
        pattern = re.escape(token).replace(r"\*", ".*")
        return "" if any(re.fullmatch(pattern, name) for name in NAMES) else token
    words = re.findall(r"[A-Za-z_]\w+", token)
    return next((word for word in words if word not in WORDS), "")


def exists(path):
    return any(any(home.glob(path.strip("/"))) for home in HOMES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_names_in_backticks_exist(page):
    tokens = quoted(page)
    assert len(tokens) > 20
    lost = {token: missing(token) for token in tokens if missing(token)}
    assert not lost, f"{page.name} names what does not exist: {lost}"


def test_every_file_of_package_and_native_code_is_listed():
    tokens = set(quoted(PAGES[0]))
    for folder in MAPPED:
        for path in sorted((ROOT / folder).rglob("*.*")):
            inside = path.relative_to(ROOT).as_posix()
            skipped = path.name in UNMAPPED or path.name.startswith("_ext.c")
            if skipped or "__pycache__" in inside or "/numpy/" in inside:
                continue
            names = {inside, path.name, inside.removeprefix("python/mlx_ncps/")}
            names.add(inside.removeprefix("python/mlx_ncps/backends/"))
            assert names & tokens, f"docs/architecture.md does not list {inside}"


def test_a_path_or_name_that_does_not_exist_is_seen():
    assert not missing("csrc/ltc.cpp")
    assert missing("csrc/nothing.cpp") == "csrc/nothing.cpp"
    assert missing("nothing_at_all.py") == "nothing_at_all.py"
    assert not missing("ops.ltc_sequence")
    assert missing("ops." + "ltc_" + "nothing") == "ltc_nothing"
    assert missing("make nothing") == "nothing"


@pytest.mark.parametrize(
    "page",
    [*sorted((ROOT / "docs").rglob("*.md")), *PAGES[1:], ROOT / "README.md"],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_links_between_pages_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        inside = REPOSITORY.fullmatch(target)
        if target.startswith("http") and not inside:
            continue
        path, _, anchor = (inside[1] if inside else target).partition("#")
        other = ((ROOT if inside else page.parent) / path).resolve() if path else page
        assert other.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"(?m)^#+ (.*)$", other.read_text(encoding="utf-8"))
            assert anchor in map(slug, titles), f"{page.name}: {target}"


def slug(title):
    """The anchor that GitHub and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
