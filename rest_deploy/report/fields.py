"""The records as the report reads them: what each value must be, its name, and how a number is written."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from rest_deploy.errors import ArtifactError, no_file, one_line
from rest_deploy.values import load_json
from rest_deploy.values import shown as short

VERIFICATION, BENCHMARK = "rest-verify", "rest-bench"
#: Kind of a record -> its schema.
SCHEMAS = {VERIFICATION: 2, BENCHMARK: 1}
_LARGEST_FILE = 64 << 20  # bytes; 48 pictures for each of a hundred artifacts take 20 MiB
_LARGEST = 1e100  # far over float32; sums and squares of such numbers are still finite
_LONGEST = 2000  # characters of a text; an error can carry a whole log
_MAKE = "make it with rest-verify or rest-bench"

Form: TypeAlias = Callable[[float], str]


def visible(text: str) -> str:
    """Text without hidden characters: one line of limited length, with control and direction characters as escapes."""
    line = text if text.isprintable() else " ".join(re.split(r"[ \t\r\n]+", text))
    left = len(line) - _LONGEST
    return unhidden(f"{line[:_LONGEST]}… ({left:,} characters more)" if left > 0 else line)


def unhidden(text: str, kept: str = "") -> str:
    """Text with escapes for characters that cannot be seen, except those in ``kept``."""
    hidden = {character for character in set(text) if not character.isprintable() and character not in kept}
    return text.translate({ord(character): character.encode("unicode_escape").decode() for character in hidden})


def plain(value: float) -> str:
    """Three significant digits."""
    return _digits(value, 3) if value == 0 or 1e-3 <= abs(value) < 1e7 else _power(value)


def deviation(value: float) -> str:
    """Two significant digits, such as ``0.12``; with a power of ten if that is shorter, such as ``1.2e-3``."""
    return _digits(value, 2) if value == 0 or 0.01 <= abs(value) < 1000 else _power(value)


def exact(value: float) -> str:
    """A setting, with all its digits."""
    return f"{value:.9g}"


def count(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}" if abs(value) < 1e12 else _power(value)


def percent(value: float) -> str:
    """A share, in percent."""
    return f"{value:.2%}" if abs(value) < 100 else f"{_power(100 * value)}%"


def mebibytes(value: float) -> str:
    """Bytes, in MiB."""
    return plain(value / 2**20)


def _cosine(value: float) -> str:
    return f"{value:.7f}" if abs(value) < 1e3 else _power(value)


def _digits(value: float, significant: int) -> str:
    if value == 0:
        return "0"
    rounded = float(f"{value:.{significant - 1}e}")
    return f"{value:,.{max(0, significant - 1 - math.floor(math.log10(abs(rounded))))}f}"


def _power(value: float) -> str:
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(power)}"


@dataclass(frozen=True)
class Field:
    """A value without parts."""

    accepted: str  # what it must be
    accepts: Callable[[Any], bool]
    words: str = ""  # its name in the terminal
    form: Form = exact  # how a number is written
    needed: bool = False  # whether it may not be null


@dataclass(frozen=True)
class Each:
    """An object with any names, and values of one shape."""

    shape: Shape


@dataclass(frozen=True)
class Needed:
    """An object or an array that may not be null."""

    shape: Shape


#: An object is a mapping of names to shapes; an array is a tuple with the shape of its values. All may be null, except
#: what is needed, and objects in an array.
Shape: TypeAlias = "Field | Each | Needed | Mapping[str, Shape] | tuple[Shape]"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST  # NaN is not


_TEXT = Field("text", lambda value: isinstance(value, str))
_NAME = replace(_TEXT, needed=True)
_FLAG = Field("true or false", lambda value: isinstance(value, bool))
_PASSED = replace(_FLAG, needed=True)
_NUMBER = Field("a finite number or null", _is_number)
_COUNT = Field("a whole number from 0 up", lambda value: isinstance(value, int) and _is_number(value) and value >= 0)
_SCALAR = Field("a value without parts", lambda value: isinstance(value, str | bool) or _is_number(value))
_SIZE = replace(_COUNT, needed=True)


def _named(field: Field, *names: str, **words: str) -> dict[str, Shape]:
    return {name: replace(field, words=words.get(name, name.replace("_", " "))) for name in (*names, *words)}


def _numbers(form: Form, *names: str, **words: str) -> dict[str, Shape]:
    return _named(replace(_NUMBER, form=form), *names, **words)


_GPU = {
    **_named(_TEXT, "name", "driver", "compute_capability", "throttle_reasons"),
    **_numbers(count, memory_mib="memory, MiB", sm_clock_mhz="SM clock, MHz", max_sm_clock_mhz="largest SM clock, MHz"),
    **_numbers(count, memory_clock_mhz="memory clock, MHz"),
    **_numbers(plain, temperature_c="temperature, °C", power_w="power, W"),
}
_ENVIRONMENT: Mapping[str, Shape] = {
    "command": _TEXT,
    **_named(_TEXT, "created", "governor", os="operating system", python="Python", cpu="processor"),
    **_named(_TEXT, gpus_note="GPUs"),
    **_numbers(count, logical_cpus="logical processors", physical_cores="cores", memory_mib="memory, MiB"),
    **_numbers(plain, cpu_quota="quota, in cores"),
    "affinity": (replace(_NUMBER, form=count, words="bound to processors"),),
    "clocks_mhz": (replace(_NUMBER, form=count, words="clocks, MHz"),),
    "packages": Each(_TEXT),
    "variables": Each(_TEXT),
    "gpus": (_GPU,),
}
_BY_CLASS = {**_named(_SIZE, "label", "images", "right"), "label_name": _TEXT}
_CONFUSED = {**_named(_SIZE, "label", "artifact", "images"), "artifact_name": _TEXT}
_ACCURACY: Mapping[str, Shape] = {
    **_numbers(percent, top1_accuracy="top-1 right", top5_accuracy="top-5 right"),
    "by_class": (_BY_CLASS,),
    "confused": (_CONFUSED,),
}
_PICTURE = {
    "image": _NAME,
    **_named(replace(_COUNT, form=count), "label", "reference", "artifact"),
    **_numbers(plain, "margin"),
    **_numbers(deviation, "error"),
    **_named(_TEXT, "label_name", "reference_name", "artifact_name", "thumbnail"),
}
_FIGURES = {
    **_numbers(deviation, max_error="max error", mean_error="mean error", reference_error="fp32 error"),
    **_numbers(deviation, limit="limit", kl_divergence="KL"),
    **_numbers(plain, logit_std="std of logits"),
    **_numbers(_cosine, "cosine"),
}
_CASE = _named(_SIZE, "batch", "height", "width")
_VALUES = {
    **_numbers(deviation, max_error="max error", rms_error="rms error", reference_error="fp32 error", limit="limit"),
    **_numbers(plain, "std"),
    **_numbers(_cosine, "cosine"),
    "judged_by": _TEXT,
    "passed": _FLAG,
}
_SYNTHETIC = {
    **_CASE,
    "output": _TEXT,
    **_VALUES,
    **_FIGURES,
    **_numbers(percent, top1_agreement="top-1", top5_agreement="top-5"),
}
_IMAGES: Mapping[str, Shape] = {
    "size": _TEXT,
    **_numbers(count, "images", "flips", "wrong"),
    **_FIGURES,
    **_ACCURACY,
    **_numbers(percent, top1_agreement="top-1 same", top5_agreement="top-5 same"),
    **_numbers(deviation, rms_error="rms error", max_kl_divergence="largest KL"),
    **dict.fromkeys(("worst_flips", "worst_wrong", "worst_errors"), (_PICTURE,)),
    "maps": ({"output": _NAME, **_VALUES},),
}
_BLOCK = {"block": _NAME, **_VALUES}
_KNOWN = _named(_TEXT, "path", "sha256", "format", "precision", "device", "computed", "model")
_ARTIFACT: Mapping[str, Shape] = {
    "name": _NAME,
    **_KNOWN,
    **_numbers(mebibytes, bytes="file, MiB"),
    "limits": {
        "synthetic": {
            **_numbers(plain, baseline_factor="times fp32 error", floor="of the largest logit"),
            **_numbers(plain, max_error="of std of logits"),
            "reason": _TEXT,
        },
        "images": {
            **_numbers(percent, min_top1_agreement="top-1 same, at least"),
            **_numbers(percent, max_accuracy_loss="top-1 right, loss at most"),
            **_numbers(deviation, max_error="max error, in std"),
        },
    },
    "synthetic": (_SYNTHETIC,),
    "images": (_IMAGES,),
    "blocks": {**_named(_TEXT, "case", "first_over_limit"), "rows": Needed((_BLOCK,))},
    "failures": (_NAME,),
    "passed": _PASSED,
    "takes": _TEXT,
    "assumed": Each(_TEXT),
}
_DATA: Mapping[str, Shape] = {
    **_named(_TEXT, "folder", "transform", "note"),
    **_numbers(count, "images"),
    "labelled": _FLAG,
    "skipped": ({"image": _NAME, "error": _TEXT},),
    "reference": ({"size": _TEXT, **_ACCURACY},),
}
_RATIO = {"to": _NAME, "verdict": _TEXT, **_numbers(plain, "median", "low", "high"), **_numbers(exact, "confidence")}
_RESULT: Mapping[str, Shape] = {
    "contender": _NAME,
    "error": _TEXT,
    **_numbers(plain, p50_ms="p50 ms", p90_ms="p90 ms", p99_ms="p99 ms", mean_ms="mean ms"),
    **_numbers(plain, images_per_second="images/s", gflops="GFLOP/s"),
    **_numbers(lambda value: f"{value:.1%}" if abs(value) < 100 else percent(value), share_of_machine="of machine"),
    **_numbers(count, "calls"),
    "ratio": _RATIO,
    "gpu": {
        **_numbers(plain, host_to_host_ms="host to host ms", compute_ms="compute ms", copy_in_ms="copy in ms"),
        **_numbers(plain, copy_out_ms="copy out ms", enqueue_ms="enqueue ms"),
        **_numbers(count, "calls"),
    },
}
_CONDITIONS: Mapping[str, Shape] = {
    **_numbers(percent, probe_spread="spread of a fixed product", stolen="stolen by the hypervisor"),
    **_numbers(percent, others="used by other processes"),
    **_numbers(plain, probe_drift="its last third over its first"),
    "flags": (_NAME,),
}
_CONTENDER: Mapping[str, Shape] = {
    **_named(_NAME, "name", "network"),
    **_KNOWN,
    **_named(_TEXT, "kind", "description", "error"),
    **_numbers(mebibytes, bytes="file, MiB"),
    **_numbers(count, "threads"),
    "cold": {
        **_numbers(plain, load_ms="load ms", first_answer_ms="first answer ms"),
        "peak_mib": Each(replace(_NUMBER, form=plain)),
        "error": _TEXT,
    },
}
_COMPARED: Mapping[str, Shape] = {
    **_named(_NAME, "contender", "case"),
    **_numbers(plain, "ratio", "low", "high", old_ms="then ms", new_ms="now ms", machine_ratio="machine"),
    "verdict": _TEXT,
}
_REFERENCE: Mapping[str, Shape] = {"name": _NAME, **_KNOWN}
_TIMED_CASE: Mapping[str, Shape] = {
    **_CASE,
    **_numbers(count, "rounds"),
    "conditions": _CONDITIONS,
    "results": Needed((_RESULT,)),
}

#: Kind of record -> its shape. Other names are ignored.
SHAPES: Mapping[str, Mapping[str, Shape]] = MappingProxyType(
    {
        VERIFICATION: {
            "environment": Needed(_ENVIRONMENT),
            "reference": Needed(_REFERENCE),
            **_numbers(exact, "seed"),
            "data": _DATA,
            "artifacts": Needed((_ARTIFACT,)),
            "passed": _PASSED,
        },
        BENCHMARK: {
            "environment": Needed(_ENVIRONMENT),
            "interrupted": _FLAG,
            "settings": Each(_SCALAR),
            "machine": {"by": _TEXT, **_numbers(plain, "gflops"), **_numbers(count, "threads")},
            "contenders": Needed((_CONTENDER,)),
            "cases": Needed((_TIMED_CASE,)),
            "comparison": {"with": _TEXT, "rows": Needed((_COMPARED,)), "notes": (_NAME,)},
        },
    }
)


def read_record(path: str | Path) -> dict[str, Any]:
    """Load a JSON record of rest-verify or rest-bench.

    Raises:
        ArtifactError: The file is missing, too large, not JSON, or not a record that the report can show.
    """
    try:
        if not os.path.isfile(path):
            raise ArtifactError(f"{path}: {no_file(path, step='')}; {_MAKE}")
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise ArtifactError(f"{path}: over {_LARGEST_FILE >> 20} MiB, more than a record can have; {_MAKE}")
        record = load_json(content.decode("utf-8"))
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ArtifactError(f"{path}: not JSON: byte {exc.start} is not UTF-8; {_MAKE}") from exc
    except ValueError as exc:
        raise ArtifactError(f"{path}: not JSON: {one_line(exc)}; {_MAKE}") from exc
    try:
        check_record(record)
    except ArtifactError as exc:
        raise ArtifactError(f"{path}: {exc}") from exc
    return dict(record)


def check_record(record: Any, kinds: Sequence[str] = (VERIFICATION, BENCHMARK)) -> None:
    """Check that a value is a record that the report can show.

    Raises:
        ArtifactError: It is not; the message says where, what was got and what is accepted.
    """
    kind = record.get("kind") if isinstance(record, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ArtifactError(f"the kind of the record is {_got(kind)}; accepted: {', '.join(kinds)}; give such a record")
    schema = record.get("schema")
    if isinstance(schema, bool) or schema != SCHEMAS[kind]:
        raise ArtifactError(
            f"the {kind} record has schema {_got(schema)}; accepted: {SCHEMAS[kind]}; measure again with this version "
            "of it, or read it with the version that made it"
        )
    _check(record, SHAPES[kind], kind)
    names = {contender["name"] for contender in record.get("contenders", ())}
    for row, case in enumerate(record.get("cases", ())):
        for column, result in enumerate(case["results"]):
            if result["contender"] not in names:
                where = f"{kind}.cases[{row}].results[{column}].contender"
                raise ArtifactError(
                    f"{where} is {_got(result['contender'])}, which is not a contender of the record; make it again"
                )


def _check(value: Any, shape: Shape, key: str, *, needed: bool = False) -> None:
    """Check a value against its shape; a missing name counts as null."""
    if isinstance(shape, Needed):
        _check(value, shape.shape, key, needed=True)
    elif value is None and not (needed or (isinstance(shape, Field) and shape.needed)):
        return
    elif isinstance(shape, Field):
        _require(shape.accepts(value), value, shape.accepted, key)
    elif isinstance(shape, tuple):
        _require(isinstance(value, Sequence) and not isinstance(value, str), value, "an array", key)
        for number, one in enumerate(value):
            _check(one, shape[0], f"{key}[{number}]", needed=not isinstance(shape[0], Field))
    else:
        _require(isinstance(value, Mapping) and all(isinstance(name, str) for name in value), value, "an object", key)
        for name, one in (dict.fromkeys(value, shape.shape) if isinstance(shape, Each) else shape).items():
            _check(value.get(name), one, f"{key}.{name}")


def _require(holds: bool, value: Any, accepted: str, key: str) -> None:
    if not holds:
        raise ArtifactError(f"{key} is {_got(value)}; accepted: {accepted}; make the record again")


def _got(value: Any) -> str:
    return "null" if value is None else type(value).__name__ if isinstance(value, dict | list) else short(value)


@dataclass(frozen=True)
class Node:
    """A value of a record, with its path in the record. A missing value is a node of None, and so are its parts.

    Args:
        value: From JSON.
        key: Its path, such as ``benchmark.cases[0].rounds``.
        shape: What it must be; asking for a name that the shape does not have is an error of the caller.
    """

    value: Any
    key: str
    shape: Shape

    def __getitem__(self, name: str) -> Node:
        """The value of a name in an object."""
        shape = self._inner
        if not isinstance(shape, Mapping | Each):
            raise LookupError(f"{self.key} has no parts")
        own = shape.shape if isinstance(shape, Each) else shape[name]
        value = self.value.get(name) if isinstance(self.value, Mapping) else None
        return Node(value, f"{self.key}.{name}" if name.isidentifier() else f"{self.key}[{json.dumps(name)}]", own)

    def __iter__(self) -> Iterator[Node]:
        """The values of an array."""
        shape = self._inner
        assert isinstance(shape, tuple), self.key
        return (Node(value, f"{self.key}[{number}]", shape[0]) for number, value in enumerate(self.value or ()))

    def entries(self) -> list[tuple[str, Node]]:
        """Names and values of an object."""
        return [(name, self[name]) for name in self.value or ()]

    def named(self) -> list[tuple[str, Node]]:
        """Names in words and values of an object, where both exist."""
        return [(own.words, own) for own in (self[name] for name in self.names) if own and own.words]

    @property
    def names(self) -> list[str]:
        """Names that an object may have."""
        return list(self._inner) if isinstance(self._inner, Mapping) else []

    def absent(self) -> Node:
        """A missing value of an array."""
        assert isinstance(self._inner, tuple), self.key
        return Node(None, self.key, self._inner[0])

    @property
    def _inner(self) -> Shape:
        return self.shape.shape if isinstance(self.shape, Needed) else self.shape

    def __bool__(self) -> bool:
        """Whether there is a value; an empty text, object or array does not count, the number 0 does."""
        return self.value is not None and self.value not in ("", [], {}, ())

    @property
    def text(self) -> str:
        """The value as text; empty if there is none."""
        return "" if self.value is None else str(self.value)

    @property
    def number(self) -> float | None:
        """The value if it is a number."""
        return float(self.value) if _is_number(self.value) else None

    @property
    def exact(self) -> str:
        """A number with all its digits, as in JSON; works for NumPy types too."""
        return repr(float(self.value)) if isinstance(self.value, float) else str(int(self.value))

    @property
    def words(self) -> str:
        """Its name in words, or that of each value of an array."""
        shape = self._inner[0] if isinstance(self._inner, tuple) else self._inner
        return shape.words if isinstance(shape, Field) else ""

    @property
    def shown(self) -> str:
        """A number in its form; other values as text."""
        if self.number is None or not isinstance(self.shape, Field):
            return self.text
        return self.shape.form(self.number)

    @property
    def tip(self) -> str:
        """The path of a number and all its digits."""
        return f"{self.key} = {self.exact}"
