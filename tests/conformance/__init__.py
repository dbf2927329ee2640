"""One suite for every format: whatever is in FORMATS keeps the same promises, without the suite being told of it."""
