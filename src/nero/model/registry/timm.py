"""The registry's rows for timm, by qualified name; exceptions come first."""

from __future__ import annotations

from nero.model.registry.rows import Row

ROWS: dict[str, tuple[Row, ...]] = {}
