"""Plugins: what they may rely on, and one sentence with the line where one of them is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xaibench.core.errors import UsageError
from xaibench.core.registry import registry
from xaibench.core.registry.plugins import load_plugin

GOOD = """\
from xaibench import method


@method(source='test', cost='none')
def {name}(forward, pairs):
    '''Constant.'''
    return forward.images[pairs.image, 0]
"""


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove after each test what it registered and imported."""
    for gallery in (registry.methods, registry.metrics, registry.datasets):
        list(gallery)
        monkeypatch.setattr(gallery, "_entries", dict(gallery._entries))
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith(("xaibench_plugin_", "plugged")):
            del sys.modules[name]


def test_a_file_and_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(GOOD.format(name="from_a_file"))
    (tmp_path / "plugged").mkdir()
    (tmp_path / "plugged" / "__init__.py").write_text("")
    (tmp_path / "plugged" / "inner.py").write_text(GOOD.format(name="from_a_module"))
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        load_plugin(str(tmp_path / "own.py"))
        load_plugin("plugged.inner")
    assert {"from_a_file", "from_a_module"} <= set(registry.methods)


def test_timm_can_be_imported(tmp_path: Path) -> None:
    """A plugin imports timm in a new process, in which nothing else has imported it."""
    plugin = tmp_path / "with_timm.py"
    plugin.write_text("import timm\nimport sys\nprint('imported', 'torchvision' in sys.modules)\n")
    code = f"from xaibench.core.registry.plugins import load_plugin; load_plugin({str(plugin)!r})"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "imported True\n"
    )


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import absent_module\n", "plugin wrong.py:8: No module named 'absent_module'"),
        ("import wrong\n", "plugin wrong.py:8: No module named 'wrong'"),
        ("def f(:\n", "plugin wrong.py:8: SyntaxError: invalid syntax"),
        ("undefined\n", "plugin wrong.py:8: NameError: name 'undefined' is not defined"),
        (GOOD.format(name="cam"), "method 'cam' is defined twice: "),
        ("import sys\nsys.exit(3)\n", "plugin wrong.py:9: it ends the program (sys.exit) when it is imported"),
        ("method(needs=('feature',), source='', cost='')\n", "plugin wrong.py:8: unknown need 'feature'; did you mean"),
    ],
)
def test_a_plugin_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.py").write_text(GOOD.format(name="registered_first") + source)
    with pytest.raises(UsageError) as error:
        load_plugin("wrong.py")
    assert sentence in str(error.value)
    assert str(error.value).startswith("plugin wrong.py:")
    assert "\n" not in str(error.value)
    assert "registered_first" not in registry.methods
    assert "xaibench_plugin_wrong" not in sys.modules
    Path("wrong.py").write_text(GOOD.format(name="registered_first"))
    load_plugin("wrong.py")
    assert "registered_first" in registry.methods


def test_a_module_that_fails_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugged").mkdir()
    (tmp_path / "plugged" / "__init__.py").write_text("from plugged import inner\nimport plugged.absent\n")
    (tmp_path / "plugged" / "inner.py").write_text(GOOD.format(name="registered_first"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^plugin plugged/__init__\.py:2: No module named 'plugged\.absent'$"):
        load_plugin("plugged")
    assert "registered_first" not in registry.methods
    assert "plugged.inner" not in sys.modules


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no_such_module", "plugin 'no_such_module': no such module; give a module name or the path of a .py file"),
        ("no_such.inner", "plugin 'no_such.inner': no such module"),
        ("no_such.py", "plugin 'no_such.py': no such file"),
    ],
)
def test_plugins_that_are_not_there(name: str, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        load_plugin(name)
    assert sentence in str(error.value)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(GOOD.format(name=f"own_{folder}"))
    load_plugin(str(tmp_path / "a" / "own.py"))
    with pytest.raises(UsageError, match="another plugin has this name"):
        load_plugin(str(tmp_path / "b" / "own.py"))


# -- entry points --------------------------------------------------------------------------------------------------


def distribution(folder: Path, name: str, source: str) -> None:
    """An installed package with a plugin, as pip leaves it."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[xaibench.plugins]\nmine = {name}\n")


def listed(folder: Path, kind: str) -> tuple[str, str]:
    """stdout and stderr of `xaibench list`, with what is installed in `folder`."""
    command = [sys.executable, "-m", "xaibench", "list", kind]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["methods", "metrics"])
def test_a_broken_entry_point_is_left_out(tmp_path: Path, kind: str) -> None:
    distribution(tmp_path / "site", "good_package", GOOD.format(name="from_a_package"))
    distribution(tmp_path / "site", "broken_package", GOOD.format(name="half_registered") + "undefined\n")
    distribution(tmp_path / "site", "second_cam", GOOD.format(name="cam"))
    out, err = listed(tmp_path / "site", kind)
    warnings = sorted(err.splitlines())
    assert len(warnings) == 2
    assert (
        "warning: plugin 'mine' of broken_package 1.2 is left out: NameError: name 'undefined' is not defined"
        in warnings[0]
    )
    assert warnings[0].endswith("broken_package.py:8); mend or uninstall broken_package 1.2")
    assert "plugin 'mine' of second_cam 1.2 is left out: method 'cam' is defined twice" in warnings[1]
    assert "half_registered" not in out
    if kind == "methods":
        assert "from_a_package" in out
        assert "grad_cam" in out
