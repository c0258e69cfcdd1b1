"""What is mutated, by which operators, and which tests must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Module:
    """A file of the tree, the tests that guard it, and the most mutants that are made of it."""

    path: str
    tests: tuple[str, ...]
    most: int = 12


# Of cosmic-ray's operators those whose mutants differ in kind: each operator against one other, not against ten.
# Comparisons are turned round. Moving a bound of numbers that are measured by nothing (< to <=) changes no result.
OPERATORS = (
    "AddNot",
    "NumberReplacer",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBinaryOperator_Add_Sub",
    "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBinaryOperator_Mul_Div",
    "ReplaceBinaryOperator_Div_Mul",
    "ReplaceBinaryOperator_FloorDiv_Mul",
    "ReplaceBinaryOperator_Mod_Add",
    "ReplaceBinaryOperator_Pow_Mul",
    "ReplaceBinaryOperator_BitAnd_BitOr",
    "ReplaceBinaryOperator_BitOr_BitAnd",
    "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_NotEq_Eq",
    "ReplaceComparisonOperator_Lt_GtE",
    "ReplaceComparisonOperator_LtE_Gt",
    "ReplaceComparisonOperator_Gt_LtE",
    "ReplaceComparisonOperator_GtE_Lt",
    "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_USub_UAdd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ZeroIterationForLoop",
)

_CONVERT = "tests/grok1/weights/test_convert.py::test_"
WITHOUT_RANKS = (f"{_CONVERT}blocks_tile_every_tensor_of_a_checkpoint", f"{_CONVERT}round_trip_is_bitwise")
_JUDGE, _HISTORY, _PLAN = "tests/bench/judge/test_", "tests/bench/history/test_", "tests/bench/plan/test_"


def _judge(name: str, *tests: str) -> Module:
    return Module(f"bench/judge/{name}.py", tuple(f"{_JUDGE}{each}.py" for each in tests or (name,)))


MODULES = (
    _judge("difference", "difference", "evidence", "sessions"),
    _judge("evidence", "evidence", "difference", "sessions"),
    _judge("multiplicity"),
    _judge("metrics", "metrics", "attribution", "clock"),
    _judge("sessions"),
    _judge("clock"),
    _judge("stats"),
    _judge("void", "void", "mutations"),
    _judge("gate", "gate", "attribution", "sessions", "mutations", "planned_runs", "disturbance"),
    _judge("attribution"),
    _judge("beside"),
    _judge("alone"),
    _judge("rule"),
    _judge("outliers"),
    _judge("planned_runs"),
    _judge("nightly"),
    _judge("periods", "patterns"),
    _judge("stretches", "patterns"),
    _judge("patterns", "patterns", "rank_patterns"),
    _judge("levels", "levels", "patterns"),
    _judge("rank_patterns"),
    Module("bench/history/change_points.py", (f"{_HISTORY}change_points.py",)),
    Module("bench/history/noise.py", (f"{_HISTORY}change_points.py",)),
    Module("bench/history/setback.py", (f"{_HISTORY}change_points.py",)),
    Module("bench/history/session_level.py", (f"{_HISTORY}session_level.py",)),
    Module("bench/selftest/ordered.py", ("tests/bench/selftest/test_ordered.py",)),
    Module("bench/plan/topology.py", (f"{_PLAN}topology.py", f"{_PLAN}collectives.py")),
    Module("bench/plan/collectives.py", (f"{_PLAN}collectives.py",)),
    Module("bench/plan/operators.py", (f"{_PLAN}predict.py",)),
    Module("bench/plan/predict.py", (f"{_PLAN}predict.py",)),
    Module("bench/plan/schedule.py", (f"{_PLAN}schedule.py",)),
    Module("bench/plan/played.py", (f"{_PLAN}played.py",)),
    Module("grok1/config/memory.py", ("tests/grok1/config/test_memory.py",)),
    Module("grok1/kernels/dispatch.py", ("tests/grok1/kernels/test_merged_sums.py",), most=8),
    Module("grok1/kernels/capped_attention.py", ("tests/grok1/kernels/test_capped_attention.py",)),
    Module("grok1/training/expert_load.py", ("tests/grok1/training/test_expert_load.py",)),
    Module("grok1/weights/blocks.py", WITHOUT_RANKS),
)
