"""Input and situations that are made to hurt."""
