"""The command line `nero`: one module a command."""

from nero_lab.cli.app import main

__all__ = ["main"]
