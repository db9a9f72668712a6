"""Metrics for Prometheus, and health checks, on a small HTTP server. Needs the extra `metrics`."""

from __future__ import annotations

from .plugin import CannotListen, Metrics, metrics, reachable
from .process import Check

__all__ = ["CannotListen", "Check", "Metrics", "metrics", "reachable"]
