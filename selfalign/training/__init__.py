"""Training: losses, packed batches, and the loop. `job` describes the work and imports no torch."""
