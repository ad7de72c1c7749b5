"""The README in other languages keeps step with the English one: programs, headings, links, names, figures.

Wording is the translator's. Programs are the same, byte for byte, so `tests/test_readme.py` runs them all.
"""

import ast
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

from prl import PPO, AsyncPPO, EnvVectorizer, utils

ROOT = Path(__file__).resolve().parent.parent
ENGLISH = ROOT / "README.md"
LANGUAGES = {"ru": "Русский", "de": "Deutsch", "es": "Español", "zh": "中文"}
TRANSLATIONS = [ROOT / f"docs/i18n/README.{language}.md" for language in LANGUAGES]
CODE_BLOCK = re.compile(r"^```\w+\n.*?^```", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")

every_translation = pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
every_readme = pytest.mark.parametrize("page", [ENGLISH, *TRANSLATIONS], ids=lambda page: page.name)


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose_of(page):
    return CODE_BLOCK.sub("", text_of(page))


def headings(page):
    """Levels and texts: [("##", "Quick start"), ...]."""
    return re.findall(r"^(#+) (.*)$", prose_of(page), re.MULTILINE)


def names(page):
    """Inline code; a line break may stand in it."""
    return [code.replace("\n", " ") for code in INLINE_CODE.findall(prose_of(page))]


def links(page):
    """Paths from the root with their anchors, without those from README to README."""
    found = []
    for link in LINK.findall(prose_of(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve().relative_to(ROOT)
        if not target.name.startswith("README"):
            found.append(f"{target}#{anchor}")
    return found


def figures(page):
    """Runs of digits, so that 1,000.5 is the same as 1.000,5 or 1 000,5."""
    return re.findall(r"\d+", LINK.sub("]", INLINE_CODE.sub("", prose_of(page))))


@every_translation
def test_the_programs_are_the_same(page):
    assert CODE_BLOCK.findall(text_of(page)) == CODE_BLOCK.findall(text_of(ENGLISH))


@every_translation
def test_every_heading_is_there_and_is_translated(page):
    translated, english = headings(page), headings(ENGLISH)
    assert len(english) > 10
    assert [level for level, _ in translated] == [level for level, _ in english]
    left = {heading for _, heading in translated} & {heading for _, heading in english}
    assert left == {"prl"}


@every_translation
@pytest.mark.parametrize("of", [names, links, figures], ids=lambda of: of.__name__)
def test_nothing_is_left_out(page, of):
    translated, english = Counter(of(page)), Counter(of(ENGLISH))
    assert len(english) > 10
    lacking, beyond = sorted((english - translated).elements()), sorted((translated - english).elements())
    assert (lacking, beyond) == ([], []), (
        f"{page.name} is not in step with README.md: it lacks the {of.__name__} {lacking}, "
        f"and has {beyond}, which are not there"
    )


@every_readme
def test_a_readme_links_to_the_others_at_its_top(page):
    top = text_of(page).split("\n\n")[1]
    pages = {"English": ENGLISH, **dict(zip(LANGUAGES.values(), TRANSLATIONS, strict=True))}
    linked = {name: (page.parent / link).resolve() for name, link in re.findall(r"\[(\w+)\]\((\S+)\)", top)}
    here = re.search(r"\*\*(\w+)\*\*", top)[1]
    assert pages[here] == page
    assert {**linked, here: page} == pages


# ---- tables of parameters


def section(page, name):
    """What stands below the heading that has a name of code in it."""
    heading = rf"^### [^\n]*`{name}`[^\n]*\n"
    found = re.search(rf"{heading}(.*?)^#", text_of(page), re.DOTALL | re.MULTILINE)
    assert found, f"{page.name} has no heading ### with `{name}`"
    return found[1]


@every_readme
@pytest.mark.parametrize("described", [PPO, AsyncPPO, EnvVectorizer], ids=lambda what: what.__name__)
def test_the_table_has_every_parameter_with_its_default(page, described):
    rows = re.findall(
        r"^\| `(\w+)` \| (?:`([^`]+)`|[^`|]+) \|", section(page, described.__name__), re.MULTILINE
    )
    wanted = inspect.signature(described).parameters.values()
    assert [(name, repr(ast.literal_eval(default)) if default else "") for name, default in rows] == [
        (parameter.name, "" if parameter.default is parameter.empty else repr(parameter.default))
        for parameter in wanted
    ]


@every_readme
def test_the_table_of_utils_has_every_function_and_parameter(page):
    rows = re.findall(r"^\| (?:`(\w+)` )?\| (`[^|]+) \|", section(page, "utils"), re.MULTILINE)
    listed = {}
    for function, parameters in rows:
        if function:
            current = listed[function] = []
        current += INLINE_CODE.findall(parameters)
    assert listed == {
        name: list(inspect.signature(function).parameters)
        for name, function in inspect.getmembers(utils, inspect.isfunction)
        if function.__module__ == utils.__name__ and not name.startswith("_")
    }
