"""Print the smallest version of every dependency that pyproject.toml declares, for pip: `torch==2.5 torchvision==0.20 ...`.

The extras that users install (`all` and what it names) count as well; those for developers do not.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def minima() -> list[str]:
    """`name==version` of each requirement `name>=version`, in the order of the file."""
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    named = re.fullmatch(r"xaibench\[(.+)\]", everything)
    assert named is not None, everything
    requirements = [*PROJECT["dependencies"], *(line for extra in named[1].split(",") for line in extras[extra])]
    for line in requirements:
        assert re.fullmatch(r"[\w.-]+>=[\d.]+", line), f"pyproject.toml: {line!r}: a requirement is name>=version"
    return [line.replace(">=", "==") for line in requirements]


if __name__ == "__main__":
    print(*minima())
