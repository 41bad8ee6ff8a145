"""The paper's experiments as a whole: which runs they need, and what these show."""
