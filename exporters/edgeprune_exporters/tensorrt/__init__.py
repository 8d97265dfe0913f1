"""Recipes for TensorRT engines, and the engines themselves where they can be built."""

from edgeprune_exporters.tensorrt.exporter import TensorrtExporter

__all__ = ["TensorrtExporter"]
