"""Formulas of a registration, such as `steps * pairs`: read as Python expressions, evaluated without `eval`."""

from __future__ import annotations

import ast
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

LARGEST_EXPONENT = 1024  # bits of a power; a larger one is infinite
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: _power(base, exponent),
    ast.USub: operator.neg,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "len": len,
}
ALLOWED = (
    "numbers, texts, names, `name.field`, + - * / // % ** == !=, `or`, `a if b else c`, parentheses and "
    + ", ".join(FUNCTIONS)
)


@dataclass(frozen=True)
class Formula:
    """A number that depends on named values.

    Attributes:
        text: as it was written; of a function the first line of its docstring
        names: of the values that it needs
        function: from those values to the number
    """

    text: str
    names: frozenset[str]
    function: Callable[[Mapping[str, Any]], Any]

    def __call__(self, values: Mapping[str, Any]) -> Any:
        return self.function({name: values[name] for name in self.names})


def formula(source: float | str | Callable[..., float]) -> Formula:
    """Read a formula: a number, an expression, or a function whose arguments are the names it needs.

    Raises:
        ValueError: the text is no expression, or holds something that formulas do not have
    """
    if callable(source):
        text = (inspect.getdoc(source) or source.__name__).splitlines()[0].rstrip(".")
        names = frozenset(inspect.signature(source).parameters)
        return Formula(text, names, lambda values: source(**values))
    text = str(source)
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no formula ({error.msg}); allowed: {ALLOWED}") from None
    return Formula(text, frozenset(_names(tree, text)), partial(_value, tree))


def _names(node: ast.AST, text: str) -> Iterable[str]:
    """Names in an expression. Raises ValueError for what no formula may hold."""
    match node:
        case ast.Name(id=name):
            yield name
            return
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if not attribute.startswith("_"):
            yield name
            return
        case ast.Constant(value=int() | float() | str() | None):
            return
        case ast.BinOp(op=op) | ast.UnaryOp(op=op) | ast.Compare(ops=[op]) if type(op) in OPERATORS:
            pass
        case ast.BoolOp(op=ast.Or()) | ast.IfExp():
            pass
        case ast.Call(func=ast.Name(id=called), keywords=[]) if called in FUNCTIONS:
            for argument in node.args:
                yield from _names(argument, text)
            return
        case _:
            found = ast.get_source_segment(text, node) or type(node).__name__
            raise ValueError(f"{text!r}: {found!r} may not be in a formula; allowed: {ALLOWED}")
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _names(child, text)


def _value(node: ast.AST, values: Mapping[str, Any]) -> Any:
    """The value of an expression that `_names` has let pass."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.Attribute(value=of, attr=attribute):
            return getattr(_value(of, values), attribute)
        case ast.BinOp(left=left, op=op, right=right) | ast.Compare(left=left, ops=[op], comparators=[right]):
            return OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.UnaryOp(op=op, operand=operand):
            return OPERATORS[type(op)](_value(operand, values))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _value(body if _value(test, values) else orelse, values)
        case ast.BoolOp(values=operands):
            first, *rest = (_value(operand, values) for operand in operands)
            return next((value for value in (first, *rest) if value), rest[-1])
        case ast.Call(func=ast.Name(id=called), args=arguments):
            return FUNCTIONS[called](*(_value(argument, values) for argument in arguments))
    raise AssertionError(ast.dump(node))


def _power(base: float, exponent: float) -> float:
    """base ** exponent, or infinity instead of a number of many digits."""
    if abs(base) > 1 and exponent * math.log2(abs(base)) > LARGEST_EXPONENT:
        return math.inf
    value: float = base**exponent
    return value
