"""COCO's own tokenizer of captions: Stanford's, in Java, called as COCO's evaluation calls it."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from llavakit.core.errors import ConfigError
from llavakit.rules.treebank import without_punctuation

JAR = "stanford-corenlp-3.4.1.jar"
SETTING = "LLAVAKIT_STANFORD_JAR"  # where the jar is; else that of an installed pycocoevalcap
SECONDS = 600.0


def find_jar() -> Path:
    """The tokenizer's jar. ConfigError where there is none."""
    if SETTING in os.environ:
        jar = Path(os.environ[SETTING])
    else:
        package = importlib.util.find_spec("pycocoevalcap")  # it is not imported: that needs more
        folders = (package.submodule_search_locations if package else None) or ["."]
        jar = Path(next(iter(folders))) / "tokenizer" / JAR
    if not jar.is_file():
        raise ConfigError(f"no {JAR}: pip install pycocoevalcap, or name the file by {SETTING}")
    return jar


def tokenize_all(captions: Sequence[str]) -> list[str]:
    """The tokens of each caption, joined by blanks, by one call of Java. ConfigError where that cannot be."""
    java = shutil.which("java")
    if java is None:
        raise ConfigError("the official tokenizer of captions needs `java` on the PATH")
    jar = find_jar().absolute()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "captions.txt"
        lines.write_text("".join(" ".join(caption.split()) + "\n" for caption in captions), encoding="utf-8")
        words: list[str | Path] = [java, "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", jar]
        words += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", lines]
        try:
            done = subprocess.run(words, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ConfigError(f"Java took over {SECONDS:.0f} s for {len(captions)} captions") from None
    said = done.stdout.decode(errors="replace").split("\n")
    if done.returncode or len(said) < len(captions):
        why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["fewer lines than captions"]
        raise ConfigError(f"the official tokenizer of captions failed: {why[0]}")
    return [without_punctuation(line.split()) for line in said[: len(captions)]]
