"""Parts of a network, found by the names of nodes."""

from __future__ import annotations

import onnx
import pytest

from rest_deploy.errors import ExportError
from rest_deploy.export.precision.plan import PrecisionPlan, plan_for
from rest_deploy.models.deploy import DeployResT
from rest_deploy.specs import Precision

HALVES = [
    f"stage{stage}_{block}.{half}"
    for stage, block in ((1, 0), (2, 0), (3, 0), (3, 1), (4, 0))
    for half in ("attn", "mlp")
]


def test_parts_are_halves_of_blocks_and_the_pieces_between(tiny_deploy: DeployResT) -> None:
    plan = plan_for(tiny_deploy, Precision.FP16)
    pieces = {"stem", "patch_embed_2", "patch_embed_3", "patch_embed_4", "head"}
    assert set(plan.lowered()) == pieces | set(HALVES)
    assert plan.lowered()[:3] == ("stem", "stage1_0.attn", "stage1_0.mlp")  # in the order of the network


def test_the_deploy_form_declares_what_stays_fp32(tiny_deploy: DeployResT) -> None:
    plan = plan_for(tiny_deploy, Precision.INT8)
    declared = {part.rpartition(".")[2] for part in plan.declared}
    assert declared == {"norm", "sr_norm", "centre", "softmax", "pool"}
    assert len([part for part in plan.declared if part.endswith(".softmax")]) == 5
    assert all(plan.parts[part] is Precision.FP32 for part in plan.declared)
    assert plan.kept(Precision.INT8) == {}


def test_every_node_of_the_graph_belongs_to_a_part(tiny_deploy: DeployResT, tiny_graph: onnx.ModelProto) -> None:
    plan = plan_for(tiny_deploy, Precision.FP16)
    found = {plan.part_of(node.name) for node in tiny_graph.graph.node}
    assert found == set(plan.parts)
    kinds = {node.op_type: plan.of(node.name) for node in tiny_graph.graph.node}
    assert kinds["Softmax"] is kinds["LayerNormalization"] is kinds["Sqrt"] is Precision.FP32
    assert kinds["Conv"] is kinds["Erf"] is kinds["Gemm"] is Precision.FP16


def test_a_node_belongs_to_the_smallest_part_around_it() -> None:
    plan = PrecisionPlan({"stage1_0.attn": Precision.FP16, "stage1_0.attn.softmax": Precision.FP32})
    assert plan.part_of("stage1_0.attn.q/node_MatMul_1") == "stage1_0.attn"
    assert plan.part_of("stage1_0.attn.softmax/node_softmax") == "stage1_0.attn.softmax"
    assert plan.part_of("stage1_0.attn.q/cast:stage1_0/add/half") == "stage1_0.attn"
    with pytest.raises(ExportError, match=r"stage1_0\.attnx/node belongs to no part"):
        plan.part_of("stage1_0.attnx/node")


def test_changes_make_a_new_plan() -> None:
    plan = PrecisionPlan({"stem": Precision.INT8, "head": Precision.INT8}, half_io=True)
    changed = plan.changed(["head"], Precision.FP16)
    assert changed.kept(Precision.INT8) == {"head": Precision.FP16}
    assert (changed.half_io, plan.kept(Precision.INT8)) == (True, {})


@pytest.mark.parametrize(
    ("part", "shown"), [("stage3_1.attn", "stage3.1.attn"), ("stem", "stem"), ("patch_embed_2", "patch_embed_2")]
)
def test_parts_are_shown_by_the_authors_names(tiny_deploy: DeployResT, part: str, shown: str) -> None:
    assert plan_for(tiny_deploy, Precision.FP16).display(part) == shown
