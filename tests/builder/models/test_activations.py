"""The activation of a checkpoint is any that transformers has: it is exported and quantised."""

import numpy as np
import pytest
import torch

from edge.builder import export as exporting
from edge.builder.models.checkpoint import read_checkpoint
from edge.builder.precision.sites import roles
from edge.builder.simplify import simplify
from edge.errors import GraphError
from scripts.models.tiny_models import save
from tests.builder.conftest import prepared

pytestmark = pytest.mark.slow

LABELS = ("cat", "dog", "fox")
NODE = {"gelu": True, "gelu_pytorch_tanh": True}  # of which there is one


EVERYDAY = ("quick_gelu",)  # gelu is in every other test


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.slow)
        for name in ("gelu", "gelu_pytorch_tanh", "gelu_new", "quick_gelu", "relu")
    ],
)
def test_a_vit_with_another_activation(name, tmp_path):
    found = read_checkpoint(str(save("vit", tmp_path / "vit", LABELS, hidden_act=name)))
    assert ("Gelu" in found.fused) is (name in NODE)
    model, _ = exporting.export(found, prepared())  # compares it with the checkpoint
    assert ("Gelu" in {node.op_type for node in model.graph.node}) is (name in NODE)
    simpler, _ = simplify(model, prepared())
    blocks = [f"{block}/{role}" for block in (0, 1) for role in ("qkv", "proj", "fc1", "fc2")]
    assert list(roles(simpler).values()) == blocks


def test_a_gelu_that_the_config_names_must_be_one_node(tmp_path, monkeypatch):
    found = read_checkpoint(str(save("vit", tmp_path / "vit", LABELS)))
    monkeypatch.setattr(torch.nn.functional, "gelu", lambda x: x * torch.tanh(x))
    with pytest.raises(GraphError, match="no Gelu node"):
        exporting.export(found, np.ascontiguousarray(prepared()))
