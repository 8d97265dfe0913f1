"""Let onnxsim reduce a graph, where a user asks for it.

On graphs that were folded and tidied there is often nothing left to gain, and a
rewritten graph is one more thing that could be wrong. So what onnxsim returns is
taken only where it has fewer nodes and was held against the model again.
"""

from importlib.util import find_spec

import onnx

from edgeprune.errors import ExportError


def require_onnxsim() -> None:
    """Refuse to simplify without onnxsim.

    Raises:
        ExportError: it is not installed.
    """
    if find_spec("onnxsim") is None:
        raise ExportError("--simplify needs onnxsim: pip install 'edgeprune[simplify]'")


def simplified(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph as onnxsim reduces it; its texts are onnxsim's.

    Raises:
        ExportError: onnxsim is not installed, or fails.
    """
    require_onnxsim()
    import onnxsim

    try:
        simpler: onnx.ModelProto = onnxsim.simplify(graph, check_n=0)[0]
    except Exception as error:  # whatever its C++ met
        raise ExportError(f"onnxsim cannot simplify the graph: {error}") from error
    return simpler
