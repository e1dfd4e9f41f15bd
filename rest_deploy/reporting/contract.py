"""The records of schema 1: of each value that the report shows, what it must be."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rest_deploy.errors import ArtifactError
from rest_deploy.reporting.shape import COUNT, FLAG, NUMBER, TEXT, Each, Maybe, Shape, check_shape, shown

SCHEMA = 1
VERIFICATION, BENCHMARK = "rest-verify", "rest-bench"
_WORDS = Maybe(TEXT)
_CASE = {"batch": COUNT, "height": COUNT, "width": COUNT}


def _numbers(names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), NUMBER)


_GPU = {"name": _WORDS, "driver": _WORDS, "compute_capability": _WORDS, "throttle_reasons": _WORDS} | _numbers(
    "memory_mib sm_clock_mhz max_sm_clock_mhz memory_clock_mhz temperature_c power_w"
)
_ENVIRONMENT = {
    **dict.fromkeys(("created", "command", "os", "python", "cpu", "governor", "gpus_note"), _WORDS),
    **_numbers("logical_cpus physical_cores cpu_quota memory_mib"),
    **dict.fromkeys(("affinity", "clocks_mhz"), Maybe((NUMBER,))),
    **dict.fromkeys(("packages", "variables"), Maybe(Each(_WORDS))),
    "gpus": Maybe((_GPU,)),
}
_REFERENCE = {"name": TEXT, "sha256": _WORDS} | dict.fromkeys(
    ("path", "format", "model", "precision", "computed"), _WORDS
)
_DATA = {
    "folder": _WORDS,
    "images": NUMBER,
    "labelled": Maybe(FLAG),
    "skipped": Maybe(({"image": TEXT, "error": _WORDS},)),
    **dict.fromkeys(("transform", "note"), _WORDS),
    "reference": Maybe(({"size": _WORDS, **_numbers("top1_accuracy top5_accuracy")},)),
}
_FLIP = {
    "image": TEXT,
    **_numbers("label reference artifact margin error"),
    **dict.fromkeys(("label_name", "reference_name", "artifact_name", "thumbnail"), _WORDS),
}
_AGREEMENT = _numbers(
    "max_error mean_error reference_error logit_std cosine kl_divergence top1_agreement top5_agreement"
)
_SYNTHETIC = {**_CASE, **_AGREEMENT, **_numbers("limit logit_scale"), "passed": Maybe(FLAG)}
_IMAGES = {
    "size": _WORDS,
    **_AGREEMENT,
    **_numbers("images rms_error limit max_kl_divergence top1_accuracy top5_accuracy flips"),
    **dict.fromkeys(("worst_flips", "worst_errors"), Maybe((_FLIP,))),
}
_BLOCK = {
    "block": TEXT,
    "judged_by": _WORDS,
    **_numbers("max_error rms_error reference_error std limit"),
    "passed": Maybe(FLAG),
}
_ARTIFACT = {
    "name": TEXT,
    **dict.fromkeys(("path", "sha256", "format", "precision", "model", "device", "computed"), _WORDS),
    "bytes": NUMBER,
    "tolerance": Maybe({**_numbers("noise_factor floor spread"), "reason": _WORDS}),
    "budget": Maybe(_numbers("min_top1_agreement max_error max_accuracy_loss")),
    "synthetic": Maybe((_SYNTHETIC,)),
    "images": Maybe((_IMAGES,)),
    "blocks": Maybe({"case": _WORDS, "first_past_tolerance": _WORDS, "rows": (_BLOCK,)}),
    "failures": Maybe((TEXT,)),
    "passed": FLAG,
    "assumed": Maybe(Each(_WORDS)),
}
_COLD = {**_numbers("load_ms first_answer_ms"), "peak_mib": Maybe(Each(NUMBER)), "error": _WORDS}
_CONTENDER = {
    **dict.fromkeys(("name", "network"), TEXT),
    **dict.fromkeys(("kind", "path", "sha256", "format", "precision", "device", "description", "error"), _WORDS),
    **_numbers("bytes threads"),
    "cold": Maybe(_COLD),
}
_RATIO = {"to": TEXT, **_numbers("median low high confidence rounds"), "verdict": _WORDS}
_RESULT = {
    "contender": TEXT,
    "error": _WORDS,
    **_numbers("calls p50_ms p90_ms p99_ms mean_ms images_per_second gflop gflops share_of_machine"),
    "ratio": Maybe(_RATIO),
    "gpu": Maybe(_numbers("host_to_host_ms compute_ms copy_in_ms copy_out_ms enqueue_ms calls")),
}
_CONDITIONS = {**_numbers("probe_spread probe_drift stolen others"), "flags": Maybe((TEXT,))}
_COMPARISON_ROW = {
    **dict.fromkeys(("contender", "case"), TEXT),
    **_numbers("old_ms new_ms ratio low high machine_ratio"),
    "verdict": _WORDS,
}
_SETTINGS = {**_numbers("threads min_rounds min_seconds max_seconds confidence seed"), "device": _WORDS}

#: Kind -> what a record of it must hold.
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        VERIFICATION: {
            "environment": _ENVIRONMENT,
            "reference": _REFERENCE,
            "seed": NUMBER,
            "data": Maybe(_DATA),
            "artifacts": (_ARTIFACT,),
            "passed": FLAG,
        },
        BENCHMARK: {
            "environment": _ENVIRONMENT,
            "interrupted": Maybe(FLAG),
            "settings": Maybe(_SETTINGS),
            "machine": Maybe({"gflops": NUMBER, "by": _WORDS, "threads": NUMBER}),
            "contenders": (_CONTENDER,),
            "cases": ({**_CASE, "rounds": NUMBER, "conditions": Maybe(_CONDITIONS), "results": (_RESULT,)},),
            "comparison": Maybe({"with": _WORDS, "rows": (_COMPARISON_ROW,), "notes": Maybe((TEXT,))}),
        },
    }
)


def check_record(record: Any, kinds: tuple[str, ...] = (VERIFICATION, BENCHMARK)) -> None:
    """Make sure that a value is a record that the report can show.

    Args:
        record: Of JSON.
        kinds: That are accepted.

    Raises:
        ArtifactError: It is not; one line that says where and why.
    """
    kind = record.get("kind") if isinstance(record, Mapping) else None
    if kind not in kinds:
        raise ArtifactError(f"it is a record of kind {shown(kind)}, accepted: {', '.join(kinds)}; give such a record")
    schema = record.get("schema")
    if isinstance(schema, bool) or schema != SCHEMA:
        raise ArtifactError(
            f"it is a {kind} record of schema {shown(schema)}, accepted: {SCHEMA}; make it again with this version of "
            "rest-deploy, or read it with the version that made it"
        )
    check_shape(record, SHAPES[kind], kind)
    _check_contenders(record)


def _check_contenders(record: Mapping[str, Any]) -> None:
    names = {contender["name"] for contender in record.get("contenders", ())}
    for row, case in enumerate(record.get("cases", ())):
        for column, result in enumerate(case["results"]):
            if result["contender"] not in names:
                where = f"{BENCHMARK}.cases[{row}].results[{column}].contender"
                raise ArtifactError(f"{where} is {shown(result['contender'])}, no contender; make the record again")
