"""Artifacts -> a model repository for Triton, with what starts a server of it and a client that asks it."""

from __future__ import annotations

import json
import os
import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from rest_deploy import __version__
from rest_deploy.artifact.address import Place
from rest_deploy.artifact.files import check_writable, making_folder
from rest_deploy.errors import ConfigError
from rest_deploy.runtimes.kserve import DATATYPES
from rest_deploy.serving.config import TritonConfig
from rest_deploy.serving.container import IMAGES, Container, container_of
from rest_deploy.serving.model import LABELS, Model, config_pbtxt, read_model, server_arguments
from rest_deploy.serving.proof import prove
from rest_deploy.specs import Alpha, InputKind

#: What was found when a server answered, in the folder of its model.
PROOF = "proof.json"
_TEMPLATES = Path(__file__).parent / "templates"
_NO_IMAGE = "IMAGE-OF-TRITON"
_MATRIX = "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/"


def serve_triton(
    artifacts: Sequence[str | Place], output: str | Path, config: TritonConfig, *, verify: bool = True
) -> tuple[str, ...]:
    """Make a repository of artifacts that exist.

    Args:
        artifacts: ``.onnx`` files and ``.engine`` files of TensorRT; each is a model of its file's name.
        output: Folder to write, which must not exist.
        config: How they are served.
        verify: Whether a server is to answer first, where there is one.

    Returns:
        What the user should know.

    Raises:
        ConfigError: An artifact that no server runs, two of one name, or no server at the path that was given.
        ExportError: The folder exists, or cannot be written.
        VerificationError: A server did not answer as the artifact does; nothing is kept.
    """
    if config.name is not None and len(artifacts) > 1:
        raise ConfigError(f"name {config.name}: one name, and {len(artifacts)} artifacts; rename their files instead")
    check_writable(output, folder=True)
    models = [read_model(path, config) for path in artifacts]
    first: dict[str, Model] = {}
    for model in models:
        if (other := first.setdefault(model.name, model)) is not model:
            if os.path.samefile(other.file, model.file):
                raise ConfigError(f"{model.file}: this file was given twice; give it once")
            raise ConfigError(f"{other.file} and {model.file} would both be the model {model.name}; rename one of them")
    return make_repository(models, output, verify=verify)


def make_repository(models: Sequence[Model], output: str | Path, *, verify: bool) -> tuple[str, ...]:
    """Write a repository, prove it where a server is there, and put it in place.

    Raises:
        ConfigError: Two plans need two servers.
        ExportError: As of :func:`serve_triton`.
    """
    container = container_of(models)
    assumed = (container.assumed,) if container.assumed else ()
    with making_folder(output) as folder:
        write_models(models, folder)
        proofs, notes = prove(folder, models, verify=verify)
        for model in models:
            proof = proofs[model.name]
            if assumed and model.is_plan:
                proof["assumed"] = {"container": container.assumed}
            (folder / model.name / PROOF).write_text(json.dumps(proof, indent=2) + "\n", encoding="utf-8")
        for name, text in _texts(models, container, proofs).items():
            (folder / name).write_text(text, encoding="utf-8")
    return (*notes, *assumed)


def write_models(models: Sequence[Model], folder: Path) -> None:
    """Write what Triton reads: for each model its configuration, its labels and its artifact."""
    for model in models:
        own = folder / model.name
        (own / "1").mkdir(parents=True)
        (own / "config.pbtxt").write_text(config_pbtxt(model), encoding="utf-8")
        if model.info.labels is not None:
            (own / LABELS).write_text("".join(f"{label}\n" for label in model.info.labels), encoding="utf-8")
        shutil.copyfile(model.file, own / "1" / model.file_name)


# ---- what stands beside the models


def _texts(models: Sequence[Model], container: Container, proofs: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Name of a file -> its text."""
    first, arguments = models[0], server_arguments(models)
    image, needs = container.image, container.needs
    assumed = " # assumed, see README.md" if container.assumed else ""
    gpus = any(model.on_gpu for model in models)
    common = {
        "version": __version__,
        "first": first.name,
        "arguments": "".join(f" {argument}" for argument in arguments),
    }
    read = {path.name: Template(path.read_text(encoding="utf-8")) for path in sorted(_TEMPLATES.iterdir())}
    return {
        "README.md": read["README.md"].substitute(
            common,
            rows="\n".join(_row(model, proofs[model.name]) for model in models),
            container=_container(container),
            image=image or f"{IMAGES}:YY.MM-py3",
            gpus="--gpus all " if gpus else "",
            notes="".join(f"- {note}\n" for model in models for note in _notes(model)),
        ),
        "compose.yaml": read["compose.yaml"].substitute(
            common,
            how="; TRITON_IMAGE set to another image takes that in its place"
            if image
            else f", with TRITON_IMAGE set to an image of {IMAGES}{f' whose TensorRT is {needs}' if needs else ''}",
            image=f"${{TRITON_IMAGE:-{image}}}{assumed}" if image else "${TRITON_IMAGE:?name an image, see README.md}",
            gpus=_GPUS_OF_COMPOSE if gpus else "",
        ),
        "inferenceservice.yaml": read["inferenceservice.yaml"].substitute(
            common | {"arguments": ", ".join(f'"{argument}"' for argument in arguments)},
            service=_service(first.name),
            format="tensorrt" if first.is_plan else "onnx",
            needs=f"; the image's TensorRT must be {needs}" if needs else "",
            image=f'"{image}"{assumed}'
            if image
            else f"{_NO_IMAGE} # of {IMAGES}{f', with TensorRT {needs}' if needs else ''}",
            gpus='\n          nvidia.com/gpu: "1"' if gpus else "",
        ),
        "client.py": _client(first, read["client.py.txt"]),
    }


def _container(container: Container) -> str:
    """Which image is to be taken, in words."""
    first = "Triton 2.75 or later: earlier ones may use freed memory in the dynamic batcher"
    if container.needs:
        first = f"TensorRT {container.needs}, as the plans here need it, and among these with {first}"
    if container.assumed:
        last = f"{container.assumed}. Its Triton is earlier than 2.75"
        if not container.needs.endswith("later"):
            last += "; a later one takes a plan of a later TensorRT"
    else:
        last = f"NVIDIA's support matrix ({_MATRIX}) says what is in which image"
    return textwrap.fill(
        f"Take an image of `{IMAGES}` with {first}. {last}. Name it in `TRITON_IMAGE`:",
        118,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _service(name: str) -> str:
    """Of a model's name what Kubernetes takes: lower case, digits and hyphens, a letter first, 63 at most."""
    name = re.sub("[^a-z0-9-]+", "-", name.lower()).strip("-")
    return (name if name[:1].isalpha() else f"m-{name}")[:63].strip("-")


_GPUS_OF_COMPOSE = """
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: all
              capabilities: [gpu]"""


def _row(model: Model, proof: dict[str, Any]) -> str:
    info = model.info
    gives = ", ".join(output.name for output in info.outputs)
    takes = f"{info.input.name}: {info.input.dtype} ({', '.join(map(str, info.input.shape))})"
    artifact = f"{info.model}, {info.format} {info.precision.value}"
    proved = f"by {proof['server']}" if proof["server"] else f"no: {proof['why_not']}"
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (model.name, artifact, takes, gives, proved)) + " |"


def _notes(model: Model) -> list[str]:
    info, plan = model.info, model.info.precision_plan
    notes = []
    if info.recipe.integers:
        notes.append(
            f"{model.name} takes the range of activations from all images of a call, so an answer depends a little on "
            "what it is batched with."
        )
        if plan is not None and plan.reduced_range is False:
            notes.append(
                f"{model.name} has weights of 8 bits: serve it on CPUs with VNNI alone, others add them wrongly."
            )
    return notes


def _client(model: Model, template: Template) -> str:
    info, pictures = model.info, model.info.input_kind is InputKind.PIXELS
    if pictures:
        assert info.preprocessing is not None  # of what takes pictures
        body = "    with Image.open(path) as opened:\n        image = ImageOps.exif_transpose(opened)\n"
        if info.preprocessing.alpha is Alpha.WHITE:
            body += '        if image.has_transparency_data:\n            image = image.convert("RGBA")\n'
            body += '            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)\n'
        body += '        return np.asarray(image.convert("RGB"))[None]\n'
        what = "The image as uint8 (1, height, width, 3): RGB, upright, at its own size."
    else:
        shape = ", ".join(map(str, info.input.shape))
        body = '    if not path.endswith(".npy"):\n'
        body += (
            f'        sys.exit(f"{{path}}: {model.name} takes {info.input.dtype} ({shape}); give it as a .npy file")\n'
        )
        body += f'    return np.ascontiguousarray(np.load(path), "{info.input.dtype}")\n'
        what = (
            f"What the model takes, of a .npy file: {info.input.dtype} ({shape}), as rest_deploy makes it of pictures."
        )
    return template.substitute(
        name=model.name,
        input=info.input.name,
        datatype=DATATYPES[info.input.dtype],
        imports="from PIL import Image, ImageOps\n" if pictures else "",
        pillow=" and Pillow" if pictures else "",
        what=what,
        body=body,
        labels=_listed(info.labels or ()),
    )


def _listed(labels: Sequence[str]) -> str:
    """Labels as a list of Python, ASCII alone."""
    return "[\n" + "".join(f"    {json.dumps(label)},\n" for label in labels) + "]" if labels else "[]"
