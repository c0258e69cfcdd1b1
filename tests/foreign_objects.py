"""The house rule that finds changes to objects that are not ours: assignments, setattr, delattr, `vars(x)[...]`, and
changes of a private container of theirs, as in `module._forward_hooks[key] = hook`.

An attribute may be assigned on `self`, `cls` or autograd's `ctx`, one level deep, or on a variable whose class is
visibly ours: every binding of it in its function is annotated with, or made by calling, a class of this house.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

OWN_NAMES = ("self", "cls", "ctx")
OWN_PACKAGES = ("grok1", "bench", "reports")
FOREIGN_TYPES = ("grok1.megatron.door", "grok1.megatron.protocols")  # megatron's, by our names
DICT_CHANGES = ("pop", "popitem", "update", "setdefault", "clear", "__setitem__", "__delitem__", "__ior__")
LIST_CHANGES = ("append", "extend", "insert", "remove", "add", "discard", "move_to_end")

Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def foreign_changes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, source) of each change to an object that is not visibly ours."""
    yield from _changes_in(tree, _own_classes(tree), {})


def _changes_in(scope: Scope, classes: set[str], outer: dict[str, bool]) -> Iterator[tuple[int, str]]:
    is_ours = {**outer, **_bindings(scope, classes)}
    for node in nodes_of(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _changes_in(node, classes, is_ours)
        for changed in _changed_objects(node):
            if not (isinstance(changed, ast.Name) and (changed.id in OWN_NAMES or is_ours.get(changed.id))):
                yield node.lineno, ast.unparse(node)


@functools.cache
def nodes_of(scope: Scope) -> tuple[ast.expr | ast.stmt, ...]:
    """All nodes of a scope; of the functions inside it, only the functions themselves."""
    found = list(ast.iter_child_nodes(scope))
    for node in found:  # which grows
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found += ast.iter_child_nodes(node)
    return tuple(node for node in found if isinstance(node, ast.expr | ast.stmt))


def _changed_objects(node: ast.AST) -> Iterator[ast.expr]:
    """The objects whose attributes this node sets or deletes."""
    if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
        yield node.value
    elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        yield from _owner_of_container(node.value)
    elif isinstance(node, ast.AugAssign):
        yield from _owner_of_container(node.target)
    elif isinstance(node, ast.Call):
        yield from _objects_changed_by_call(node)


def _objects_changed_by_call(call: ast.Call) -> Iterator[ast.expr]:
    functions = [call.func, *call.args]  # setattr(x, ...), and functions that are handed setattr and x
    for function, argument in zip(functions, functions[1:], strict=False):
        if last_name(function).strip("_") in ("setattr", "delattr"):
            yield argument
    if isinstance(call.func, ast.Attribute) and call.func.attr in (*DICT_CHANGES, *LIST_CHANGES):
        yield from _owner_of_container(call.func.value)


def _owner_of_container(node: ast.expr) -> Iterator[ast.expr]:
    """x, of `vars(x)`, `x.__dict__` and any other private attribute, `x._hooks`."""
    if isinstance(node, ast.Call) and _called(node) == "vars" and node.args:
        yield node.args[0]
    elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        yield node.value


def _called(call: ast.Call) -> str:
    """A name without a dot, or nothing."""
    return call.func.id if isinstance(call.func, ast.Name) else ""


def last_name(node: ast.expr) -> str:
    """What stands last in the source of a name, plain or dotted; of what else there is, after its last dot.

    Most nodes are names or constants, and writing the source of each takes ten times as long.
    """
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    return "" if isinstance(node, ast.Constant) else ast.unparse(node).rpartition(".")[2]


def _own_classes(tree: ast.Module) -> set[str]:
    """Names of classes that this file defines or imports from this house."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if isinstance(node, ast.ImportFrom) and module.split(".")[0] in OWN_PACKAGES and module not in FOREIGN_TYPES:
            names |= {alias.asname or alias.name for alias in node.names if alias.name[:1].isupper()}
    return names


def _bindings(scope: Scope, classes: set[str]) -> dict[str, bool]:
    """The names that a scope binds, and whether each is of a class of ours: by its annotation, else at every binding.

    mypy makes sure that what is annotated stays so.
    """
    found = dict(_annotated(scope, classes))
    annotated = set(found)
    made = {
        target: _called(node.value) in classes
        for node in nodes_of(scope)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
    }
    for node in nodes_of(scope):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in annotated:
            found[node.id] = made.get(node, False) and found.get(node.id, True)
    return found


def _annotated(scope: Scope, classes: set[str]) -> Iterator[tuple[str, bool]]:
    for each in () if isinstance(scope, ast.Module) else ast.walk(scope.args):
        if isinstance(each, ast.arg):
            yield each.arg, _names_class(each.annotation, classes)
    for node in nodes_of(scope):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, _names_class(node.annotation, classes)


def _names_class(annotation: ast.expr | None, classes: set[str]) -> bool:
    if annotation is None:
        return False
    name = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
    return name in classes
