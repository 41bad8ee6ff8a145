"""Faster forms of `nero.rule`, each tested against it."""
