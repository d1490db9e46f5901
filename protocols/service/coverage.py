"""Who of a run's operators together hold every stage, as `status` shows it."""

from __future__ import annotations

from typing import Any

from interlock.vault import chance, chance_by_formula

from .progress import Progress

FRACTIONS = (0.1, 0.25, 0.5)  # of all that hold a stage
NAMES_MAX = 8


def coverage(progress: Progress) -> dict[str, Any] | None:
    """The figures as plain values; None before anybody holds a stage.

    now, ever: of the operators that hold a stage, and of all that ever were granted one. In each: holders, how many a
    stage has; cover, the fewest operators that have every stage (exact: certainly the fewest), None if nobody has some
    stage; chances, for each fraction of holders that are bad: bad, how many those are, formula, `(1-(1-f)^r)^S`, exact
    and all_but_one, the chances that they hold every stage, or all but at most one.
    """
    if not progress.granted:
        return None
    return {"now": _of(progress, ever=False), "ever": _of(progress, ever=True)}


def _of(progress: Progress, *, ever: bool) -> dict[str, Any]:
    held, cover = list(progress.holdings(ever=ever).values()), progress.cover(ever=ever)
    holders = [sum(stage in stages for stages in held) for stage in range(progress.manifest.stages)]
    return {
        "holders": holders,
        "cover": None if cover is None else {"operators": list(cover.operators), "exact": cover.exact},
        "chances": [_chances(fraction, holders) for fraction in FRACTIONS],
    }


def _chances(fraction: float, holders: list[int]) -> dict[str, Any]:
    bad = round(fraction * sum(holders))
    return {
        "fraction": fraction,
        "bad": bad,
        "formula": chance_by_formula(fraction, holders),
        "exact": float(chance(bad, holders)),
        "all_but_one": float(chance(bad, holders, missing=1)),
    }


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for people: what a line is about, and the line. Of everyone ever, where those are others than now."""
    now, ever = found["now"], found["ever"]
    said = [("cover", _cover(now["cover"])), *_shown(now, "operators")]
    if ever["holders"] != now["holders"]:
        said += [
            ("ever", f"{_cover(ever['cover'])}, with all that they ever held"),
            *_shown(ever, "operators that ever held a stage"),
        ]
    return said


def _shown(found: dict[str, Any], whose: str) -> list[tuple[str, str]]:
    total = sum(found["holders"])
    return [
        (
            "chance",
            f"that {each['bad']} of the {total} {whose}, drawn at random, have every stage {_percent(each['exact'])}, "
            f"all but one {_percent(each['all_but_one'])}; the formula for {each['fraction']:.0%} of them: "
            f"{_percent(each['formula'])}",
        )
        for each in found["chances"]
    ]


def _cover(cover: dict[str, Any] | None) -> str:
    if cover is None:
        return "no operators together hold every stage"
    return f"{_few(cover)} operators together hold every stage: {listed(cover['operators'])}"


def _few(cover: dict[str, Any] | None) -> str:
    if cover is None:
        return "none"
    return f"{'' if cover['exact'] else 'at most '}{len(cover['operators'])}"


def listed(names: list[str]) -> str:
    """A few names, and how many more there are.

    >>> listed(list("abcdefghij"))
    'a, b, c, d, e, f, g, h and 2 more'
    """
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return ", ".join(names[:NAMES_MAX]) + more


def _percent(share: float) -> str:
    """A chance with three digits.

    >>> _percent(0.12345), _percent(1.0), _percent(3e-9)
    ('12.3%', '100%', '3e-07%')
    """
    return f"{100 * share:.3g}%"
