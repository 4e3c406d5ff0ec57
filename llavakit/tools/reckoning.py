"""Tools that reckon: a calculator, and arithmetic over tables. Neither runs text as a program."""

import ast
import csv
import io
import math
import operator
import statistics
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from llavakit.text.calls import ToolError
from llavakit.tools.arguments import Answer

Number = int | float
MOST_BITS = 4096  # of a whole number; larger ones take time and say nothing
BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
FUNCTIONS: dict[str, Callable[..., Number]] = {
    "sqrt": math.sqrt, "abs": abs, "round": round, "min": min, "max": max, "sin": math.sin, "cos": math.cos,
    "tan": math.tan, "asin": math.asin, "acos": math.acos, "atan": math.atan, "atan2": math.atan2, "exp": math.exp,
    "log": math.log, "log2": math.log2, "log10": math.log10, "floor": math.floor, "ceil": math.ceil,
    "radians": math.radians, "degrees": math.degrees, "hypot": math.hypot, "gcd": math.gcd,
}  # fmt: skip
CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
AS_WRITTEN = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"})


def calculate(
    expression: Annotated[str, Field(max_length=1000, description="Such as (3 + 4) * sqrt(2).")],
) -> Answer:
    """Compute an arithmetic expression exactly where it can be: + - * / // % ^, brackets, sqrt, log, sin, round."""
    try:
        tree = ast.parse(expression.strip().translate(AS_WRITTEN), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolError(f"{expression!r} is not an arithmetic expression") from None
    try:
        value = _value(tree.body)
    except RecursionError:
        raise ToolError("the expression is too deep") from None
    except (ZeroDivisionError, OverflowError, ValueError, TypeError) as error:
        raise ToolError(f"it cannot be computed: {error}") from None
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise ToolError("it has no finite real value")
    return Answer({"value": value})


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=bool()):
            raise ToolError("True and False are no numbers")
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in BINARY:
            return _bounded(_binary(sign, _value(left), _value(right)))
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in UNARY:
            return UNARY[type(sign)](_value(operand))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            return _bounded(FUNCTIONS[name](*map(_value, arguments)))
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
            raise ToolError(f"unknown name {name!r}; there are: {', '.join([*FUNCTIONS, *CONSTANTS])}")
    raise ToolError("only numbers, + - * / // % ^, brackets and functions such as sqrt are computed")


def _binary(sign: ast.operator, left: Number, right: Number) -> Number:
    if isinstance(sign, ast.Pow) and isinstance(left, int) and isinstance(right, int):
        if right < 0 and left != 0:
            return float(left) ** right
        if abs(left) > 1 and abs(left).bit_length() * right > MOST_BITS:
            raise ToolError("the number would have too many digits")
    return BINARY[type(sign)](left, right)


def _bounded(number: Number) -> Number:
    if isinstance(number, int) and number.bit_length() > MOST_BITS:
        raise ToolError("the number has too many digits")
    return number


Operation = Literal["sum", "mean", "median", "min", "max", "count", "difference", "sort"]


def table(
    text: Annotated[
        str, Field(max_length=100_000, description="The table, columns apart by comma, tab, ; or |.")
    ],
    column: Annotated[str, Field(max_length=200, description="Name of the column, as in the first row.")],
    operation: Operation = "sum",
    where: Annotated[
        str | None, Field(max_length=400, description="Only rows in which a column says this: column=value.")
    ] = None,
) -> Answer:
    """Arithmetic over one column of a table: its sum, mean, median, min, max, count, difference or order.

    Numbers may have signs, thousands commas, percent and currency signs. Rows without a number are told apart.
    """
    rows = _rows(text)
    if len(rows) < 2:
        raise ToolError("a table is a row of names and at least one row below it")
    names = [cell.strip() for cell in rows[0]]
    place, body = _place(names, column), rows[1:]
    if where is not None:
        name, equal, value = where.partition("=")
        if not equal:
            raise ToolError("where is written as column=value")
        wanted = _place(names, name)
        body = [
            row for row in body if wanted < len(row) and row[wanted].strip().lower() == value.strip().lower()
        ]
    cells = [(row[0].strip() if row else "", row[place].strip() if place < len(row) else "") for row in body]
    read = [(name, number) for name, cell in cells if (number := _number(cell)) is not None]
    said = {"rows": len(cells), "without_number": len(cells) - len(read)}
    if operation == "count":
        return Answer({"value": len(cells)} | said)
    if not read:
        raise ToolError(f"no row has a number in {column!r}")
    return Answer(_reckon(operation, read) | said)


def _reckon(operation: Operation, read: Sequence[tuple[str, float]]) -> dict[str, object]:
    numbers = [number for _, number in read]
    match operation:
        case "sum":
            return {"value": _neat(math.fsum(numbers))}
        case "mean":
            return {"value": _neat(statistics.fmean(numbers))}
        case "median":
            return {"value": _neat(statistics.median(numbers))}
        case "difference":
            return {"value": _neat(max(numbers) - min(numbers))}
        case "sort":
            ordered = sorted(read, key=lambda one: -one[1])[:50]
            return {"order": [{"row": name, "value": _neat(number)} for name, number in ordered]}
    name, number = (min if operation == "min" else max)(read, key=lambda one: one[1])
    return {"value": _neat(number), "row": name}


def _neat(number: float) -> Number:
    return int(number) if number == int(number) else float(f"{number:.12g}")


def _rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.strip() and set(line.strip()) - set("|-+: ")]
    first = lines[0] if lines else ""
    sign = max("\t|;,", key=first.count)
    if sign == "|":
        lines = [line.strip().strip("|") for line in lines]
    return list(csv.reader(io.StringIO("\n".join(lines)), delimiter=sign))


def _place(names: Sequence[str], name: str) -> int:
    lowered = [one.lower() for one in names]
    if name.strip().lower() not in lowered:
        raise ToolError(f"there is no column {name.strip()!r}; there are: {', '.join(names)}")
    return lowered.index(name.strip().lower())


def _number(cell: str) -> float | None:
    bare = cell.strip().strip("$€£¥% ").replace(",", "").replace("−", "-").replace(" ", "")
    try:
        number = float(bare)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
