"""What attacks minimise: losses on the answer, on the Shield, on features."""
