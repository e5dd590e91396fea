from edge.builder.report.layer_counts import count_layers, prove
from edge.engine.passport import Passport


def layer(name, tactic, datatype):
    """One entry as TensorRT's engine inspector writes it with detailed verbosity."""
    inputs = [{"Name": "x", "Dimensions": [1, 197, 768], "Format/Datatype": datatype}]
    return {"Name": name, "LayerType": "gemm", "Inputs": inputs, "TacticName": tactic}


def test_int8_products_and_fused_attentions_are_counted():
    layers = [
        layer("__myl_Quan_myl0_1", "__myl_Quan", "Half"),
        layer("qkv_myl0_2", "sm80_xmma_gemm_i8i32_i8i32_i32_tn_n_tilesize64x64", "Int8"),
        layer("fc1_myl0_3", "sm80_xmma_gemm_f16f16_f16f16_f16_tn_n", "Half"),
        layer("_gemm_mha_v2_myl0_4", "_gemm_mha_v2_0x8d31", "Half"),
        "Reformatting CopyNode for Input Tensor 0",
    ]
    assert count_layers(layers) == {"layers": 5, "int8": 1, "attention": 1}


def test_without_a_gpu_the_placement_is_proved_on_the_graph(built_engine):
    facts = dict(prove(built_engine, Passport.read(built_engine)))
    kept = len(Passport.read(built_engine).kept_fp16)
    assert facts["placement int8"].startswith(f"{8 - kept} of 8 Linears INT8 by the Q/DQ")
    assert facts["INT8 coverage"].endswith("0 of 1 classifier")
    assert "of 2 qkv" in facts["INT8 coverage"] and "0 of 4 attention" in facts["INT8 coverage"]
