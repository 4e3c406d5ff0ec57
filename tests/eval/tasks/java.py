"""A program named java that stands for the official tokenizer of captions, which is 100 MB."""

import os
import stat
import sys
from pathlib import Path

import pytest

from llavakit.rules import stanford

JAVA = """#!{python}
import sys
assert sys.argv[-3:-1] == ["-preserveLines", "-lowerCase"] and sys.argv[4] == {jar!r}, sys.argv
for line in open(sys.argv[-1], encoding="utf-8"):
    print(line.lower().replace(".", " ."), end="")
"""


def put_java(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """It cuts off periods, and is first on the PATH; beside it an empty jar."""
    jar, program = folder / stanford.JAR, folder / "bin" / "java"
    jar.touch()
    program.parent.mkdir()
    program.write_text(JAVA.format(python=sys.executable, jar=str(jar)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    patch.setenv("PATH", str(program.parent) + os.pathsep + os.environ["PATH"])
    patch.setenv(stanford.SETTING, str(jar))
    return program
