"""Specs by name or file: the ones that come with Interlock, and a designer's own."""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
import traceback
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from interlock.protocols.errors import InterlockError, Misused

from .schedule import Schedule
from .search import Mutant
from .spec import Property, Spec

PLACES = (__package__, f"{__package__}.examples")  # where specs lie that have a name
FRAMES_SHOWN = 2  # of a traceback


def every() -> list[type[Spec]]:
    """All specs that come with Interlock, by name."""
    found = [spec for place in PLACES for name in _modules(place) for spec in _specs_of(f"{place}.{name}", name)]
    return sorted(found, key=lambda spec: spec.name)


def find(text: str) -> list[type[Spec]]:
    """The spec of a name, or those in a Python file.

    Raises:
        Misused: E811, there is none; E812, the file cannot be imported.
    """
    if text.endswith(".py") or "/" in text:
        return _in_file(Path(text))
    for place in PLACES:
        if text in _modules(place) and (found := _specs_of(f"{place}.{text}", text)):
            return found
    beside = f"{text}.py"
    raise Misused(
        811,
        "no such spec",
        expected="a name from `interlock spec list`, or a Python file",
        actual=text,
        todo=f"Did you mean the file {beside}?" if Path(beside).is_file() else "See: interlock spec list",
    )


def spec_of(schedule: Schedule, path: Path) -> type[Spec]:
    """The spec of a schedule that was read from `path`: the one that it lies with, else the one of its name.

    Raises:
        Misused: E811, neither is there; E812.
    """
    beside = path.resolve().parent.parent.parent / f"{schedule.spec}.py"  # of SPEC/regressions/NAME/FILE
    if path.resolve().parent.name == schedule.spec and beside.is_file() and not _ours(beside):
        return named(_in_file(beside), schedule.spec)
    try:
        return named(find(schedule.spec), schedule.spec)
    except Misused as error:
        error.todo = "Name its spec too: give the Python file that it is in."
        raise


def named(specs: list[type[Spec]], name: str) -> type[Spec]:
    """The spec of this name, else the first: running it will say what is wrong."""
    return next((spec for spec in specs if spec.name == name), specs[0])


def mutants_of(spec: type[Spec]) -> dict[str, Mutant]:
    """The wrong roles of a spec: `MUTANTS` in `mutants/NAME.py` beside it; empty if there is no such file.

    Raises:
        Misused: E812.
    """
    home = sys.modules[spec.__module__]
    ours = _ours(Path(str(home.__file__)))
    path = Path(__file__ if ours else str(home.__file__)).parent / "mutants" / f"{spec.name}.py"
    if not path.is_file():
        return {}
    module = import_module(f"{__package__}.mutants.{spec.name}") if ours else _imported(path, "mutants_")
    found: dict[str, Mutant] = getattr(module, "MUTANTS", {})
    return found


def _ours(path: Path) -> bool:
    return path.resolve().is_relative_to(Path(__file__).resolve().parent)


def _modules(place: str) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(import_module(place).__path__) if module.name[0] != "_"]


def _specs_of(module: str, name: str) -> list[type[Spec]]:
    """The spec that one of our own modules is about: it has the module's name, and properties."""
    return [
        spec
        for spec in _defined(import_module(module))
        if spec.name == name and any(isinstance(part, Property) for part in spec._parts.values())
    ]


def _in_file(path: Path) -> list[type[Spec]]:
    if not path.is_file():
        raise Misused(811, f"there is no file {path}", todo="Make one with: interlock spec new NAME")
    found = _defined(_imported(path))
    if not found:
        raise Misused(811, f"{path} has no spec", expected="a class that inherits Spec")
    return found


def _defined(module: ModuleType) -> list[type[Spec]]:
    """The specs of a module that it does not itself build others on."""
    own: list[Any] = [part for part in vars(module).values() if isinstance(part, type) and issubclass(part, Spec)]
    own = [part for part in dict.fromkeys(own) if part.__module__ == module.__name__ and part.__name__[0] != "_"]
    return [part for part in own if not any(other is not part and issubclass(other, part) for other in own)]


class _AsWritten(SourceFileLoader):
    """Reads the source every time: Python's own cache does not notice a second edit within a second."""

    def get_code(self, fullname: str) -> Any:
        """Compile the file as it is now."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _imported(path: Path, prefix: str = "") -> ModuleType:
    """Import a file as `python FILE` would: with its folder on the path."""
    name, whole = prefix + path.stem, path.resolve()
    taken = sys.modules.get(name)
    if taken is not None and getattr(taken, "__file__", None) == str(whole):
        return taken
    if taken is not None or name in sys.stdlib_module_names or not name.isidentifier():
        raise Misused(812, f"{path} cannot be imported under its name", todo="Give the file another name.")
    if str(whole.parent) not in sys.path:
        sys.path.insert(0, str(whole.parent))
    found = importlib.util.spec_from_file_location(name, whole, loader=_AsWritten(name, str(whole)))
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except InterlockError:
        del sys.modules[name]
        raise
    except Exception as error:
        # Whatever the file raises: it is its author who reads this.
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES_SHOWN:]
        where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames) if "<" not in f.filename)
        if isinstance(error, SyntaxError):
            where = f"{Path(error.filename or path).name}:{error.lineno}"
        raise Misused(812, f"{path} cannot be imported: {type(error).__name__}: {error} ({where})") from error
    return module
