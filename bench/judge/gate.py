"""Judge records against baselines: floats in, a verdict and the sentence an engineer needs out.

Against a recorded baseline of five runs or more, the between-run variance decides (bench.judge.evidence), for speed,
memory, skew and each phase (bench.judge.metrics). What is significantly worse, and by more than the floor, fails.
Anything else passes if a slowdown of the tolerance can be ruled out, and is inconclusive if not. All metrics of all
cases of a suite share one family-wise error. A published figure has no known variance: there a fixed, stated, one-sided
tolerance decides (5 % unless the baseline says otherwise). A clear speed-up asks for a fresh baseline and is not a
failure. A baseline for another recipe, layout or device is refused, and the difference named. A published figure of
other software is shown and does not decide, unless the run has all that the baseline's `decides_when` states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.judge import disturbance, outliers, surroundings
from bench.judge.attribution import Attribution, attribute
from bench.judge.baseline import Baseline
from bench.judge.case_figures import counting, named, step_seconds, tokens_rate, told_runs
from bench.judge.difference import MIN_BASELINE_RUNS, Comparison, limits_percent
from bench.judge.disturbance import (
    Busier,
    Seen,
    busier,
    readings,
    seen_of,
    seen_of_baseline,
    with_own_load,
)
from bench.judge.evidence import FAMILY_ERROR, Judgement, decide
from bench.judge.groups import require_one_case, told_apart
from bench.judge.metrics import MEAN, RATE, SPEED, STEP, Sessions, family, figures_of, speed_figures
from bench.judge.patterns import findings, in_words
from bench.judge.remedy import remedy_of
from bench.judge.rule import RowState, deciding
from bench.judge.sessions import Level, are_virtual, assumed_level, labels, stamp_of
from bench.judge.stats import Summary, summarise
from bench.judge.verdict import Measured, Refusal, Row, Verdict, name_of
from bench.judge.void import MIN_STEADY_STEPS, why_apart, why_invalid, why_learning_differs, why_void
from bench.judge.words import (
    change_of,
    figure,
    told_lacking,
    told_refused,
    told_worse,
    verdict_sentence,
    why_no_baseline,
)
from bench.records.record import Record

SessionPercent = float | Callable[[Record], Level | float | None] | None


def judge(
    records: Record | Sequence[Record],
    baselines: Sequence[Baseline],
    family_error: float = FAMILY_ERROR,
    session_percent: SessionPercent = None,
) -> Verdict:
    """Judge the runs of one case against every baseline with the same key."""
    return judge_suite(
        [[records] if isinstance(records, Record) else records], baselines, family_error, session_percent
    )[0]


def judge_suite(
    groups: Sequence[Sequence[Record]],
    baselines: Sequence[Baseline],
    family_error: float = FAMILY_ERROR,
    session_percent: SessionPercent = None,
) -> list[Verdict]:
    """Judge several cases, each by its runs: all their metrics are one family, which errs at most `family_error`.

    `session_percent` is the level between sessions, one standard deviation, that is assumed of a baseline of too few
    sessions to know its own, or a function that gives it, perhaps with who says so, for a case's first run; None:
    bench.judge.sessions.ASSUMED_PERCENT of the device's kind.
    """
    cases = [_prepare(list(runs), baselines, session_percent) for runs in groups]
    tests = {
        (index, baseline.label, metric): replace(
            comparison, group=None if comparison.group is None else (index, baseline.label, comparison.group)
        )
        for index, case in enumerate(cases)
        for baseline in case.weighed
        for metric, comparison in case.comparisons[baseline.label].items()
    }
    judged = {
        key: _as_far_as_alike(found, tests[key], cases[key[0]].busier.get(key[1]))
        for key, found in decide(tests, family_error).items()
    }
    return [
        _conclude(case, which, {(label, metric): found for (at, label, metric), found in judged.items() if at == index})
        for index, (case, which) in enumerate(zip(cases, told_apart(groups), strict=True))
    ]


@dataclass(frozen=True)
class _Case:
    """The runs of one case that are judged, their figures, and the baselines that may be compared with them."""

    runs: list[Record]
    void: str | None
    tokens_rate: float
    figures: list[dict[str, float]]
    matched: list[Baseline]
    refusals: tuple[Refusal, ...]
    step_seconds: float = 0.0
    comparisons: Mapping[str, dict[str, Comparison]] = field(default_factory=dict)  # by label of the weighed baselines
    disturbed: str = ""  # what was taken from runs, in words
    left_out: int = 0  # runs that do not count, as they were disturbed
    busier: Mapping[str, Busier | None] = field(default_factory=dict)  # by label of the weighed baselines

    @property
    def weighed(self) -> list[Baseline]:
        return [each for each in self.matched if is_weighed(each)] if self.void is None else []

    @property
    def _told_alone(self) -> str:
        run = self.runs[0]
        if run.lone_rank is None:
            return ""
        return f"; rank {run.lone_rank.rank} of {run.layout.world_size} alone, without communication"

    @property
    def figures_measured(self) -> Measured:
        return Measured(self.tokens_rate, self.step_seconds, len(self.runs))

    @property
    def measured(self) -> str:
        text = f"{figure(RATE, self.tokens_rate)} tokens/s/p ({figure(STEP, self.step_seconds)}/step{self._told_alone})"
        return text + (f", the median of {told_runs(self.runs)}," if len(self.runs) > 1 else "")


def _prepare(runs: list[Record], baselines: Sequence[Baseline], session_percent: SessionPercent) -> _Case:
    require_one_case(runs)
    first, level = runs[0], level_of(runs, session_percent)
    if void := next((reason for run in runs if (reason := why_invalid(run))), None):
        return _Case(runs, void, 1.0, [], [], ())
    summaries = [summarise(run) for run in runs]
    void = next((reason for pair in zip(runs, summaries, strict=True) if (reason := why_void(*pair))), None)
    related = [
        each
        for each in baselines
        if each.role != "retired" and (each.case == first.case or each.recipe.name == first.recipe.name)
    ]
    differences = [(each, next(filter(None, map(each.differences, runs)), ())) for each in related]
    matched = [baseline for baseline, found in differences if not found]
    void = void or why_apart(runs, filter(_judges, related)) or why_learning_differs(runs, filter(_judges, matched))
    seen = with_own_load([seen_of(run) for run in runs])
    taken, kept = [readings(each) for each in seen], counting(runs)
    left_out = len(runs) - len(kept)
    disturbed = disturbance.told(runs, taken, left_out)
    if void is None:
        runs, summaries = [runs[place] for place in kept], [summaries[place] for place in kept]
        seen = [seen[place] for place in kept]
    weighed = [baseline for baseline in matched if void is None and is_weighed(baseline)]
    figures = [figures_of(each) for each in summaries]
    return _Case(
        runs=runs,
        void=void,
        tokens_rate=tokens_rate(summaries),
        figures=figures,
        matched=matched,
        refusals=(
            *(Refusal(each.label, why, is_shown=True) for each in matched if (why := each.why_only_shown(runs))),
            *(
                Refusal(baseline.label, found, is_weighed=is_weighed(baseline))
                for baseline, found in differences
                if found
            ),
        ),
        step_seconds=step_seconds(summaries),
        comparisons={each.label: _comparisons(each, runs, summaries, figures, level) for each in weighed},
        disturbed=disturbed,
        left_out=left_out,
        busier={each.label: busier(_seen_by(each, first), seen) for each in weighed},
    )


def level_of(runs: Sequence[Record], session_percent: SessionPercent) -> Level:
    """Between sessions, as it is assumed of the runs of a case."""
    given = session_percent(runs[0]) if callable(session_percent) else session_percent
    return assumed_level(runs[0].device.kind, given, are_virtual(run.host for run in runs))


def missing(
    records: Iterable[Record], baselines: Sequence[Baseline], expected: Iterable[str] | None = None
) -> list[Verdict]:
    """A verdict for each case that should have been run and was not: renamed, skipped, crashed or empty.

    `expected` names them; without it they are the cases of the recorded baselines of the devices that ran, of whole
    jobs or of ranks alone as those that ran.
    """
    ran = list(records)
    stored = {
        each.case: f"the baseline {each.label} stands for it"
        for each in baselines
        if each.kind == "recorded" and each.role == "judge" and any(_is_of_kind(each, record) for record in ran)
    }
    wanted = stored if expected is None else dict.fromkeys(expected, "it was asked for")
    found = {record.case for record in ran if record.steps}
    return [
        Verdict("missing", case, f"MISSING: {case} has no run to judge, but {why}; run it, or retire its baseline")
        for case, why in wanted.items()
        if case not in found
    ]


def _is_of_kind(baseline: Baseline, record: Record) -> bool:
    """Of its device, and of a whole job or a rank alone as it is."""
    device = record.device
    is_here = device.kind in baseline.device.kinds and baseline.device.accepts(device.name)
    return is_here and (baseline.lone_rank is None) == (record.lone_rank is None)


def is_weighed(baseline: Baseline) -> bool:
    """Whether it knows its own noise, and so judges by it."""
    return _judges(baseline) and len(baseline.runs) >= MIN_BASELINE_RUNS


def _judges(baseline: Baseline) -> bool:
    return baseline.role == "judge"


def _comparisons(
    baseline: Baseline,
    runs: Sequence[Record],
    summaries: Sequence[Summary],
    figures: Sequence[Mapping[str, float]],
    level: Level,
) -> dict[str, Comparison]:
    """Both sides without the same first steps: the longest warm-up of all runs."""
    cut = max([run.warmup_steps for run in baseline.runs] + [each.steady_from for each in summaries])
    theirs = [
        {**run.known_figures, **_cut_figures(run.steady_step_seconds, cut - run.warmup_steps)} for run in baseline.runs
    ]
    ours = [
        {**known, **_cut_figures(each.step_seconds[each.steady_from :], cut - each.steady_from)}
        for known, each in zip(figures, summaries, strict=True)
    ]
    stamps = labels([*map(stamp_of, baseline.runs)], [*map(stamp_of, runs)])
    sessions = Sessions(
        before=stamps[: len(baseline.runs)],
        after=stamps[len(baseline.runs) :],
        spread=level.spread,
        origin=level.origin,
    )
    longest = limits_percent(baseline.tolerance_percent)[0]
    return {
        name: replace(each, limit_percent=longest, floor_percent=baseline.floor_percent)
        for name, each in family(theirs, ours, sessions=sessions).items()
    }


def _seen_by(baseline: Baseline, ours: Record) -> list[Seen]:
    return [seen_of_baseline(run, ours.device.kind, disturbance.ranks_here(ours)) for run in baseline.runs]


def _as_far_as_alike(judgement: Judgement, comparison: Comparison, found: Busier | None) -> Judgement:
    """Where one side's machine was busier, no change of speed is told, nor that there is none if it was the baseline's.

    What is the same in every session, as memory is, does not depend on it.
    """
    if found is None or not comparison.session_spread or (judgement.state == "pass" and found.is_after):
        return judgement
    return replace(judgement, state="inconclusive", excuse=found.words)


def _cut_figures(steady_seconds: Sequence[float], more: int) -> dict[str, float]:
    """Without some more of the first steps; a few are kept, as an older baseline may have runs of several lengths."""
    return speed_figures(steady_seconds[min(more, max(0, len(steady_seconds) - MIN_STEADY_STEPS)) :])


def _rows(baseline: Baseline, case: _Case, judged: Mapping[tuple[str, str], Judgement]) -> list[Row]:
    if is_weighed(baseline):
        return _weighed_rows(
            baseline, case, {name: each for (label, name), each in judged.items() if label == baseline.label}
        )
    limit = baseline.tolerance_percent
    longer, shorter = limits_percent(baseline.tolerance_percent)
    rate, seconds = baseline.metrics.tokens_per_second_per_processor, baseline.metrics.step_seconds
    decides = _judges(baseline) and not baseline.why_only_shown(case.runs)
    return [
        _row(baseline, decides, RATE, case.tokens_rate, rate, -limit, limit),
        _row(baseline, decides, STEP, case.step_seconds, seconds, longer, -shorter),
    ]


def _weighed_rows(baseline: Baseline, case: _Case, judged: Mapping[str, Judgement]) -> list[Row]:
    """tokens/s/p is the test of the mean step: lost throughput is lost."""
    longest = limits_percent(baseline.tolerance_percent)[0]
    sides = case.comparisons[baseline.label]
    stored_figures = [run.known_figures for run in baseline.runs]
    figures = [
        (RATE, MEAN, case.tokens_rate, baseline.metrics.tokens_per_second_per_processor, -baseline.tolerance_percent),
        (STEP, STEP, case.step_seconds, baseline.metrics.step_seconds, longest),
        *(
            (name, name, named(case.figures, name), named(stored_figures, name), longest)
            for name in sides
            if name != STEP
        ),
    ]
    return [
        Row(
            metric=metric,
            measured=measured,
            baseline=stored,
            change_percent=change_of(metric, judged[tested].evidence),
            limit_percent=limit,
            state=judged[tested].state,
            label=baseline.label,
            source=baseline.source,
            evidence=judged[tested].evidence,
            remedy=remedy_of(sides[tested], judged[tested], case.runs, baseline, case.left_out)
            if judged[tested].state == "inconclusive"
            else None,
        )
        for metric, tested, measured, stored, limit in figures
    ]


def _row(
    baseline: Baseline, decides: bool, metric: str, measured: float, stored: float, worst: float, best: float
) -> Row:
    """One row; beyond the signed percents `worst` and `best` it fails or asks for a refresh."""
    change = 100 * (measured / stored - 1)
    sense = 1 if best > 0 else -1
    state: RowState = "pass"
    if not decides:
        state = "compared"
    elif sense * change < sense * worst:
        state = "fail"
    elif sense * change > sense * best:
        state = "improved"
    limit = worst if decides else None
    return Row(metric, measured, stored, change, limit, state, baseline.label, baseline.source)


def _conclude(case: _Case, which: str, judged: Mapping[tuple[str, str], Judgement]) -> Verdict:
    """The worst row that decides makes the verdict, and the sentence is about it; `which` of several of this case."""
    record = case.runs[0]
    name = name_of(record.case, which)
    if case.void is not None:
        return Verdict("void", record.case, f"VOID: {name} cannot be judged: {case.void}", which=which)
    rows = tuple(row for baseline in case.matched for row in _rows(baseline, case, judged))
    found = deciding([(row.metric, row.state) for row in rows])
    if found is None:
        why = why_no_baseline(case.refusals)
        sentence = f"NO BASELINE: {name} ran at {case.measured} on {record.device.name}; {why}"
        told = findings((), case.runs)
        sentence += _also(in_words(told), disturbance.planted(case.runs))
        return Verdict(
            "no_baseline",
            record.case,
            sentence,
            rows,
            case.refusals,
            findings=told,
            measured=case.figures_measured,
            which=which,
        )
    worst, state = rows[found[0]], found[1]
    if state == "inconclusive":  # a suspicion says more than a lack of runs
        worst = next((row for row in rows if row.metric in SPEED and row.remedy and row.remedy.is_suspicion), worst)
    attribution = _attribution(case, worst)
    sentence = verdict_sentence(name, rows, worst, case.measured)
    if attribution is not None and attribution.sentence:
        sentence += f". Where: {attribution.sentence}"
    baseline = next(each for each in case.matched if each.label == worst.label)
    told = findings(baseline.runs, case.runs, with_ranks=state != "pass")
    sentence += _also(
        in_words(told),
        told_worse(rows),
        told_lacking([run.known_figures for run in baseline.runs], case.figures) if is_weighed(baseline) else "",
        told_refused(case.refusals),
        case.disturbed,
        outliers.told(baseline),
        surroundings.told(baseline.runs, case.runs),
    )
    return Verdict(state, record.case, sentence, rows, case.refusals, attribution, told, case.figures_measured, which)


def _also(*told: str) -> str:
    """What else a reader should know, at the end of a sentence."""
    words = "; ".join(filter(None, told))
    return f". Also: {words}" if words else ""


def _attribution(case: _Case, worst: Row) -> Attribution | None:
    """Where the time went, if there is a change."""
    baseline = next(each for each in case.matched if each.label == worst.label)
    stored = [run.figures for run in baseline.runs if run.figures]
    return attribute(stored, case.figures) if worst.state in ("fail", "improved") and stored else None
