"""The wheel holds every package folder and every data file, and works alone."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"xaibench": "xaibench"} | {
    folder: f"xaibench.{folder}" for folder in ("leaderboards", "methods", "metrics", "suites")
}


def packages_on_disk() -> set[str]:
    found = set()
    for folder, package in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *inner)))
    return found


def test_every_package_folder_is_listed() -> None:
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages_on_disk()


def files_of_the_repository() -> list[str]:
    """Paths of the files that git tracks, or would track."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout")
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("built")
    source = tmp_path_factory.mktemp("source")
    for name in files_of_the_repository():  # a copy, so that no build folder of an earlier day slips in
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "absent from the `packages` configuration" not in done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def test_the_sdist_is_the_repository(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert set(files_of_the_repository()) - inside == set()
    extra = {name for name in inside if name and not (ROOT / name).exists() and "egg-info" not in name}
    assert extra == {"PKG-INFO", "setup.cfg"}


def test_the_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    requirements = metadata.get_all("Requires-Dist", [])
    always = {re.split("[<>=;]", line)[0] for line in requirements if "extra ==" not in line}
    assert "scipy" in always  # the tests of `compare`
    assert {"pycocotools", "h5py", "matplotlib"}.isdisjoint(always)
    assert set(metadata.get_all("Provides-Extra", [])) == {"all", "data", "figures", "lint", "peers", "test"}
    assert 'xaibench[data,figures]; extra == "all"' in requirements
    assert metadata.get_all("Project-URL", []) == []  # until there is a public address
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_the_wheel_contains_everything(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            published = path.match("leaderboards/published/*.csv")
            if path.suffix in (".py", ".yaml", ".safetensors", ".json", ".txt", ".typed") or published:
                inside = "/".join((*package.split("."), *path.relative_to(ROOT / folder).parts))
                assert inside in names, f"{inside} is not in the wheel"
    outside = ("tests/", "methods/", "metrics/", "suites/", "leaderboards/")
    assert not [name for name in names if name.startswith(outside)]


def test_bundled_weights_stay_small(wheel: Path) -> None:
    sizes = [info.file_size for info in zipfile.ZipFile(wheel).infolist() if info.filename.endswith(".safetensors")]
    assert len(sizes) >= 2
    assert sum(sizes) < 6_000_000


def test_the_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    """The wheel runs in a new environment that has the same dependencies, without this checkout."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = tmp_path / "env" / "lib" / version / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n")

    def xaibench(*arguments: str) -> str:
        command = [str(python), "-c", "from xaibench.cli.app import main; main()", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [str(python), "-c", "import xaibench, xaibench.methods; print(xaibench.__file__, xaibench.methods.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert where.count(str(site)) == 2
    assert "grad_cam" in xaibench("list", "methods")
    assert "shapes" in xaibench("list", "suites")
