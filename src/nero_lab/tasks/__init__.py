"""The experiments: one module each, with its data, model, loss, metric and presets."""
