"""What a model is made for: a device, its runtime, and what that runtime likes."""

from edgeprune.targets.reader import ALIASES, load_target, target_names
from edgeprune.targets.target import Device, Rates, Target

__all__ = ["ALIASES", "Device", "Rates", "Target", "load_target", "target_names"]
