"""One module a command, each with `run(options, session)` that returns the exit code."""
