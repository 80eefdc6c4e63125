"""What keeps a lake healthy: damage found and mended, leftovers deleted."""
