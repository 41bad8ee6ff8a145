"""Studies: comparisons over several tasks that settle a question by measurement."""
