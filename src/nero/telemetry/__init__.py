"""Telemetry: what the neurons of each layer do in a step, for records and dashboards."""

from nero.telemetry.watch import Watch, watch

__all__ = ["Watch", "watch"]
