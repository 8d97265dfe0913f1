"""Lower a captured model to the files that one runtime loads."""
