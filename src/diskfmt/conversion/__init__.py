"""Converting a disk: target → plan → run → verify."""
