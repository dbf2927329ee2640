"""Where bytes live: files and block devices that are read."""
