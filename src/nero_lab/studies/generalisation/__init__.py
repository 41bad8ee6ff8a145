"""Which measures of balanced networks predict how well they generalise."""
