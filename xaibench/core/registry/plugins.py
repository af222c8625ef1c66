"""Load plugins: methods, metrics and data sets in a user's file or module, and in entry points of installed packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xaibench.core.errors import MissingError, UsageError, XaibenchError
from xaibench.core.registry.registry import Registry, datasets, methods, metrics
from xaibench.core.tracebacks import place, reason

GROUP = "xaibench.plugins"
GALLERIES: tuple[Registry[Any], ...] = (methods, metrics, datasets)
SELF_EXPLAINING = (XaibenchError, ImportError, ValueError)  # their messages need no class name


def load_plugin(name: str) -> None:
    """Import a user's module: a file (`my_methods.py`) or a module name. Loading it again does nothing.

    Raises:
        UsageError: no such file or module, or an exception in it, after which nothing of it stays registered
    """
    _prepare()
    path = Path(name)
    module = f"xaibench_plugin_{path.stem}" if path.suffix == ".py" else name
    try:
        with _undone_on_error():
            if path.suffix == ".py":
                _import_file(path, module)
            else:
                importlib.import_module(module)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        if path.suffix != ".py" and isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"plugin {name!r}: no such module; give a module name or the path of a .py file"
            ) from error
        raise UsageError(f"plugin {_where(error, module) or name}: {_message(error)}") from error


def _import_file(path: Path, module_name: str) -> None:
    if not path.is_file():
        raise UsageError(f"plugin {str(path)!r}: no such file")
    if module_name in sys.modules:
        loaded = sys.modules[module_name].__file__
        if loaded is None or not path.samefile(loaded):
            raise UsageError(f"plugin {str(path)!r}: another plugin has this name: {loaded}; rename one of them")
        return
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[module_name])
    except BaseException:
        del sys.modules[module_name]
        raise


_entry_points_loaded = False


def load_entry_points() -> None:
    """Import the entry points of the group `xaibench.plugins`, once.

    A failing entry point is left out, with a warning on stderr that names its distribution: a broken package must not
    stop every command.
    """
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    points = importlib.metadata.entry_points(group=GROUP)
    if points:
        _prepare()
    for point in points:
        try:
            with _undone_on_error():
                point.load()
        except (Exception, SystemExit) as error:
            origin = "an unknown distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"
            at = _where(error, point.module)
            print(
                f"warning: plugin {point.name!r} of {origin} is left out: {_message(error)}"
                + (f" ({at})" if at else "")
                + f"; mend or uninstall {origin}",
                file=sys.stderr,
            )


def _prepare() -> None:
    """Prepare for plugins: make timm importable, and register xaibench's own names first."""
    from xaibench.core.timm_import import import_torchvision

    with suppress(MissingError):  # not every plugin needs timm
        import_torchvision()
    for gallery in GALLERIES:
        gallery.load()


@contextmanager
def _undone_on_error() -> Iterator[None]:
    """If the block fails, undo its registrations and forget the modules that made them."""
    before = [set(gallery._entries) for gallery in GALLERIES]
    try:
        yield
    except BaseException:
        for gallery, names in zip(GALLERIES, before, strict=True):
            for name in set(gallery._entries) - names:
                sys.modules.pop(gallery._entries.pop(name).function.__module__, None)
        raise


def _where(error: BaseException, module: str) -> str | None:
    """The innermost line of the plugin's own package."""
    package = module.partition(".")[0]
    return place(error, lambda name: name.partition(".")[0] == package)


def _message(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "it ends the program (sys.exit) when it is imported"
    if isinstance(error, SyntaxError):  # str(error) repeats the file
        return f"{type(error).__name__}: {error.msg}"
    return str(error) if isinstance(error, SELF_EXPLAINING) else reason(error)


for _gallery in GALLERIES:
    _gallery.then = load_entry_points
