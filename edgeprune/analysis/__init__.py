"""What pruning did to a model, beyond its accuracy."""

from edgeprune.analysis.heatmaps import heatmaps, mass_in_mask, similarity

__all__ = ["heatmaps", "mass_in_mask", "similarity"]
