"""Names of weights: whose they are, what stands before them, and what beside them is of no use to a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rest_deploy.errors import counted, listed
from rest_deploy.models.family import FAMILIES, Family, titles
from rest_deploy.models.inside import WRAPPERS
from rest_deploy.models.pickled import Inert, UnreadableError
from rest_deploy.models.stored import StoredTensor

if TYPE_CHECKING:
    from rest_deploy.models.weights import Entry

_WRAPPERS = re.compile("|".join(rf"{part}\." for part in WRAPPERS))
_PARTS = 8  # of a name outside that are left out to find it inside
_SHOWN = 1000  # characters of a name in a message
EXAMPLES = 3
UPDATES = ("n_averaged", "num_updates")  # an average that counts 0 of them was never updated
_COUNTERS = ("num_batches_tracked", *UPDATES, "total_ops", "total_params")
AVERAGES = ("ema", "swa", "average", "averaged", "averaging", "avg", "shadow", "polyak")
#: Words in names of what only a training uses: metrics, losses and what steps. Nothing that a picture goes through.
_TRAINING = frozenset(
    "metric metrics acc accuracy auroc auc precision recall fscore specificity confusion confmat loss losses criterion "  # noqa: SIM905
    "criterions optim optimizer optimizers scheduler".split()
)
_METRIC_STATES = ("tp", "fp", "tn", "fn", "confmat")  # of torchmetrics
_PLAIN = "v.as_subclass(torch.Tensor) if isinstance(v, torch.Tensor) else torch.as_tensor(v)"


class NoTensorError(UnreadableError):
    """An object stands where a tensor must.

    Attributes:
        expression: Python that makes a tensor of it, where ``v`` is the object; empty where only the training can.
    """

    def __init__(self, name: str, value: Inert) -> None:
        kind = _object_name(value)
        super().__init__(f"{name} is a {kind}, not a tensor")
        known = {"qtensor": "v.dequantize()", "sparse": "v.to_dense()"}
        sharded = any(part in kind for part in ("DTensor", "ShardedTensor", "torch.distributed"))
        made = next((code for part, code in known.items() if part in kind), _PLAIN)
        self.expression = "" if sharded else made
        self.entry: Entry | None = None


@dataclass(frozen=True)
class Names:
    """What a state dict holds.

    Args:
        family: Of the network.
        tensors: By the authors' names.
        prefix: What stood before them.
        told: What was done, in sentences.
        beside: Names of tensors outside of the network that it may need: a classifier, a normalization.
    """

    family: Family[Any]
    tensors: dict[str, Any]
    prefix: str
    told: tuple[str, ...]
    beside: tuple[str, ...] = ()


def authors_names(values: Mapping[str, Any], key_prefix: str | None) -> Names:
    """Take off what wrappers put before the authors' names.

    Args:
        values: Names, as they stand.
        key_prefix: What stands before those to take; None to find out.

    Raises:
        UnreadableError: Two networks, or an object where a tensor must be.
    """
    names = {name: _WRAPPERS.sub("", name) for name in values}
    told = []
    if len(set(names.values())) != len(names):
        raise UnreadableError("two of its names are one without the wrappers' parts; save model.state_dict() unwrapped")
    inner = {new: values[name] for name, new in names.items()}
    unwrapped = sorted({part for name in values for part in _WRAPPERS.findall(name)})
    prefix, family = _network(inner, key_prefix)
    inside = {name[len(prefix) :]: value for name, value in inner.items() if name.startswith(prefix)}
    outside = [name for name in inner if not name.startswith(prefix)]
    taken = [*unwrapped, *([prefix] if prefix else [])]
    if taken:
        told.append(f"prefix {' and '.join(taken)} taken off the names")
    if outside:
        told.append(f"left out: {counted(len(outside), 'value')} not under {prefix!r}: {listed(outside[:EXAMPLES])}")
    tensors: dict[str, Any] = {}
    skipped = []
    for name, value in inside.items():
        if isinstance(value, Inert) and value.args is not None and name.partition(".")[0] in family.beginnings:
            raise NoTensorError(name, value)
        if value is None or isinstance(value, (Inert, dict, list, tuple, str, bytes, int, float)):
            skipped.append(name)
        else:
            tensors[name] = value
    if skipped:
        told.append(f"left out: {counted(len(skipped), 'non-tensor value')}: {listed(skipped[:EXAMPLES])}")
    network = {name.replace(".", "") for name in inside}
    beside = [n for n in outside if isinstance(inner[n], Tensor) or is_weight(inner[n])]
    return Names(family, tensors, prefix, tuple(told), tuple(n for n in beside if not _is_of_training(n, network)))


def _network(values: Mapping[str, Any], asked: str | None) -> tuple[str, Family[Any]]:
    """What stands before the names of a network, and its family."""
    found = networks_in(values)
    if not found:
        raise UnreadableError(f"no name ends in {first_anchors()}")
    if asked is not None:
        if dotted(asked) not in found:
            raise no_such_prefix(dotted(asked), list(found))
        return dotted(asked), found[dotted(asked)]
    if len(found) > 1:
        raise UnreadableError(
            f"weights of {len(found)} networks in one state dict, which begin with {quoted(list(found))}; "
            "name one: --key-prefix PREFIX"
        )
    return next(iter(found.items()))


def networks_in(names: Iterable[str]) -> dict[str, Family[Any]]:
    """What stands before the first anchor of each family that is there -> the family."""
    names = {_WRAPPERS.sub("", name) for name in names}
    found: dict[str, Family[Any]] = {}
    for family in FAMILIES.values():
        for anchor in family.anchors:
            prefixes = {name.removesuffix(anchor) for name in names if name.endswith(anchor)}
            prefixes = {prefix for prefix in prefixes if not prefix or prefix.endswith(".")}
            for prefix in prefixes & found.keys():
                raise UnreadableError(
                    f"names that begin with {prefix!r} are those of a {found[prefix].title} and of a {family.title}; "
                    "save the weights of one of them alone"
                )
            if prefixes:
                found |= dict.fromkeys(prefixes, family)
                break
    return dict(sorted(found.items()))


def first_anchors() -> str:
    return " or ".join(family.anchors[0] for family in FAMILIES.values())


def dotted(prefix: str) -> str:
    return prefix if not prefix or prefix.endswith(".") else f"{prefix}."


def no_such_prefix(wanted: str, found: list[str]) -> UnreadableError:
    return UnreadableError(f"no weights of a {titles()} begin with {wanted!r}; they begin with {quoted(found)}")


def is_counter(name: str) -> bool:
    """Whether a name belongs to a counter or a note beside weights, which a network does not use."""
    return name.rsplit(".", 1)[-1] in _COUNTERS


def _is_of_training(name: str, network: set[str]) -> bool:
    """Whether a network does not use what stands beside it: counters, metrics, losses, an average of its weights.

    Args:
        name: Of a tensor that is not in the network.
        network: Names of the network without their dots, as some averages write them.
    """
    words = {word for part in name.split(".") for word in words_of(part)}
    if is_counter(name) or name.rsplit(".", 1)[-1] in _METRIC_STATES or words & _TRAINING:
        return True
    parts = name.split(".")
    copies = any("".join(parts[start:]) in network for start in range(1, min(len(parts), _PARTS)))
    return bool(words & set(AVERAGES)) and (copies or parts[-1] == "decay")


def _object_name(value: Inert) -> str:
    """The class of an object: arrays of NumPy name the function that makes them."""
    if value.name.endswith("multiarray._reconstruct") and value.args and isinstance(value.args[0], Inert):
        return value.args[0].name
    if value.name.endswith("_rebuild_wrapper_subclass") and value.args and isinstance(value.args[0], Inert):
        return value.args[0].name
    return value.name


def is_weight(value: Any) -> bool:
    """A tensor, or an object that stands for one: an array of NumPy, a distributed or a quantized tensor."""
    return isinstance(value, StoredTensor) or (isinstance(value, Inert) and value.args is not None)


def words_of(key: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key)]


def quoted(keys: list[str]) -> str:
    return ", ".join(repr(key[:_SHOWN]) for key in keys[:10]) + (", ..." if len(keys) > 10 else "")
