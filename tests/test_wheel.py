"""A wheel holds all that a checkout's package does. `make newcomer` installs and uses one."""

import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = subprocess.run(
    ["git", "ls-files", "llavakit"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.splitlines()
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_file_that_is_no_python_is_package_data():
    data = SETUP["tool"]["setuptools"]["package-data"]
    patterns = [
        f"{package.replace('.', '/')}/{pattern}" for package, named in data.items() for pattern in named
    ]
    left_out = [
        file
        for file in FILES
        if not file.endswith(".py") and not any(fnmatch(file, each) for each in patterns)
    ]
    assert FILES and left_out == []
    unused = [each for each in patterns if not any(fnmatch(file, each) for file in FILES)]
    assert unused == []


def test_every_folder_with_python_in_it_is_a_package():
    folders = {str(Path(file).parent) for file in FILES if file.endswith(".py")}
    assert [folder for folder in sorted(folders) if f"{folder}/__init__.py" not in FILES] == []


def test_data_stands_in_packages():
    packages = {str(Path(file).parent).replace("/", ".") for file in FILES if file.endswith("__init__.py")}
    assert set(SETUP["tool"]["setuptools"]["package-data"]) <= packages
