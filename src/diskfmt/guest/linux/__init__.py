"""What a Linux guest's files say: bytes → frozen records by pure functions, and `facts.gather` that asks them all."""
