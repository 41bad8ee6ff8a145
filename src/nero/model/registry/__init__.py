"""Which axes of which module's parameters count neurons: rows for torch and other libraries."""
