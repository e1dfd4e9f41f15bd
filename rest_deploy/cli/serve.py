"""rest-serve: artifacts as what a server reads."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rest_deploy.artifact.files import bytes_of
from rest_deploy.cli.flags import add_options, given_options
from rest_deploy.cli.process import start
from rest_deploy.cli.terminal import OK, clean, command, parser
from rest_deploy.errors import counted
from rest_deploy.serving.config import TritonConfig


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "rest-serve",
        "Make a model repository for NVIDIA Triton of artifacts. Where tritonserver is installed, it is kept only if a "
        "server of it answers as the artifacts do.",
    )
    add = made.add_argument
    add("kind", choices=["triton"], help="the server")
    add("artifacts", nargs="+", metavar="ARTIFACT", help=".onnx file, or .engine file of TensorRT; any number")
    add("-o", "--output", required=True, metavar="FOLDER", help="to write; it must not exist")
    add_options(made, TritonConfig)
    add("--no-verify", dest="verify", action="store_false", help="do not start a server to prove it")
    add("--json", action="store_true", help="print what was made as JSON")
    return made


def _main(arguments: argparse.Namespace) -> int:
    from rest_deploy.serving.repository import PROOF, serve_triton

    config = TritonConfig(**given_options(arguments, TritonConfig))
    notes = serve_triton(arguments.artifacts, arguments.output, config, verify=arguments.verify)
    output = Path(arguments.output)
    proofs = {path.parent.name: json.loads(path.read_text("utf-8")) for path in sorted(output.glob(f"*/{PROOF}"))}
    for note in notes:
        print(f"warning: {clean(note)}", file=sys.stderr)
    if arguments.json:
        made = {"path": str(output.resolve()), "bytes": bytes_of(output), "notes": list(notes), "models": proofs}
        print(json.dumps(made, indent=2))
        return OK
    for name, proof in proofs.items():
        if proof["server"] is None:
            print(f"{name}: not proved by a server ({clean(proof['why_not'])})")
            continue
        largest = ", ".join(
            f"{max(value for own in outputs.values() for value in own.values()):.3g} {how}"
            for how, outputs in proof["largest_difference"].items()
        )
        print(
            f"{name}: proved by {clean(proof['server'])}: {counted(proof['requests'], 'request')}, "
            f"largest difference {largest}; "
            f"{counted(proof['executions'], 'execution')} of {counted(proof['images'], 'image')}"
        )
    print(f"{clean(str(output))}: {bytes_of(output) / 2**20:.1f} MiB; its README.md says how to run it")
    return OK


main = command(_main, _parser, lambda arguments: arguments.json)

if __name__ == "__main__":
    sys.exit(start("serve"))
