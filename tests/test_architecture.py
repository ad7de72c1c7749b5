"""Who may import whom. Kept by reading the imports, late ones included."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("scripts", "prl", "workers", "learner")
ALLOWED = {
    "scripts": {"prl"},
    "prl": {"prl", "workers", "learner"},
    "workers": {"workers"},
    "learner": {"learner"},
}
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(path):
    """The full names of all modules that a file imports, inside functions and for types too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def packages(path):
    return {name.partition(".")[0] for name in imported(path)}


def test_the_files_are_found():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"prl", "workers", "learner"}
    assert "numpy" in packages(ROOT / "workers" / "block.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards_only(path):
    layer = path.relative_to(ROOT).parts[0]
    assert packages(path) & {*LAYERS, "tests"} <= ALLOWED[layer]


@pytest.mark.parametrize("path", sorted((ROOT / "workers").rglob("*.py")), ids=lambda path: path.name)
def test_workers_never_import_torch(path):
    assert "torch" not in packages(path)


@pytest.mark.parametrize("path", sorted((ROOT / "learner").rglob("*.py")), ids=lambda path: path.name)
def test_the_learner_knows_nothing_of_processes(path):
    assert not packages(path) & {"multiprocessing", "subprocess", "signal", "argparse", "cloudpickle"}


@pytest.mark.parametrize("module", ["workers.child", "workers.process_pool", "workers.testing", "prl"])
def test_light_modules_load_no_torch(module):
    """What the text of the imports does not show: what the imported modules import."""
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_worker_starts_without_numpy():
    """The limits on numpy's threads have an effect only until it is loaded."""
    code = "import sys, workers.bootstrap; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
