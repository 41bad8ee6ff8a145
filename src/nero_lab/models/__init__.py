"""Architectures under study."""
