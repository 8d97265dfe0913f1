"""Fold and tidy an ONNX graph as torch.onnx translated it.

torch.onnx has an optimiser of its own, from onnxscript. One of its rules
(slices into a split) tries every pair of slices at every node, which took most of
the time of a deep model's export, and most others match nothing that this
project's graphs hold. So the same passes run here with the rules that do.
"""

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass, RewriteRule
from onnxscript.rewriter.rules import common as rules


def tidy(model: ir.Model) -> None:
    """Fold constants, fuse batch normalisation, and drop what does nothing, in place.

    Results change by rounding alone. Equal graphs end as equal graphs, names included.
    """
    common.InlinePass()(model)
    for _ in range(2):  # fusing leaves constants to fold, folding leaves shapes that do nothing
        common.ShapeInferencePass(data_prop=True)(model)  # of a fixed batch, all can be known
        optimizer.fold_constants(model)
        rewritten = RewritePass(_rules())(model).modified
        common.RemoveUnusedNodesPass()(model)
        if not rewritten:
            break
    common.RemoveUnusedOpsetsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.IdentityEliminationPass()(model)
    common.OutputFixPass()(model)  # an input or a weight cannot be the output itself
    common.NameFixPass()(model)
    for value in model.graph.initializers.values():
        if value.const_value is not None:  # what was folded still has the shape it was computed in
            value.shape = ir.Shape(value.const_value.shape.numpy())


def _rules() -> list[RewriteRule]:
    return [
        rules.mul_by_1_rule,
        rules.add_0_rule,
        rules.no_op_cast_rule,
        rules.no_op_expand_rule,
        rules.no_op_transpose_rule,
        rules.transpose_transpose_rule,
        rules.reshape_reshape_rule,
        rules.materialize_reshape_shape_rule,
        rules.collapse_slice_rule,
        rules.collapse_slice2_rule,
        rules.normalize_pad_format_conv_rule,
        rules.fuse_pad_into_conv_rule,
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
    ]
