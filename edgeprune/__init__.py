"""From a trained classifier to a smaller one."""
