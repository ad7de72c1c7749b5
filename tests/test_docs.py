"""The pages say nothing that the repository contradicts: paths, tests, names, flags, links and line width."""

import ast
import dataclasses
import importlib
import re
from pathlib import Path
from typing import get_type_hints

import pytest

from prl.commands.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 110
TRANSLATIONS = sorted((ROOT / "docs" / "i18n").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *TRANSLATIONS,
]
MANUALS = [ROOT / "README.md", ROOT / "docs" / "guide.md", *TRANSLATIONS]
GENERATED = {"mutation_check.md", "quickstart_seeds.md"}  # by scripts, which do not wrap
CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
RESULTS = re.compile(r"<!-- results:begin -->.*?<!-- results:end -->", re.DOTALL)
INLINE_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")  # a line break may stand in it
FOLDERS = {"prl", "workers", "learner", "scripts", "tests", "docs", ".ci"}
FILES_OF_A_RUN = {"command.txt"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
every_manual = pytest.mark.parametrize("page", MANUALS, ids=lambda page: page.name)


def text_of(page):
    """A page without what scripts have written into it."""
    return RESULTS.sub("", page.read_text(encoding="utf-8"))


def inline_code(page):
    return [code.replace("\n", " ") for code in INLINE_CODE.findall(CODE_BLOCK.sub("", text_of(page)))]


@every_page
def test_prose_is_wrapped_at_one_width(page):
    if page.name in GENERATED:
        return
    prose = CODE_BLOCK.sub("", text_of(page)).splitlines()
    assert not [line for line in prose if len(line) > WIDTH and not line.startswith("|")]


# ---- links


def anchors(page):
    """GitHub's anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", CODE_BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_relative_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith("http"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {link}"


# ---- paths and names in backticks


def is_path(code):
    """Whether inline code names something of the repository: `prl/run/train.py`, `.ci/run`, `setup.cfg`."""
    if "/" in code:
        return code.partition("/")[0] in FOLDERS
    return bool(re.fullmatch(r"\w+\.(cfg|toml|txt|md)", code)) and code not in FILES_OF_A_RUN


@every_page
def test_paths_in_backticks_exist(page):
    if page.name in GENERATED:  # names of tests as they were when the script ran
        return
    missing = []
    for code in inline_code(page):
        path, _, test = code.partition("::")
        if " " in path or not is_path(path):
            continue
        found = sorted(ROOT.glob(path.replace("NAME", "*").rstrip("/")))
        if not found or (test and test not in functions_in(found[0])):
            missing.append(code)
    assert not missing


def functions_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@every_page
def test_names_that_are_said_to_be_in_a_file_are_defined_there(page):
    """As in "`POOLS` in `tests/workers/test_pool_contract.py`"."""
    for name, file in re.findall(r"`(\w+)`\s+(?:in|of)\s+`([\w/]+\.py)`", text_of(page)):
        text = (ROOT / file).read_text(encoding="utf-8")
        definition = rf"^(?:(?:def|class) {name}\b|{name}\b.*=)"
        assert re.search(definition, text, re.MULTILINE), f"{page.name}: {name} in {file}"


def test_the_map_of_the_design_is_complete():
    """The modules of every folder that "Where things are" lists, no more and no fewer."""
    rows = re.findall(
        r"^\| `([\w/]+)` \| ((?:`\w+` )+)\|", (ROOT / "docs/design.md").read_text(), re.MULTILINE
    )
    listed = {}
    for folder, modules in rows:
        listed.setdefault(folder, []).extend(re.findall(r"\w+", modules))
    files = [file for top in ("scripts", "prl", "workers", "learner") for file in (ROOT / top).rglob("*.py")]
    there = {}
    for file in files:
        if file.name != "__init__.py":
            there.setdefault(str(file.parent.relative_to(ROOT)), []).append(file.stem)
    assert {folder: sorted(modules) for folder, modules in listed.items()} == {
        folder: sorted(modules) for folder, modules in there.items()
    }


@every_page
def test_dotted_names_in_backticks_exist(page):
    if page.name == "CHANGELOG.md":  # it names what there was
        return
    for code in inline_code(page):
        if re.fullmatch(r"(prl|workers|learner)(\.\w+)+", code):
            assert resolves(code), f"{page.name}: {code}"


def resolves(name):
    """Whether a dotted name is a module, or something in one."""
    module, *attributes = name.split(".")
    found = importlib.import_module(module)
    for attribute in attributes:
        if not hasattr(found, attribute):
            try:
                importlib.import_module(f"{found.__name__}.{attribute}")
            except ImportError:
                return False
        found = getattr(found, attribute)
    return True


def rows_of_correctness():
    page = (ROOT / "docs" / "correctness.md").read_text(encoding="utf-8").partition("## Probe")[0]
    return re.findall(r"^\| \d+ \|.*$", page, re.MULTILINE)


def test_every_row_that_tests_refer_to_is_in_the_list():
    listed = {int(row.split("|")[1]) for row in rows_of_correctness()}
    referred = set()
    for file in (ROOT / "tests" / "learner").glob("test_*.py"):
        for heading in re.findall(r"^(?:\"\"\"|# ---- ).*$", file.read_text(encoding="utf-8"), re.MULTILINE):
            for after in re.split(r"\b[Rr]ows? ", heading)[1:]:
                for first, last in re.findall(r"\b(\d+)(?: to (\d+))?", after):
                    referred.update(range(int(first), int(last or first) + 1))
    assert {3, 11, 16} <= referred, "11 stands in a range"
    assert referred <= listed


def test_every_row_of_the_list_names_a_test():
    rows = rows_of_correctness()
    assert len(rows) >= 24
    assert not [row for row in rows if not re.search(r"`tests/[\w/]+\.py::test_\w+` \|$", row)]


# ---- flags


def flags_of(command):
    config = importlib.import_module(f"prl.commands.{command.replace('-', '_')}").COMMAND.config_class
    hints = get_type_hints(config)
    names = [field.name.replace("_", "-") for field in dataclasses.fields(config)]
    negated = [f"--no-{name}" for name in names if hints[name.replace("-", "_")] is bool]
    return {"--config", "--help", *negated, *(f"--{name}" for name in names)}


def commands_in(page):
    """Command lines of a page with the command's name: [("train", "--env-id CartPole-v1"), ...]."""
    names = "|".join(sorted(COMMANDS, key=len, reverse=True))  # tune-speed before tune
    pattern = rf"(?:\bprl |\bprl-|\bscripts/)({names})(?:\.py)?\b([^\n`#]*)"
    return re.findall(pattern, page.read_text(encoding="utf-8").replace("\\\n", ""))


@every_manual
def test_flags_of_command_lines_are_flags_of_that_command(page):
    lines = commands_in(page)
    assert any("--env-id" in line for _, line in lines)
    for command, line in lines:
        unknown = set(re.findall(r"--[a-z][\w-]*", line)) - flags_of(command)
        assert not unknown, f"{page.name}: {command}{line}"


@every_manual
def test_every_flag_that_is_named_exists(page):
    known = set.union(*map(flags_of, COMMANDS))
    named = {flag for code in inline_code(page) for flag in re.findall(r"--[a-z][\w-]*", code)}
    assert named
    assert named <= known


@every_manual
def test_commands_that_are_named_exist(page):
    starts = [re.match(r"(?:python -m )?prl[ -]([a-z-]+)\b", code) for code in inline_code(page)]
    named = {start[1] for start in starts if start}
    assert named
    assert named <= COMMANDS.keys()
