"""The rules that hold the packages together: what may import what, what is public, what is never used."""

import ast
import doctest
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import interlock

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "vault", "protocols", "specs")  # each may import those before it

# What reads a clock, waits, or speaks to others. The same role must run in virtual time and in real processes.
TIMED = {"asyncio", "zmq", "time", "socket", "selectors", "threading", "sched"}
# The worlds of specs hold clocks and processes, and who runs specs says how long it took; specs themselves are pure.
TIMED_PLACES = ("protocols/net/", "protocols/service/", "specs/world_", "specs/search.py", "specs/cli.py")

# What a pure role has no use for, beside those: randomness comes from `Draw`, tensors are `Work`.
IMPURE = {"random", "secrets", "subprocess", "torch", "jax"}
CLOCKS = {(name, call) for name in ("datetime", "date") for call in ("now", "utcnow", "today")}

# What runs code that it reads.
READS_CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
RUNS_CODE = {"eval", "exec", "compile", "__import__"}
LOADERS = {("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load"), ("np", "save"), ("yaml", "load")}

HEAVY = ("torch", "jax", "tenseal")

# Modules that need an extra of pyproject.toml: nothing else imports it, and its own tests import the module.
EXTRAS = {"kernels/mask_triton.py": "triton"}


def sources() -> dict[str, str]:
    """Every module of the packages: its path below `interlock`, such as `protocols/net/runner.py`, and its text."""
    base = Path(interlock.__file__).parent
    found = {p.relative_to(base).as_posix(): p.read_text() for name in PACKAGES for p in (base / name).rglob("*.py")}
    assert {path.split("/")[0] for path in found} == set(PACKAGES)
    return found


SOURCES = sources()


def imported(path: str, text: str) -> Iterator[tuple[str, bool]]:
    """Walk through what a module imports: (dotted name, whether the import was relative), nested imports too."""
    here = ["interlock", *path.split("/")[:-1]]
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base in ("", "interlock"):  # `from interlock import kernels`, `from ... import kernels`
                yield from ((f"{base}.{alias.name}", bool(node.level)) for alias in node.names)
            else:
                yield base, bool(node.level)


def wrong_directions(path: str, text: str) -> list[str]:
    """Imports that point up, leave their package by dots, or name their own package in full."""
    own = path.split("/")[0]
    wrong = []
    for name, relative in imported(path, text):
        if not name.startswith("interlock.") and not relative:
            continue
        package = name.partition(".")[2].split(".")[0]
        if package not in PACKAGES:
            if relative or package != "__version__":
                wrong.append(name)
        elif relative != (package == own) or PACKAGES.index(package) > PACKAGES.index(own):
            wrong.append(name)
    return wrong


def imports_of(path: str, text: str, names: set[str]) -> list[str]:
    """Imports of these top-level modules."""
    return [name for name, relative in imported(path, text) if not relative and name.split(".")[0] in names]


def runs_of_code(path: str, text: str) -> list[str]:
    """Everything that could run code out of data."""
    found = imports_of(path, text, READS_CODE)
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RUNS_CODE:
            found.append(node.func.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in LOADERS:
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.append("allow_pickle")
    return found


def readings_of_clocks(path: str, text: str) -> list[str]:
    """Where `datetime` is asked for the time; what it does with times that it is given is arithmetic."""
    return [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(text, path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in CLOCKS
    ]


def public(text: str) -> tuple[list[str], list[str] | None]:
    """What an `__init__` offers (from its own package, or defined in it) and its `__all__`, None if it has none."""
    names, listed = [], None
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            names += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            assigned = [target.id for target in targets if isinstance(target, ast.Name)]
            if assigned == ["__all__"]:
                assert node.value is not None
                listed = ast.literal_eval(node.value)
            names += assigned
    return [name for name in names if not name.startswith("_")], listed


def in_order(names: list[str]) -> list[str]:
    """Constants, then classes, then functions, each by the alphabet (the order that ruff's RUF022 asks for)."""
    return sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name))


# --- the rules ---


def test_imports_point_one_way() -> None:
    assert {path: wrong for path, text in SOURCES.items() if (wrong := wrong_directions(path, text))} == {}


def test_only_net_service_and_worlds_know_time_and_sockets() -> None:
    elsewhere = {path: text for path, text in SOURCES.items() if not path.startswith(TIMED_PLACES)}
    assert {path: found for path, text in elsewhere.items() if (found := imports_of(path, text, TIMED))} == {}


def test_roles_are_pure() -> None:
    roles = {path: text for path, text in SOURCES.items() if re.fullmatch(r"protocols/\w+\.py", path)}
    assert {path: found for path, text in roles.items() if (found := imports_of(path, text, IMPURE))} == {}
    assert {path: found for path, text in roles.items() if (found := readings_of_clocks(path, text))} == {}


def test_nothing_runs_code_that_it_reads() -> None:
    assert {path: found for path, text in SOURCES.items() if (found := runs_of_code(path, text))} == {}


def test_an_extra_is_imported_by_its_module_alone() -> None:
    extras = set(EXTRAS.values())
    found = {(path, name.split(".")[0]) for path, text in SOURCES.items() for name in imports_of(path, text, extras)}
    assert found == set(EXTRAS.items())


@pytest.mark.parametrize("path", sorted(path for path in SOURCES if path.endswith("__init__.py")))
def test_all_lists_what_a_package_offers_in_order(path: str) -> None:
    offered, listed = public(SOURCES[path])
    assert (listed or []) == in_order(offered)


def exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


LIGHT = ["kernels", "vault", "protocols", "protocols.cli", "specs", "specs.search"]
LIGHT += [f"protocols.service.{name}" for name in ("coordinator", "relay", "gate", "witness")]


@pytest.mark.parametrize("module", [m for name in LIGHT if exists(m := f"interlock.{name}")])
def test_import_is_light(module: str) -> None:
    code = f"import {module}, sys; print([m for m in {HEAVY} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")


@pytest.mark.parametrize(("backend", "other"), [("torch", "jax"), ("jax", "torch")])
def test_a_node_imports_the_library_that_it_computes_with_and_no_other(backend: str, other: str) -> None:
    code = (
        "import sys\n"
        "from interlock.protocols.service import engine, node\n"
        f"print([m for m in {HEAVY} if m in sys.modules])\n"
        f"engine.stage_of({backend!r})\n"
        f"print({backend!r} in sys.modules, {other!r} in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.stdout.split("\n"), ran.stderr) == (["[]", "True False", ""], "")


def test_the_vocabulary_of_specs_needs_no_hypothesis() -> None:
    code = "import interlock.specs, sys; print('hypothesis' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == ("False", "")


def dotted_name(path: str) -> str:
    """Module of a path below `interlock`."""
    return "interlock." + path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def unreadable(name: str) -> None:
    raise ImportError(name)


MODULES = [
    module.name
    for module in pkgutil.walk_packages(interlock.__path__, "interlock.", onerror=unreadable)
    if not module.name.endswith("__main__")  # importing it would run it
]


def test_every_module_is_found() -> None:
    dotted = {dotted_name(path) for path in SOURCES}
    assert {name for name in dotted if not name.endswith("__main__")} == set(MODULES)
    assert len(MODULES) > 20


@pytest.mark.parametrize("name", [name for name in MODULES if name not in map(dotted_name, EXTRAS)])
def test_examples_in_docstrings_hold(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner()
    said: list[str] = []
    for case in doctest.DocTestFinder().find(module):
        runner.run(case, out=said.append)
    assert not runner.summarize(verbose=False).failed, "".join(said)


# Paths of one machine. In halves, so that this file does not hold them.
MACHINE = re.compile("|".join(["/wo" + r"rk/\w", "/ro" + r"ot/\w", "/Us" + r"ers/\w", r"[A-Z]:\\Us" + "ers"]))


def test_no_file_names_a_path_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    assert len(files) > 20
    found = {path.name: hit[0] for path in files if (hit := MACHINE.search(path.read_text(errors="replace")))}
    assert found == {}


# --- the rules catch what they are for ---


@pytest.mark.parametrize(
    ("path", "line", "caught"),
    [
        ("kernels/a.py", "from interlock.vault import Secret", True),
        ("kernels/a.py", "import interlock.protocols.round", True),
        ("vault/a.py", "from interlock import protocols", True),
        ("vault/a.py", "def f():\n    from interlock.specs.kit import x", True),
        ("protocols/a.py", "from interlock.protocols.round import x", True),
        ("protocols/a.py", "from ..vault import Secret", True),
        ("protocols/net/a.py", "from ...vault import Secret", True),
        ("protocols/net/a.py", "from ... import vault", True),
        ("protocols/a.py", "from interlock.elsewhere import x", True),
        ("vault/a.py", "from interlock.kernels import mask", False),
        ("vault/a.py", "from interlock import kernels, __version__", False),
        ("vault/a.py", "from . import masks\nfrom .masks import x", False),
        ("protocols/net/a.py", "from ..round import x\nfrom .. import round\nimport interlockings", False),
        ("protocols/net/__init__.py", "from .runner import x\nfrom ..round import y", False),
    ],
)
def test_a_wrong_direction_is_caught(path: str, line: str, caught: bool) -> None:
    assert bool(wrong_directions(path, line)) == caught


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("import time", True),
        ("from asyncio import sleep", True),
        ("def f():\n    import zmq.asyncio", True),
        ("from .time import tick", False),
        ("import timeit", False),
    ],
)
def test_an_import_of_time_is_caught(line: str, caught: bool) -> None:
    assert bool(imports_of("protocols/a.py", line, TIMED)) == caught


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("import pickle", True),
        ("from pickle import loads", True),
        ("eval('1')", True),
        ("import torch\ntorch.load('x')", True),
        ("np.load('x', allow_pickle=True)", True),
        ("model.eval()\nre.compile('x')", False),
    ],
)
def test_running_code_is_caught(line: str, caught: bool) -> None:
    assert bool(runs_of_code("protocols/a.py", line)) == caught


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("datetime.now()", True),
        ("date.today()", True),
        ("datetime.utcnow()", True),
        ("datetime.strptime(text, form)", False),
        ("self.orders.now", False),
    ],
)
def test_readings_of_clocks_are_found(line: str, caught: bool) -> None:
    assert bool(readings_of_clocks("protocols/a.py", line)) == caught


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("from .a import Bee, c\nMAX = 1\n__all__ = ['MAX', 'Bee', 'c']", True),
        ("from .a import Bee, c\n__all__ = ['c', 'Bee']", False),
        ("from .a import Bee, c\n__all__ = ['Bee']", False),
        ("from .a import Bee\n__all__ = ['Bee', 'gone']", False),
        ("from .a import Bee", False),
        ("import os\nfrom pathlib import Path\n", True),
    ],
)
def test_an_incomplete_list_is_caught(text: str, complete: bool) -> None:
    offered, listed = public(text)
    assert ((listed or []) == in_order(offered)) == complete
