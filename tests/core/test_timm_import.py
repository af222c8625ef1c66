"""`import_timm` works with a whole torchvision, which it leaves alone, and with one whose operators do not load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from xaibench.core.timm_import import KNOWN_ERROR, import_timm

# As torchvision does it: the compiled library defines the operators, and Python registers a fake kernel for one of them.
DEFINE = "library = torch.library.Library('torchvision', 'DEF')\nlibrary.define('nms(Tensor dets) -> Tensor')\n"
FAKE = "@torch.library.register_fake('torchvision::nms')\ndef nms(dets, *rest):\n    return dets.new_empty(0)\n"


def imported(folder: Path, source: str, code: str) -> str:
    """The output of `code` in a new process in which `torchvision` is a package made of `source`, with a module `ops`."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "ops.py").write_text("")
    (package / "__init__.py").write_text(f"import torch\nfrom torchvision import ops\nprint('executed')\n{source}")
    code = f"import sys, torch\nfrom xaibench.core import timm_import\n{code}"
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_timm_imports_here() -> None:
    assert import_timm().__version__


def test_a_whole_torchvision_is_left_alone(tmp_path: Path) -> None:
    code = (
        "timm_import.import_torchvision()\n"
        "print(torch.ops.torchvision.nms.default._schema, timm_import._library)\n"
        "timm_import.import_torchvision()\n"
    )
    printed = imported(tmp_path, DEFINE + FAKE, code)
    assert printed.splitlines() == ["executed", "torchvision::nms(Tensor dets) -> Tensor None"]


def test_operators_that_did_not_load_get_schemas(tmp_path: Path) -> None:
    code = (
        "timm_import.import_torchvision()\n"
        "print(torch.ops.torchvision.nms.default._schema.name, torch.ops.torchvision.qnms.default._schema.name)\n"
        "import torchvision\n"
        "print(torchvision.ops is sys.modules['torchvision.ops'], torchvision.nms.__name__)\n"
    )
    printed = imported(tmp_path, FAKE, code).splitlines()
    assert printed == ["executed", "executed", "torchvision::nms torchvision::qnms", "True nms"]


def test_one_that_is_imported_already_is_not_imported_again(tmp_path: Path) -> None:
    assert imported(tmp_path, "", "import torchvision\ntimm_import.import_torchvision()") == "executed\n"


def test_another_error_is_one_sentence_and_nothing_is_defined(tmp_path: Path) -> None:
    code = (
        "try:\n    timm_import.import_torchvision()\n"
        "except timm_import.MissingError as error:\n    print(error, timm_import._library)\n"
    )
    printed = imported(tmp_path, "raise RuntimeError('compiled for CUDA 12')", code).splitlines()
    assert printed[0] == "executed"
    assert printed[1].startswith(
        "torchvision cannot be imported: compiled for CUDA 12; install the torchvision that belongs"
    )
    assert printed[1].endswith(" None")


def test_without_torchvision_nothing_happens(tmp_path: Path) -> None:
    code = "sys.modules['torchvision'] = None\ntimm_import.import_torchvision()\nprint(timm_import._library)"
    assert imported(tmp_path, "", code) == "None\n"


def test_the_known_error_is_torchs(tmp_path: Path) -> None:
    """The words that tell the one situation from all others."""
    code = f"try:\n    import torchvision\nexcept RuntimeError as error:\n    print({KNOWN_ERROR!r} in str(error))"
    assert imported(tmp_path, FAKE, code).splitlines() == ["executed", "True"]
