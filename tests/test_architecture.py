"""Who may import whom. Kept by reading the imports, late ones included."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("scripts", "prl", "workers", "learner")
ALLOWED = {
    "scripts": {"prl", "workers"},
    "prl": {"prl", "workers", "learner"},
    "workers": {"workers"},
    "learner": {"learner"},
}
# From the bottom up: a wing of prl imports itself and what stands before it.
WINGS = [
    {"learner", "workers"},
    {"prl.config"},
    {"prl.pools"},
    {"prl.training"},
    {"prl.run"},
    {"prl.report"},
    {"prl.tuning"},
    {"prl.adapters"},
    {"prl.quickstart", "prl.async_ppo", "prl.custom_loop", "prl.utils", "prl.chain", "prl.sb3"},
    {"prl.commands"},
    {"prl.cli", "prl.__main__"},
    {"prl"},  # names of all of them, loaded when they are used
]
FLOOR_OF = {wing: floor for floor, wings in enumerate(WINGS) for wing in wings}
NOT_FOR = {  # besides the order
    "prl.config": {"workers", "prl.pools"},
    "prl.pools": {"learner", "prl.config"},
    "prl.training": {"prl.config", "prl.pools"},
    "prl.report": {"workers", "prl.pools", "prl.training"},
    "prl.tuning": {"prl.pools", "prl.training", "prl.report"},
    "prl.adapters": {"learner", "prl.config", "prl.training", "prl.run"},
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


def wing_of(module):
    """The wing of a module's full name, which may go on with a name in it."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "prl" and ".".join(parts[:2]) in FLOOR_OF else parts[0]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "prl").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_wings_of_prl_import_from_the_wings_below(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    wing = wing_of(module)
    assert wing == module or wing != "prl", f"{module} belongs to no wing"
    used = {wing_of(name) for name in imported(path)} & FLOOR_OF.keys() - {wing}
    if wing != "prl":
        assert not {other for other in used if FLOOR_OF[other] > FLOOR_OF[wing]}
    assert not used & NOT_FOR.get(wing, set())


def test_no_public_name_of_prl_is_a_module():
    """`from prl import train` must not give a module, whatever has been imported before."""
    code = (
        "import pkgutil, importlib, prl, types\n"
        "def modules(): return [n for n in prl.__all__ if isinstance(getattr(prl, n), types.ModuleType)]\n"
        "print(modules())\n"
        "for m in pkgutil.walk_packages(prl.__path__, 'prl.'):\n"
        "    importlib.import_module(m.name)\n"
        "print(modules())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['utils']\n['utils']\n"


def test_every_package_is_installed():
    """A wing that setup.cfg forgets is only missed after an installation."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    folders = {
        path.parent for layer in ("prl", "workers", "learner") for path in (ROOT / layer).rglob("*.py")
    }
    assert listed == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


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


def test_no_test_module_registers_an_env_when_it_is_imported():
    """Workers of all tests would get the env, and import the test module for it, torch included."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                assert not ast.unparse(node.value.func).endswith("register"), path.name
