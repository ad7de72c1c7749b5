"""The mutation check itself: every mistake has its place, and tests that cannot run notice nothing."""

import mutation_check
import pytest
from mutations import MUTATIONS

PASSES = "def test_fine():\n    assert 1 + 1 == 2\n"
FAILS = "def test_broken():\n    assert 1 + 1 == 3\n"
NOTICES = (
    "import pathlib, runpy\n"
    "def test_two():\n"
    "    code = pathlib.Path(__file__).parent.parent / 'code.py'\n"
    "    assert runpy.run_path(str(code))['two'] == 2\n"
)


def test_every_mistake_has_its_place_and_its_tests():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 25
    for mutation in MUTATIONS:
        assert mutation_check._applies(mutation), mutation.name
        assert mutation.right != mutation.wrong
        for test in mutation.tests:
            assert (mutation_check.ROOT / "tests" / test.partition("::")[0]).is_file(), test


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one line, and a mistake that can be made in it."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "code.py").write_text("two = 1 + 1\n")
    monkeypatch.setattr(mutation_check, "ROOT", tmp_path)
    monkeypatch.setattr(mutation_check, "_COPIED", ("tests", "code.py"))

    def check(test, text, capsys):
        (tmp_path / "tests" / "test_code.py").write_text(text)
        mistake = mutation_check.Mutation("a sum", "code.py", "1 + 1", "1 - 1", (test,))
        monkeypatch.setattr(mutation_check, "MUTATIONS", (mistake,))
        code = mutation_check.main(["--jobs", "1", "--out", str(tmp_path / "out.md")])
        return code, capsys.readouterr()

    return check


@pytest.mark.parametrize(
    ("test", "text", "code", "out", "err"),
    [
        ("test_code.py", NOTICES, 0, "1 of 1 killed", ""),
        ("test_code.py", PASSES, 1, "SURVIVED  a sum", ""),
        ("test_code.py", FAILS, 2, "", "these fail without any mistake: test_code.py::test_broken"),
        ("test_cod.py", PASSES, 2, "", "pytest test_cod.py ended with 4"),
        ("test_code.py", "", 2, "", "pytest test_code.py ended with 5"),
    ],
    ids=["noticed", "survived", "fails anyway", "no such file", "no test"],
)
def test_mistakes_that_are_noticed_or_not_and_tests_that_do_not_run(
    project, test, text, code, out, err, capsys
):
    found, printed = project(test, text, capsys)
    assert found == code
    assert out in printed.out
    assert err in printed.err


def test_new_mistakes_are_added_to_the_table_and_old_ones_are_not_made_again(tmp_path, monkeypatch):
    one, two, gone = (
        mutation_check.Mutation(name, "code.py", "a", "b", ()) for name in ("one", "two", "gone")
    )
    monkeypatch.setattr(mutation_check, "MUTATIONS", (one, two))
    monkeypatch.setattr(mutation_check, "_applies", lambda mutation: True)
    made = []
    monkeypatch.setattr(mutation_check, "killers_of", lambda mutation: made.append(mutation) or ["a_test"])
    page = tmp_path / "out.md"
    page.write_text(mutation_check.table({"two": mutation_check.row(two, ["x|y"])}))
    assert "1 other mistakes of the list were not made yet" in page.read_text()
    page.write_text(page.read_text() + mutation_check.row(gone, []) + "\n")
    assert mutation_check.main(["--new", "--jobs", "1", "--out", str(page)]) == 0
    assert made == [one]
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[:3] for line in rows] == [
        ["| one", "`code.py`", "`a_test`"],
        ["| two", "`code.py`", r"`x\|y`"],
    ]
    assert "not made yet" not in page.read_text()
