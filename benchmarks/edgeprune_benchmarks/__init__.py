"""Measure artifacts: one runner everywhere, honest statistics, one record."""
