"""The sync: what to read, reading it, and what the read covers."""
