"""What came of it, in one line, and what to know before believing it."""

from __future__ import annotations

from rest_deploy.reporting.markup import NOTHING, Html, element, join
from rest_deploy.reporting.node import Node
from rest_deploy.reporting.quantity import case_label
from rest_deploy.reporting.records import Records

PASSED, FAILED, MEASURED = "passed", "failed", "measured"
_LISTED = 12  # failures of one artifact


def state(records: Records) -> str:
    """``passed``, ``failed``, or ``measured`` where nothing was verified."""
    if not records.verification.there:
        return MEASURED
    return PASSED if records.verification["passed"].value else FAILED


def verdict(records: Records) -> Html:
    """The line, the failures and the cautions."""
    now = state(records)
    cautions = [element("li", element("b", word), Html(" "), text) for word, text in _cautions(records)]
    return element(
        "div",
        element(
            "p", element("b", f"{now.capitalize()}.", class_="state"), Html(" "), _sentence(records), class_="line"
        ),
        _failures(records.verification),
        element("ul", *cautions, class_="cautions") if cautions else NOTHING,
        class_=f"verdict {now}",
    )


def _sentence(records: Records) -> str:
    artifacts = list(records.verification["artifacts"])
    if not records.verification.there:
        return f"Speed only: {_many(len(records.contenders), 'contender')}, none of them verified in this report."
    bad = sum(not artifact["passed"].value for artifact in artifacts)
    reference = records.verification["reference"]["name"].text
    if bad:
        return f"{bad} of {_many(len(artifacts), 'artifact')} not within the tolerance of {reference}."
    if state(records) == FAILED:
        skipped = len(list(records.verification["data"]["skipped"]))
        why = f": {_many(skipped, 'image')} could not be read" if skipped else ""
        return f"The verification as a whole failed, though no artifact did{why}."
    few = {1: "The artifact agrees", 2: "Both artifacts agree"}
    subject = few.get(len(artifacts), f"All {len(artifacts)} artifacts agree")
    return f"{subject} with {reference} within tolerance."


def _failures(verification: Node) -> Html:
    items = []
    for artifact in verification["artifacts"]:
        failures = [failure.text for failure in artifact["failures"]]
        if not artifact["passed"].value:
            shown = [element("li", failure) for failure in failures[:_LISTED] or ["no reason given"]]
            shown += [element("li", f"and {len(failures) - _LISTED} more")] * (len(failures) > _LISTED)
            items.append(element("li", element("b", artifact["name"].text, class_="id"), element("ul", *shown)))
    return element("ul", *items, class_="failures") if items else NOTHING


def _cautions(records: Records) -> list[tuple[str, str]]:
    benchmark = records.benchmark
    found = _assumed(records.verification)
    if benchmark["interrupted"].value:
        found.append(("Interrupted.", "The benchmark was stopped before its end: cases and rounds are missing."))
    flagged = [case for case in benchmark["cases"] if case["conditions"]["flags"].value]
    if flagged:
        of = f"{len(flagged)} of {_many(len(list(benchmark['cases'])), 'case')}"
        which = join(map(case_label, flagged[:4]), "; ")
        more = " and others" if len(flagged) > 4 else ""
        text = join([f"{of} carry warnings (", which, f"{more}); small differences there may be noise: see Latency."])
        found.append(("Noisy.", text))
    broken = _broken(records)
    if broken:
        found.append(("Not measured.", f"{', '.join(broken[:6])}{' and others' * (len(broken) > 6)}: see Latency."))
    return found + _regressions(benchmark["comparison"])


def _assumed(verification: Node) -> list[tuple[str, str]]:
    """What nobody said when the artifacts were made: a comparison with the same checkpoint cannot find it wrong."""
    found: dict[str, list[str]] = {}
    for artifact in verification["artifacts"]:
        what = "; ".join(f"{name} {value.text}" for name, value in artifact["assumed"].entries())
        if what:
            found.setdefault(what, []).append(artifact["name"].text)
    return [("Assumed.", f"{', '.join(names)}: {what}.") for what, names in found.items()]


def _broken(records: Records) -> list[str]:
    """Names of contenders that failed, as a whole or in a case."""
    results = [result for case in records.benchmark["cases"] for result in case["results"]]
    names = {result["contender"].text for result in results if result["error"].there}
    return [one.name for one in records.contenders if one.name in names or one.node["error"].there]


def _regressions(comparison: Node) -> list[tuple[str, str]]:
    slower = sum(row["verdict"].text == "regression" for row in comparison["rows"])
    return [("Slower.", f"{_many(slower, 'regression')} against {comparison['with'].text}.")] if slower else []


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
