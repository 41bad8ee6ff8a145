"""Users' own tasks and optimisers, found by "package.module:Name" or "path/to/file.py:Name"."""
