"""What runs leave behind: append-only files of JSON lines."""
