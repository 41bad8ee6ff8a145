"""Data sets, each with where it comes from and how it is split."""
