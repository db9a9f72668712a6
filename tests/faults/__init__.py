"""Failures by rules."""
