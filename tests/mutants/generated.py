"""Mutants that cosmic-ray's operators make of a module: the same ones each time, at most so many of each module.

cosmic-ray's own runner changes the working tree and starts Python anew for each mutant. Only its operators are taken.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mutants.mutant import Mutant
from tests.mutants.plan import OPERATORS, Module


def generated(root: Path, modules: Sequence[Module]) -> list[Mutant]:
    """The mutants of these modules.

    Raises:
        ModuleNotFoundError: cosmic-ray is not there; `make mutants` installs it.
    """
    return [each for module in modules for each in _mutants_of((root / module.path).read_text("utf-8"), module)]


def _mutants_of(source: str, module: Module) -> list[Mutant]:
    """Those whose places come first by a hash of their text: a change elsewhere in the file chooses no others."""
    found: list[Mutant] = []
    for _, name, occurrence in sorted(_places(source)):
        if len(found) == module.most:
            break
        mutated = _planted(source, name, occurrence)
        if _meaning(mutated) not in (None, _meaning(source)) and not _only_checks_less(source, mutated):
            found.append(Mutant(module.path, source, mutated, module.tests))
    return found


def _places(source: str) -> list[tuple[str, str, int]]:
    """(hash, operator, occurrence) of everything that the operators can change."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.operators.provider import OperatorProvider

    lines, nodes, operators = source.splitlines(), list(ast_nodes(get_ast(source))), OperatorProvider()
    found = []
    for name in OPERATORS:
        operator = operators[name]()
        starts = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, column) in enumerate(starts):
            # two numbers of one place differ by their occurrence
            text = f"{name} {column} {starts[:occurrence].count((line, column))} {lines[line - 1]}"
            found.append((hashlib.sha256(text.encode()).hexdigest(), name, occurrence))
    return found


def _planted(source: str, name: str, occurrence: int) -> str:
    """The source with this operator's change at its n-th place."""
    from cosmic_ray.ast import Visitor, get_ast
    from cosmic_ray.operators.provider import OperatorProvider

    operator = OperatorProvider()[name]()

    class Planting(Visitor):
        seen = 0

        def visit(self, node: Any) -> Any:
            for index, _ in enumerate(operator.mutation_positions(node)):
                if self.seen == occurrence:
                    node = operator.mutate(node, index)
                self.seen += 1
            return node

    return str(Planting().walk(get_ast(source)).get_code())


def _only_checks_less(source: str, mutated: str) -> bool:
    """Whether all that changed is a zip no longer strict or a dataclass no longer frozen: checks of our own code."""
    return source == mutated.replace("strict=False", "strict=True").replace("frozen=False", "frozen=True")


def _meaning(source: str) -> str | None:
    """The syntax tree without places, annotations and kinds of arguments; None of what is no Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arguments):  # to cosmic-ray the star before keywords is a product
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults = [*node.defaults, *filter(None, node.kw_defaults)]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)
