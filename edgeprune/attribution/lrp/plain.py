"""Operators that keep their own gradient under LRP, by the reason for it."""

from typing import Final

LINEAR: Final = frozenset(
    {
        # sums and means
        "add", "sub", "subtract", "rsub", "neg", "negative", "positive", "mean", "sum", "nansum",
        "cumsum", "lerp", "addcdiv", "diff", "trapezoid",
        # pieces side by side, moved, repeated
        "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "split", "chunk",
        "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk",
        "tensor_split", "unbind", "getitem", "view", "_unsafe_view", "view_as", "reshape",
        "reshape_as", "flatten", "unflatten", "ravel", "permute", "transpose", "t", "adjoint",
        "mT", "matrix_H", "numpy_T", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze",
        "unsqueeze", "expand", "expand_as", "broadcast_to", "broadcast_tensors", "repeat",
        "repeat_interleave", "tile",
        "flip", "roll", "rot90", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
        "replication_pad1d", "replication_pad2d", "replication_pad3d", "deg2rad", "rad2deg",
        "pad", "constant_pad_nd", "select", "slice", "narrow", "diagonal",
        "unfold", "im2col", "col2im", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
        "native_channel_shuffle", "tril", "triu", "select_scatter", "slice_scatter",
        # looked up or put at places that are no signal
        "index", "index_select", "index_put", "index_add", "gather", "scatter", "scatter_add",
        "take_along_dim", "where", "masked_fill", "masked_select", "copy",
        # averaged and resampled
        "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
        "adaptive_avg_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
        "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
        "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
        "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
        "grid_sampler", "grid_sampler_2d", "grid_sampler_3d",
        # spectra
        "fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_fft2", "fft_ifft2", "fft_rfft2",
        "fft_irfft2", "fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn", "fft_fftshift",
        "fft_ifftshift", "view_as_real", "view_as_complex", "real", "imag",
        # the same values
        "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "contiguous",
        "clone", "alias", "lift_fresh", "lift_fresh_copy", "to", "_to_copy", "type_as",
        "nan_to_num",
    }
)  # fmt: skip

GATED: Final = frozenset(
    {
        "mul", "multiply", "div", "divide", "true_divide", "matmul", "linalg_matmul", "bmm",
        "baddbmm", "addbmm", "addmv", "addcmul", "mv", "dot", "vdot", "inner", "outer", "ger",
        "tensordot", "einsum", "bilinear",
    }
)  # fmt: skip

PIECEWISE: Final = frozenset(
    {
        "relu", "leaky_relu", "rrelu", "prelu", "abs", "max_pool1d", "max_pool2d", "max_pool3d",
        "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
        "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "max", "min", "amax",
        "amin", "aminmax", "topk", "sort", "kthvalue", "median", "mode", "cummax", "cummin",
    }
)  # fmt: skip

LENGTHS: Final = frozenset(
    {"linalg_vector_norm", "norm", "std", "std_mean", "hypot", "_weight_norm", "copysign"}
)

WITHOUT_SIGNAL: Final = frozenset(
    {
        # constants
        "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty",
        "zeros_like", "ones_like", "full_like", "empty_like", "arange", "linspace", "eye",
        "scalar_tensor", "meshgrid", "affine_grid_generator", "embedding", "one_hot", "fill",
        "detach", "sym_size", "heaviside",
        # numbers of positions, comparisons, logic
        "argmax", "argmin", "argsort", "bucketize", "searchsorted", "count_nonzero", "nonzero",
        "eq", "ne", "lt", "le", "gt", "ge", "less", "less_equal", "greater", "greater_equal",
        "not_equal", "isclose", "isnan", "isinf", "isfinite", "all", "any", "logical_not",
        "logical_and", "logical_or", "logical_xor", "bitwise_not", "bitwise_and", "bitwise_or",
        "bitwise_xor", "__and", "__or", "__xor",
    }
)  # fmt: skip

DIVISORS: Final = frozenset({"reciprocal", "rsqrt"})

SOFTMAX: Final = frozenset({"softmax", "_softmax", "log_softmax", "logsumexp"})

FALLBACK: Final = frozenset(
    {
        # infinite at 0, where a share could be measured from
        "log", "log2", "log10", "logit", "acosh",
        # of several signals, of no degree
        "cosine_similarity", "atan2", "logaddexp", "logaddexp2", "xlogy", "remainder", "fmod",
        "floor_divide",
    }
)  # fmt: skip
