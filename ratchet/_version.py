"""The version, in the one place that has it; setup.cfg reads it without importing anything."""

__version__ = "0.1.0"
